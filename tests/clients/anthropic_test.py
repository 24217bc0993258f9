"""The anthropic package, as its users write it: messages whole and streamed, counting tokens, models."""

import asyncio
import json
import unittest

import anthropic
import pydantic

import harness
from harness import MODEL

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"name": "get_weather", "description": "The weather", "input_schema": harness.WEATHER_SCHEMA}
CLOCK = {"name": "get_time", "input_schema": harness.CLOCK_SCHEMA}
THINKS = {"type": "enabled", "budget_tokens": 1024}
ENDLESS = {"max_tokens": 60000, "extra_body": {"ignore_eos": True}}


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    count: int
    express: bool


class AnthropicTest(harness.ServerTest):
    def setUp(self):
        self.client = anthropic.Anthropic(base_url=self.server.url, api_key="none", max_retries=0)
        self.addCleanup(self.client.close)

    def ask(self, messages=None, **fields):
        return self.client.messages.create(model=MODEL, messages=messages or HELLO,
                                           **self.body({"max_tokens": 40, **fields}))

    @staticmethod
    def body(fields):
        """What newer packages no longer name goes beside."""
        extra = {"temperature": 0, **fields.pop("extra_body", {})}
        return {**fields, "extra_body": extra}

    def stream(self, **fields):
        """(kinds of event, the message they add up to)"""
        with self.client.messages.stream(model=MODEL, messages=HELLO,
                                         **self.body({"max_tokens": 40, **fields})) as stream:
            kinds = [event.type for event in stream]
            return kinds, stream.get_final_message()

    def text(self, message):
        return "".join(block.text for block in message.content if block.type == "text")


