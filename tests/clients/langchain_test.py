"""LangChain's two packages: ChatOpenAI over chat completions and responses, ChatAnthropic over messages."""

import asyncio
import unittest
from typing import Literal

import anthropic
import openai
import pydantic
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

import harness
from harness import MODEL


class Order(pydantic.BaseModel):
    """An order."""

    size: Literal["S", "M", "L"]
    express: bool


@tool
def get_weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather."""
    return "rain"


class LangchainTest(harness.ServerTest):
    def models(self, **more):
        openai_fields = {"base_url": f"{self.server.url}/v1", "api_key": "none", "max_retries": 0}
        fields = {"model": MODEL, "temperature": 0, "max_tokens": 200, **more}
        return {
            "chat": ChatOpenAI(**openai_fields, **fields, stream_usage=True),
            "responses": ChatOpenAI(**openai_fields, **fields, use_responses_api=True),
            "messages": ChatAnthropic(base_url=self.server.url, api_key="none", max_retries=0, **fields),
        }

    def each(self, test, **more):
        for name, model in self.models(**more).items():
            with self.subTest(name):
                test(model)

    def test_plain_and_streamed(self):
        def test(model):
            whole = model.invoke("Hello")
            self.assertGreater(whole.usage_metadata["input_tokens"], 0)
            streamed = None
            for chunk in model.stream("Hello"):
                streamed = chunk if streamed is None else streamed + chunk
            self.assertEqual(streamed.text, whole.text)
            self.assertEqual(streamed.usage_metadata["output_tokens"], whole.usage_metadata["output_tokens"])

        self.each(test)

    def test_tools(self):
        def test(model):
            bound = model.bind_tools([get_weather], tool_choice="any")
            message = bound.invoke("Hello")
            call = message.tool_calls[0]
            self.assertEqual(call["name"], "get_weather")
            self.assertIn(call["args"]["city"], ["Rome", "Oslo"])
            streamed = None
            for chunk in bound.stream("Hello"):
                streamed = chunk if streamed is None else streamed + chunk
            self.assertEqual(streamed.tool_calls[0]["args"], call["args"])
            results = [ToolMessage("rain", tool_call_id=one["id"]) for one in message.tool_calls]
            self.assertTrue(model.bind_tools([get_weather]).invoke([HumanMessage("Hello"), message, *results]).id)

        self.each(test)

    def test_structured_output(self):
        for name, model in self.models().items():
            for method in ["json_schema", "function_calling"]:
                with self.subTest(f"{name} {method}"):
                    self.assertIsInstance(model.with_structured_output(Order, method=method).invoke("Hello"), Order)

    def test_thinking(self):
        models = self.models(temperature=1)
        answer = models["chat"].bind(reasoning_effort="high", max_tokens=30).invoke("Hello")
        self.assertGreater(answer.usage_metadata["output_token_details"]["reasoning"], 0)
        answer = models["responses"].bind(reasoning={"effort": "high"}, max_tokens=30).invoke("Hello")
        self.assertGreater(answer.usage_metadata["output_token_details"]["reasoning"], 0)
        answer = models["messages"].bind(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=60).invoke("Hello")
        self.assertTrue(answer.content[0]["thinking"])
        self.assertTrue(models["messages"].invoke([HumanMessage("Hello"), answer, HumanMessage("Go on.")]).id)

    def test_errors(self):
        def test(model):
            with self.assertRaises((openai.BadRequestError, anthropic.BadRequestError)):
                model.invoke("word " * 70000)

        self.each(test)

    def test_cancellation(self):
        for name, model in self.models(max_tokens=60000).items():
            with self.subTest(name):
                cancelled = self.server.metric("cachalot_requests_cancelled_total")
                endless = model.bind(extra_body={"ignore_eos": True})

                async def run():
                    task = asyncio.create_task(endless.ainvoke("Hello"))
                    await asyncio.to_thread(self.assert_comes_to, "cachalot_requests_running", 1)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

                asyncio.run(run())
                self.assert_comes_to("cachalot_requests_cancelled_total", cancelled + 1)
                self.assert_comes_to("cachalot_requests_running", 0)


if __name__ == "__main__":
    unittest.main()
