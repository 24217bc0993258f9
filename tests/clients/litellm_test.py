"""LiteLLM, through which many clients speak: as OpenAI's server, as Anthropic's, and between the two."""

import asyncio
import json
import os
import unittest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched

import litellm

import harness
from harness import MODEL

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "function",
           "function": {"name": "get_weather", "description": "The weather", "parameters": harness.WEATHER_SCHEMA}}
litellm.telemetry = False
litellm.suppress_debug_info = True


class LitellmTest(harness.ServerTest):
    def fields(self, provider, **more):
        base = self.server.url + ("/v1" if provider != "anthropic" else "")
        return {"model": f"{provider}/{MODEL}", "messages": HELLO, "api_base": base, "api_key": "none", "max_tokens": 40,
                "temperature": 0, "num_retries": 0, **more}

    def each(self, test):
        for provider in ["openai", "anthropic"]:
            with self.subTest(provider):
                test(lambda **more: litellm.completion(**self.fields(provider, **more)))

    def test_plain_and_streamed(self):
        def test(complete):
            whole = complete()
            self.assertGreater(whole.usage.prompt_tokens, 0)
            chunks = list(complete(stream=True, stream_options={"include_usage": True}))
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            self.assertEqual(text, whole.choices[0].message.content)
            usages = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
            self.assertEqual(usages[-1].completion_tokens, whole.usage.completion_tokens)
            self.assertEqual(usages[-1].prompt_tokens, whole.usage.prompt_tokens)

        self.each(test)

    def test_tools(self):
        def test(complete):
            fields = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
            whole = complete(**fields).choices[0]
            self.assertEqual(whole.finish_reason, "tool_calls")
            self.assert_is_weather(whole.message.tool_calls[0].function.arguments)
            streamed = litellm.stream_chunk_builder(list(complete(stream=True, **fields))).choices[0]
            self.assertEqual(json.loads(streamed.message.tool_calls[0].function.arguments),
                             json.loads(whole.message.tool_calls[0].function.arguments))
            self.assertEqual(streamed.finish_reason, "tool_calls")
            result = {"role": "tool", "tool_call_id": whole.message.tool_calls[0].id, "content": "rain"}
            self.assertTrue(complete(messages=[*HELLO, whole.message, result], tools=[WEATHER]).id)

        self.each(test)

    def test_thinking(self):
        for provider, how in [("openai", {"extra_body": {"thinking": {"type": "enabled"}}}),
                              ("anthropic", {"thinking": {"type": "enabled", "budget_tokens": 1024}, "temperature": 1,
                                             "allowed_openai_params": ["thinking"]})]:
            fields = self.fields(provider, **{"max_tokens": 60, **how})
            self.assertTrue(litellm.completion(**fields).choices[0].message.reasoning_content, provider)
            streamed = litellm.stream_chunk_builder(list(litellm.completion(stream=True, **fields)))
            self.assertTrue(streamed.choices[0].message.reasoning_content, provider)

    def test_structured_output(self):
        schema = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": harness.CLOCK_SCHEMA}}

        def test(complete):
            text = complete(response_format=schema, max_tokens=200).choices[0].message.content
            self.assertIsInstance(json.loads(text)["utc"], bool)

        self.each(test)

    def test_errors(self):
        def test(complete):
            with self.assertRaises(litellm.ContextWindowExceededError):
                complete(messages=[{"role": "user", "content": "word " * 70000}])
            with self.assertRaises(litellm.BadRequestError):
                complete(temperature=-1)

        self.each(test)
        with self.assertRaises(litellm.NotFoundError):
            litellm.completion(**self.fields("openai", model="openai/other"))

    def test_cancellation(self):
        cancelled = self.server.metric("cachalot_requests_cancelled_total")

        async def run():
            stream = await litellm.acompletion(**self.fields("openai", max_tokens=60000, stream=True,
                                                             extra_body={"ignore_eos": True}))
            async for _ in stream:
                break
            await stream.aclose()

        asyncio.run(run())
        self.assert_comes_to("cachalot_requests_cancelled_total", cancelled + 1)

    def test_responses_and_messages(self):
        base = {"api_base": f"{self.server.url}/v1", "api_key": "none"}
        answer = litellm.responses(model=f"openai/{MODEL}", input="Hello", max_output_tokens=20, **base)
        self.assertGreater(answer.usage.output_tokens, 0)

        async def messages():
            return await litellm.anthropic.messages.acreate(model=f"openai/{MODEL}", messages=HELLO, max_tokens=20, **base)

        self.assertEqual(asyncio.run(messages())["role"], "assistant")

    def test_text_completion(self):
        answer = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="In the beginning", max_tokens=5,
                                         api_base=f"{self.server.url}/v1", api_key="none")
        self.assertGreater(answer.usage.completion_tokens, 0)


if __name__ == "__main__":
    unittest.main()
