"""OpenAI's agents package: its loop of calls and results, over chat completions and over responses."""

import asyncio
import unittest
from typing import Literal

import agents
import openai
import pydantic

import harness
from harness import MODEL

agents.set_tracing_disabled(True)


class Order(pydantic.BaseModel):
    size: Literal["S", "M", "L"]
    express: bool


class AgentsTest(harness.ServerTest):
    def run_agents(self, test):
        """Runs `test(model)` with a model of each API."""
        async def run(kind):
            async with openai.AsyncOpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0) as client:
                await test(kind(model=MODEL, openai_client=client))

        for kind in [agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel]:
            with self.subTest(kind.__name__):
                asyncio.run(run(kind))

    def weather_agent(self, model):
        asked = []

        @agents.function_tool
        def get_weather(city: Literal["Rome", "Oslo"], tomorrow: bool) -> str:
            asked.append((city, tomorrow))
            return "rain"

        return asked, agents.Agent(
            name="weather", instructions="Be brief.", model=model, tools=[get_weather],
            model_settings=agents.ModelSettings(tool_choice="required", parallel_tool_calls=False, temperature=0,
                                                max_tokens=200))

    def assert_asked_well(self, asked):
        self.assertGreater(len(asked), 0)
        for city, tomorrow in asked:
            self.assertIn(city, ["Rome", "Oslo"])
            self.assertIsInstance(tomorrow, bool)

    def test_a_call_its_result_and_the_answer(self):
        async def test(model):
            asked, agent = self.weather_agent(model)
            result = await agents.Runner.run(agent, "Hello", max_turns=8)
            self.assert_asked_well(asked)
            self.assertIsInstance(result.final_output, str)
            self.assertEqual(result.context_wrapper.usage.requests, len(result.raw_responses))
            self.assertGreater(result.context_wrapper.usage.input_tokens, 0)

        self.run_agents(test)

    def test_streamed(self):
        async def test(model):
            asked, agent = self.weather_agent(model)
            result = agents.Runner.run_streamed(agent, "Hello", max_turns=8)
            kinds = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
            self.assertIn("tool_called", kinds)
            self.assertIn("tool_output", kinds)
            self.assert_asked_well(asked)
            self.assertIsInstance(result.final_output, str)

        self.run_agents(test)

    def test_thinking(self):
        async def test(model):
            asked, agent = self.weather_agent(model)
            agent.tool_use_behavior = "stop_on_first_tool"
            end = {str(self.token("</think>")): 5}
            agent.model_settings = agents.ModelSettings(
                tool_choice="required", temperature=1, max_tokens=400, reasoning={"effort": "high"},
                extra_body={"seed": 1, "logit_bias": end})
            result = await agents.Runner.run(agent, "Hello", max_turns=8)
            self.assert_asked_well(asked)
            self.assertGreater(result.context_wrapper.usage.output_tokens_details.reasoning_tokens, 0)

        self.run_agents(test)

    def test_structured_output(self):
        async def test(model):
            agent = agents.Agent(name="orders", model=model, output_type=Order,
                                 model_settings=agents.ModelSettings(temperature=0, max_tokens=200))
            result = await agents.Runner.run(agent, "Hello")
            self.assertIsInstance(result.final_output, Order)

        self.run_agents(test)

    def test_errors(self):
        async def test(model):
            agent = agents.Agent(name="wrong", model=model, model_settings=agents.ModelSettings(temperature=-1))
            with self.assertRaises(openai.BadRequestError):
                await agents.Runner.run(agent, "Hello")

        self.run_agents(test)

    def test_cancellation(self):
        async def test(model):
            cancelled = self.server.metric("cachalot_requests_cancelled_total")
            agent = agents.Agent(name="endless", model=model, model_settings=agents.ModelSettings(
                max_tokens=60000, extra_body={"ignore_eos": True}))
            task = asyncio.create_task(agents.Runner.run(agent, "Hello"))
            await asyncio.to_thread(self.assert_comes_to, "cachalot_requests_running", 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.assert_comes_to("cachalot_requests_cancelled_total", cancelled + 1)
            self.assert_comes_to("cachalot_requests_running", 0)

        self.run_agents(test)


if __name__ == "__main__":
    unittest.main()
