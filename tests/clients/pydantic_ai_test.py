"""Pydantic AI over chat completions, responses and messages."""

import asyncio
import unittest
from typing import Literal

import pydantic
import pydantic_ai
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

import harness
from harness import MODEL

SETTINGS = {"temperature": 0, "max_tokens": 300}


class Order(pydantic.BaseModel):
    size: Literal["S", "M", "L"]
    express: bool


class PydanticAiTest(harness.ServerTest):
    def run_models(self, test):
        """Runs `test(model)` with a model of each API."""
        openai = {"base_url": f"{self.server.url}/v1", "api_key": "none"}
        for make in [lambda: OpenAIChatModel(MODEL, provider=OpenAIProvider(**openai)),
                     lambda: OpenAIResponsesModel(MODEL, provider=OpenAIProvider(**openai)),
                     lambda: AnthropicModel(MODEL, provider=AnthropicProvider(base_url=self.server.url, api_key="none"))]:
            async def run():
                await test(make())

            with self.subTest(type(make()).__name__):
                asyncio.run(run())

    def test_plain_and_streamed(self):
        async def test(model):
            agent = pydantic_ai.Agent(model, model_settings=SETTINGS)
            whole = await agent.run("Hello")
            self.assertIsInstance(whole.output, str)
            async with agent.run_stream("Hello") as stream:
                text = "".join([piece async for piece in stream.stream_text(delta=True)])
            self.assertEqual(text, whole.output)
            self.assertGreater(whole.usage.output_tokens, 0)

        self.run_models(test)

    def test_output_by_tool_and_by_schema(self):
        async def test(model):
            outputs = [pydantic_ai.ToolOutput(Order)]
            # It sends Anthropic's schemas to models of names that it knows alone.
            if not isinstance(model, AnthropicModel):
                outputs.append(pydantic_ai.NativeOutput(Order))
            for output in outputs:
                result = await pydantic_ai.Agent(model, output_type=output, model_settings=SETTINGS).run("Hello")
                self.assertIsInstance(result.output, Order)

        self.run_models(test)

    def test_a_history_is_taken_up(self):
        async def test(model):
            agent = pydantic_ai.Agent(model, output_type=pydantic_ai.ToolOutput(Order), model_settings=SETTINGS)
            first = await agent.run("Hello")
            second = await agent.run("Again", message_history=first.all_messages())
            self.assertIsInstance(second.output, Order)
            self.assertGreater(second.usage.input_tokens, first.usage.input_tokens)

        self.run_models(test)

    def test_errors(self):
        async def test(model):
            with self.assertRaises(pydantic_ai.exceptions.ModelHTTPError) as caught:
                await pydantic_ai.Agent(model).run("word " * 70000)
            self.assertEqual(caught.exception.status_code, 400)

        self.run_models(test)


if __name__ == "__main__":
    unittest.main()