class Messages(AnthropicTest):
    def test_plain(self):
        message = self.ask(system="Be brief.")
        self.assertTrue(message.id.startswith("msg_"))
        self.assertEqual((message.type, message.role, message.model), ("message", "assistant", MODEL))
        self.assertIn(message.stop_reason, ["end_turn", "max_tokens"])
        usage = message.usage
        self.assertGreater(usage.input_tokens + usage.cache_read_input_tokens, 0)
        self.assertIsNotNone(usage.cache_creation_input_tokens)
        self.assertGreater(usage.output_tokens, 0)

    def test_a_stream_says_what_the_whole_says(self):
        whole = self.ask()
        kinds, streamed = self.stream()
        self.assertEqual(self.text(streamed), self.text(whole))
        self.assertEqual(streamed.stop_reason, whole.stop_reason)
        self.assertEqual(streamed.usage.output_tokens, whole.usage.output_tokens)
        self.assertEqual((kinds[0], kinds[-1]), ("message_start", "message_stop"))
        for once in ["message_start", "message_delta", "message_stop"]:
            self.assertEqual(kinds.count(once), 1)

    def test_raw_events_come_in_order(self):
        open_block = None
        for event in self.ask(stream=True, thinking=THINKS, max_tokens=30):
            if event.type == "message_start":
                usage = event.message.usage
                self.assertGreater(usage.input_tokens + usage.cache_read_input_tokens, 0)
            if event.type == "content_block_start":
                self.assertIsNone(open_block)
                open_block = (event.index, event.content_block.type)
            if event.type == "content_block_delta":
                kind = {"thinking_delta": "thinking", "signature_delta": "thinking", "text_delta": "text"}
                self.assertEqual((event.index, kind[event.delta.type]), open_block)
            if event.type == "content_block_stop":
                self.assertEqual(event.index, open_block[0])
                open_block = None
        self.assertIsNone(open_block)

    def test_limit_and_stop_sequence(self):
        self.assertEqual(self.ask(max_tokens=3, extra_body={"ignore_eos": True}).stop_reason, "max_tokens")
        text = self.text(self.ask())
        stop = text[len(text) // 2:len(text) // 2 + 2]
        message = self.ask(stop_sequences=[stop])
        self.assertEqual((message.stop_reason, message.stop_sequence), ("stop_sequence", stop))
        self.assertEqual(self.text(message), text[:text.index(stop)])

    def test_any_tool_and_its_result(self):
        fields = {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
                  "max_tokens": 300}
        message = self.ask(**fields)
        self.assertEqual(message.stop_reason, "tool_use")
        calls = [block for block in message.content if block.type == "tool_use"]
        self.assertEqual([call.name for call in calls], ["get_weather"])
        self.assert_is_weather(calls[0].input)
        _, streamed = self.stream(**fields)
        self.assertEqual([block.input for block in streamed.content if block.type == "tool_use"], [calls[0].input])
        result = {"type": "tool_result", "tool_use_id": calls[0].id, "content": [{"type": "text", "text": "rain"}]}
        after = self.ask([*HELLO, {"role": "assistant", "content": message.content},
                          {"role": "user", "content": [result]}], tools=[WEATHER])
        self.assertGreater(after.usage.cache_read_input_tokens, 0)

    def test_named_tool(self):
        message = self.ask(tools=[WEATHER, CLOCK], tool_choice={"type": "tool", "name": "get_time"}, max_tokens=300)
        call = next(block for block in message.content if block.type == "tool_use")
        self.assertEqual((call.name, list(call.input)), ("get_time", ["utc"]))

    def test_parallel_tools(self):
        for seed in range(40):
            fields = {"tools": [WEATHER, CLOCK], "tool_choice": {"type": "any"}, "max_tokens": 600,
                      "extra_body": {"temperature": 1000, "seed": seed}}
            message = self.ask(**fields)
            calls = [block for block in message.content if block.type == "tool_use"]
            if message.stop_reason == "tool_use" and len(calls) > 1:
                break
        self.assertGreater(len(calls), 1)
        self.assertEqual(len({call.id for call in calls}), len(calls))
        _, streamed = self.stream(**fields)
        self.assertEqual([(block.name, block.input) for block in streamed.content if block.type == "tool_use"],
                         [(call.name, call.input) for call in calls])

    def test_thinking(self):
        fields = {"thinking": THINKS, "max_tokens": 1025, "extra_body": {
            "temperature": 1, "seed": 1, "logit_bias": {str(self.token("</think>")): harness.end_bias()}}}
        message = self.ask(**fields)
        self.assertEqual(message.content[0].type, "thinking")
        self.assertTrue(message.content[0].thinking)
        self.assertTrue(message.content[0].signature)
        kinds, streamed = self.stream(**fields)
        self.assertIn("thinking", kinds)
        self.assertEqual(streamed.content[0].thinking, message.content[0].thinking)
        self.assertTrue(streamed.content[0].signature)
        # It is sent back as it came.
        self.ask([*HELLO, {"role": "assistant", "content": message.content}, *HELLO], thinking=THINKS)
        hidden = self.ask(**{**fields, "thinking": {"type": "disabled"}})
        self.assertNotIn("thinking", [block.type for block in hidden.content])

    def test_structured_output(self):
        message = self.client.messages.parse(model=MODEL, messages=HELLO, max_tokens=200, output_format=Order)
        self.assertIsInstance(message.parsed_output, Order)
        schema = {"type": "object", "properties": {"size": {"enum": ["S", "M"]}}, "required": ["size"],
                  "additionalProperties": False}
        message = self.ask(extra_body={"output_config": {"format": {"type": "json_schema", "schema": schema}}},
                           max_tokens=200)
        self.assertIn(json.loads(self.text(message))["size"], ["S", "M"])

    def test_counting_is_what_messages_say(self):
        body = {"model": MODEL, "messages": HELLO, "system": "Be brief.", "tools": [WEATHER, CLOCK]}
        counted = self.client.messages.count_tokens(**body).input_tokens
        usage = self.client.messages.create(**body, max_tokens=1).usage
        self.assertEqual(usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens, counted)

    def test_a_changing_billing_header_keeps_the_cache(self):
        def usage(number):
            system = [{"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; cch={number};"},
                      {"type": "text", "text": "You are an agent. " * 500}]
            return self.ask(system=system, max_tokens=1).usage

        usage("a1b2c")
        again = usage("ffff0")
        self.assertGreater(again.cache_read_input_tokens, 0.9 * (again.input_tokens + again.cache_read_input_tokens))


class Errors(AnthropicTest):
    def test_each_in_its_shape(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.ask(extra_body={"temperature": -1})
        self.assertEqual(caught.exception.body["type"], "error")
        self.assertEqual(caught.exception.body["error"]["type"], "invalid_request_error")
        self.assertIn("temperature", caught.exception.body["error"]["message"])
        self.assertTrue(caught.exception.request_id)
        self.assertEqual(caught.exception.body["request_id"], caught.exception.request_id)
        with self.assertRaises(anthropic.BadRequestError):
            self.ask(tools=[WEATHER], tool_choice={"type": "tool", "name": "x"})

    def test_too_long_a_prompt(self):
        with self.assertRaisesRegex(anthropic.BadRequestError, r"prompt is too long: \d+ tokens > 65536 maximum"):
            self.ask([{"role": "user", "content": "word " * 70000}])

    def test_names_of_models(self):
        # Agents ask for models by names of their own.
        self.assertEqual(self.client.messages.create(model="claude-sonnet-4-5", messages=HELLO, max_tokens=1).role,
                         "assistant")
        self.assertIn(MODEL, [model.id for model in self.client.models.list()])


class Cancellation(AnthropicTest):
    def setUp(self):
        super().setUp()
        self.cancelled = self.server.metric("cachalot_requests_cancelled_total")

    def assert_was_cancelled(self):
        self.assert_comes_to("cachalot_requests_cancelled_total", self.cancelled + 1)
        self.assert_comes_to("cachalot_requests_running", 0)

    def test_a_stream_that_is_left(self):
        with self.client.messages.stream(model=MODEL, messages=HELLO, **ENDLESS) as stream:
            for _, _ in zip(range(5), stream.text_stream):
                pass
        self.assert_was_cancelled()

    def test_a_task_that_is_cancelled_leaves_the_others(self):
        alone = self.text(self.ask())

        async def run():
            async with anthropic.AsyncAnthropic(base_url=self.server.url, api_key="none", timeout=600) as client:
                task = asyncio.create_task(client.messages.create(model=MODEL, messages=HELLO, **ENDLESS))
                await asyncio.to_thread(self.assert_comes_to, "cachalot_requests_running", 1)
                others = [asyncio.create_task(client.messages.create(model=MODEL, messages=HELLO,
                                                                     **self.body({"max_tokens": 40})))
                          for _ in range(4)]
                await asyncio.sleep(0.05)
                task.cancel()
                return [self.text(message) for message in await asyncio.gather(*others)]

        self.assertEqual(asyncio.run(run()), [alone] * 4)
        self.assert_was_cancelled()


if __name__ == "__main__":
    unittest.main()
