"""The openai package, as its users write it: chat completions, responses, completions, models."""

import asyncio
import json
import unittest

import openai
import pydantic

import harness
from harness import MODEL

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "function",
           "function": {"name": "get_weather", "description": "The weather", "parameters": harness.WEATHER_SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": harness.CLOCK_SCHEMA}}
FLAT_WEATHER = {"type": "function", "name": "get_weather", "parameters": harness.WEATHER_SCHEMA, "strict": True}
USAGE = {"include_usage": True}


class Order(pydantic.BaseModel):
    """What structured answers are."""

    model_config = pydantic.ConfigDict(extra="forbid")
    size: str = pydantic.Field(json_schema_extra={"enum": ["S", "M", "L"]})
    count: int = pydantic.Field(ge=1, le=99)
    express: bool


class OpenaiTest(harness.ServerTest):
    def setUp(self):
        self.client = openai.OpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0)
        self.addCleanup(self.client.close)

    def chat(self, messages=None, **fields):
        return self.client.chat.completions.create(model=MODEL, messages=messages or HELLO,
                                                   **{"temperature": 0, "max_tokens": 40, **fields})

    def ends_thinking(self):
        """Fields under which a small model thinks, and comes to an end of it."""
        return {"reasoning_effort": "high", "logit_bias": {str(self.token("</think>")): harness.end_bias()}}


class Chat(OpenaiTest):
    def test_plain(self):
        answer = self.chat()
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertGreater(answer.created, 0)
        self.assertEqual((answer.object, answer.model, len(answer.choices)), ("chat.completion", MODEL, 1))
        choice = answer.choices[0]
        self.assertEqual((choice.index, choice.message.role, choice.message.tool_calls), (0, "assistant", None))
        self.assertIsInstance(choice.message.content, str)
        self.assertIn(choice.finish_reason, ["stop", "length"])
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertGreaterEqual(usage.prompt_tokens_details.cached_tokens, 0)
        self.assertEqual(usage.completion_tokens_details.reasoning_tokens, 0)

    def test_a_stream_says_what_the_whole_says(self):
        fields = {"n": 2, "seed": 5, "temperature": 1}
        whole = self.chat(**fields)
        texts, ends = ["", ""], [[], []]
        chunks = list(self.chat(stream=True, stream_options=USAGE, **fields))
        for chunk in chunks[:-1]:
            self.assertIsNone(chunk.usage)
            for choice in chunk.choices:
                self.assertEqual(ends[choice.index], [], "a chunk after the end")
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason is not None:
                    ends[choice.index].append(choice.finish_reason)
                    self.assertFalse(choice.delta.content)
        self.assertEqual(texts, [choice.message.content for choice in whole.choices])
        self.assertEqual(ends, [[choice.finish_reason] for choice in whole.choices])
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)

    def test_the_streaming_helper(self):
        # It takes an answer that is cut for an error, so this one ends by itself.
        fields = {"temperature": 0, "extra_body": {"guided_regex": "[a-c]{12}"}}
        with self.client.chat.completions.stream(model=MODEL, messages=HELLO, stream_options=USAGE,
                                                 **fields) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        whole = self.chat(**fields)
        self.assertIn("content.delta", kinds)
        self.assertEqual(final.choices[0].message.content, whole.choices[0].message.content)
        self.assertEqual(final.usage.completion_tokens, whole.usage.completion_tokens)

    def test_a_limit_ends_as_length(self):
        answer = self.chat(max_tokens=3, extra_body={"ignore_eos": True})
        self.assertEqual((answer.choices[0].finish_reason, answer.usage.completion_tokens), ("length", 3))

    def test_stop(self):
        text = self.chat().choices[0].message.content
        stop = text[len(text) // 2:len(text) // 2 + 2]
        answer = self.chat(stop=[stop])
        self.assertEqual(answer.choices[0].message.content, text[:text.index(stop)])
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_logprobs(self):
        content = self.chat(logprobs=True, top_logprobs=3, max_tokens=5).choices[0].logprobs.content
        self.assertGreater(len(content), 0)
        for token in content:
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertEqual(token.logprob, token.top_logprobs[0].logprob)
            self.assertLessEqual(token.logprob, 0)

    def test_required_tool(self):
        answer = self.chat(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=300)
        choice = answer.choices[0]
        self.assertEqual((choice.finish_reason, choice.message.content), ("tool_calls", None))
        self.assertEqual(len(choice.message.tool_calls), 1)
        call = choice.message.tool_calls[0]
        self.assertEqual((call.type, call.function.name), ("function", "get_weather"))
        self.assert_is_weather(call.function.arguments)

    def test_named_tool(self):
        for named in [{"type": "function", "function": {"name": "get_time"}},
                      {"type": "allowed_tools", "allowed_tools": {
                          "mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}}]:
            answer = self.chat(tools=[WEATHER, CLOCK], tool_choice=named, parallel_tool_calls=False, max_tokens=300)
            call = answer.choices[0].message.tool_calls[0]
            self.assertEqual(call.function.name, "get_time")
            self.assertIsInstance(json.loads(call.function.arguments)["utc"], bool)

    def test_a_named_tool_is_called_once(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        for seed in range(8):
            answer = self.chat(tools=[WEATHER, CLOCK], tool_choice=named, max_tokens=600, seed=seed, temperature=1000)
            calls = answer.choices[0].message.tool_calls
            self.assertEqual([call.function.name for call in calls], ["get_weather"])

    def test_no_tool(self):
        answer = self.chat(tools=[WEATHER], tool_choice="none")
        self.assertIsNone(answer.choices[0].message.tool_calls)

    def parallel(self):
        """Fields under which an answer has several calls, and that answer."""
        for seed in range(40):
            fields = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "max_tokens": 600, "seed": seed,
                      "temperature": 1000}
            answer = self.chat(**fields)
            if answer.choices[0].finish_reason == "tool_calls" and len(answer.choices[0].message.tool_calls) > 1:
                return fields, answer
        self.fail("no answer with two calls")

    def test_parallel_tools_streamed_and_answered(self):
        fields, whole = self.parallel()
        message = whole.choices[0].message
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls]
        with self.client.chat.completions.stream(model=MODEL, messages=HELLO, **fields) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_completion().choices[0]
        self.assertEqual(streamed.finish_reason, "tool_calls")
        self.assertEqual([(call.function.name, call.function.arguments) for call in streamed.message.tool_calls], calls)
        self.assertEqual(len({call.id for call in message.tool_calls}), len(calls))
        for name, arguments in calls:
            if name == "get_weather":
                self.assert_is_weather(arguments)
            else:
                self.assertEqual(list(json.loads(arguments)), ["utc"])
        results = [{"role": "tool", "tool_call_id": call.id, "content": "12:30, rain"} for call in message.tool_calls]
        after = self.chat([*HELLO, message, *results], tools=[WEATHER, CLOCK])
        self.assertGreater(after.usage.prompt_tokens, whole.usage.prompt_tokens)
        # What was said before is in the cache.
        self.assertGreater(after.usage.prompt_tokens_details.cached_tokens, 0)

    def test_a_call_that_is_cut_is_none(self):
        fields = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 12}
        choice = self.chat(**fields).choices[0]
        self.assertEqual((choice.finish_reason, choice.message.tool_calls), ("length", None))
        self.assertNotIn("DSML", choice.message.content or "")
        for chunk in self.chat(stream=True, **fields):
            self.assertNotIn("DSML", chunk.to_json())

    def test_thinking(self):
        fields = {"reasoning_effort": "high", "max_tokens": 20, "extra_body": {"ignore_eos": True}}
        answer = self.chat(**fields)
        message = answer.choices[0].message
        self.assertEqual(message.reasoning_content, message.reasoning)
        self.assertGreater(len(message.reasoning_content), 0)
        self.assertGreater(answer.usage.completion_tokens_details.reasoning_tokens, 0)
        streamed = ""
        for chunk in self.chat(stream=True, **fields):
            streamed += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
        self.assertEqual(streamed, message.reasoning_content)
        for off in [{"reasoning_effort": "none"}, {"extra_body": {"thinking": {"type": "disabled"}}},
                    {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}]:
            self.assertFalse(hasattr(self.chat(**off).choices[0].message, "reasoning_content"), off)

    def test_thinking_is_sent_back(self):
        # After a call the reasoning stays part of the prompt.
        call = {"id": "call_1", "type": "function",
                "function": {"name": "get_time", "arguments": json.dumps({"utc": True})}}

        def prompt_tokens(**reasoning):
            said = {"role": "assistant", "content": None, "tool_calls": [call], **reasoning}
            messages = [*HELLO, said, {"role": "tool", "tool_call_id": "call_1", "content": "noon"}]
            return self.chat(messages, tools=[CLOCK], reasoning_effort="high",
                             max_tokens=1).usage.prompt_tokens

        without = prompt_tokens()
        self.assertGreater(prompt_tokens(reasoning_content="Let me look."), without)
        self.assertEqual(prompt_tokens(reasoning="Let me look."), prompt_tokens(reasoning_content="Let me look."))

    def test_structured_output(self):
        answer = self.client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Order, max_tokens=200,
                                                    temperature=0)
        self.assertIsInstance(answer.choices[0].message.parsed, Order)
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_structured_output_streamed(self):
        with self.client.chat.completions.stream(model=MODEL, messages=HELLO, response_format=Order, max_tokens=200,
                                                 temperature=2, seed=3) as stream:
            for _ in stream:
                pass
            self.assertIsInstance(stream.get_final_completion().choices[0].message.parsed, Order)

    def test_structured_output_after_thinking(self):
        answer = self.client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Order, max_tokens=250,
                                                    temperature=1, seed=1, **self.ends_thinking())
        message = answer.choices[0].message
        self.assertIsInstance(message.parsed, Order)
        self.assertGreater(len(message.reasoning_content), 0)

    def test_tools_after_thinking(self):
        answer = self.chat(tools=[WEATHER], tool_choice="required", max_tokens=300, temperature=1, seed=1,
                           **self.ends_thinking())
        message = answer.choices[0].message
        self.assert_is_weather(message.tool_calls[0].function.arguments)
        self.assertGreater(len(message.reasoning_content), 0)

    def test_constraints_under_other_servers_names(self):
        for field, check in [({"guided_choice": ["yes", "no"]}, lambda text: text in ["yes", "no"]),
                             ({"guided_regex": "[a-c]{3}"}, lambda text: len(text) == 3 and set(text) <= set("abc")),
                             ({"structured_outputs": {"json": {"type": "boolean"}}}, lambda t: t in ["true", "false"])]:
            text = self.chat(extra_body=field).choices[0].message.content
            self.assertTrue(check(text), f"{field}: {text}")
        answer = self.chat(response_format={"type": "json_object"}, temperature=1, seed=2, max_tokens=200).choices[0]
        if answer.finish_reason == "stop":
            self.assertIsInstance(json.loads(answer.message.content), dict)

    def test_usage_adds_up(self):
        names = ["prompt_tokens", "cached_prompt_tokens", "completion_tokens", "reasoning_tokens"]
        before = [self.server.metric(f"cachalot_{name}_total") for name in names]
        sums = [0] * 4
        for fields in [{}, {"n": 3}, {"reasoning_effort": "high"}, {"stream": True, "stream_options": USAGE}]:
            answer = self.chat(seed=1, temperature=1, **fields)
            usage = answer.usage if "stream" not in fields else list(answer)[-1].usage
            for i, value in enumerate([usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens,
                                       usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens]):
                sums[i] += value
        after = [self.server.metric(f"cachalot_{name}_total") for name in names]
        self.assertEqual([b - a for a, b in zip(before, after)], sums)
        _, tokens = self.server.post("/tokenize", {"messages": HELLO})
        self.assertEqual(tokens["count"], self.chat(max_tokens=1).usage.prompt_tokens)


class Errors(OpenaiTest):
    def test_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.chat.completions.create(model="gpt-4o", messages=HELLO)
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("gpt-4o")

    def test_refused_by_name(self):
        for fields, name in [({"n": 1000}, "n"), ({"temperature": -1}, "temperature"),
                             ({"reasoning_effort": "huge"}, "reasoning_effort"),
                             ({"logit_bias": {"9999999": 1}}, "logit_bias"),
                             ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
                              "tool_choice")]:
            with self.assertRaises(openai.BadRequestError) as caught:
                self.chat(**fields)
            self.assertEqual(caught.exception.param, name)
            self.assertTrue(caught.exception.request_id)
        schema = {"type": "object", "properties": {"a": {"type": "number", "multipleOf": 3}}}
        with self.assertRaisesRegex(openai.BadRequestError, "multipleOf"):
            self.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.responses.create(model=MODEL, input="Hello", previous_response_id="resp_1")
        self.assertEqual(caught.exception.param, "previous_response_id")

    def test_too_long_a_prompt(self):
        long = [{"role": "user", "content": "word " * 70000}]
        for stream in [False, True]:
            with self.assertRaisesRegex(openai.BadRequestError, "maximum context length is 65536 tokens") as caught:
                self.chat(long, stream=stream)
            self.assertEqual(caught.exception.code, "context_length_exceeded")


class Cancellation(OpenaiTest):
    def setUp(self):
        super().setUp()
        self.cancelled = self.server.metric("cachalot_requests_cancelled_total")

    def assert_was_cancelled(self):
        self.assert_comes_to("cachalot_requests_cancelled_total", self.cancelled + 1)
        self.assert_comes_to("cachalot_requests_running", 0)

    def endless(self, client, **fields):
        return client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=60000,
                                              extra_body={"ignore_eos": True}, **fields)

    def test_a_stream_that_is_closed(self):
        stream = self.endless(self.client, stream=True)
        for _, _ in zip(range(5), stream):
            pass
        stream.close()
        self.assert_was_cancelled()

    def test_a_plain_call_that_times_out(self):
        with self.assertRaises(openai.APITimeoutError):
            self.endless(self.client.with_options(timeout=0.5))
        self.assert_was_cancelled()

    def test_a_task_that_is_cancelled_leaves_the_others(self):
        alone = self.chat().choices[0].message.content

        async def run():
            async with openai.AsyncOpenAI(base_url=f"{self.server.url}/v1", api_key="none") as client:
                task = asyncio.create_task(self.endless(client))
                await asyncio.to_thread(self.assert_comes_to, "cachalot_requests_running", 1)
                others = [asyncio.create_task(client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0,
                                                                             max_tokens=40)) for _ in range(4)]
                await asyncio.sleep(0.05)
                task.cancel()
                return [answer.choices[0].message.content for answer in await asyncio.gather(*others)]

        self.assertEqual(asyncio.run(run()), [alone] * 4)
        self.assert_was_cancelled()


class Completions(OpenaiTest):
    def complete(self, prompt, **fields):
        return self.client.completions.create(model=MODEL, prompt=prompt, **{"temperature": 0, "max_tokens": 8, **fields})

    def test_streamed_and_whole(self):
        whole = self.complete("In the beginning")
        chunks = list(self.complete("In the beginning", stream=True, stream_options=USAGE))
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks[:-1]), whole.choices[0].text)
        self.assertEqual(chunks[-1].usage, whole.usage)

    def test_echo_has_the_prompts_log_probabilities(self):
        answer = self.complete("In the beginning", echo=True, logprobs=1, max_tokens=0).choices[0]
        self.assertEqual(answer.text, "In the beginning")
        lists = answer.logprobs
        self.assertIsNone(lists.token_logprobs[0])
        self.assertTrue(all(value <= 0 for value in lists.token_logprobs[1:]))
        # The text's begin, which the server adds, is a token without a place in the text.
        self.assertEqual("".join(lists.tokens[1:]), "In the beginning")
        # The tokens that an answer is made of have the same values when they are a prompt.
        generated = self.complete("In the beginning", logprobs=1).choices[0]
        both = self.complete("In the beginning" + generated.text, echo=True, logprobs=1, max_tokens=0).choices[0]
        self.assertEqual(both.logprobs.token_logprobs[len(lists.tokens):], generated.logprobs.token_logprobs)

    def test_prompts_of_tokens_and_several_at_once(self):
        _, tokens = self.server.post("/tokenize", {"prompt": "In the beginning"})
        by_text = self.complete(["In the beginning", "Hello"]).choices
        by_ids = self.complete(tokens["tokens"]).choices
        self.assertEqual([choice.index for choice in by_text], [0, 1])
        self.assertEqual(by_ids[0].text, by_text[0].text)

    def test_a_gap_is_filled_or_refused_by_name(self):
        try:
            self.assertIsInstance(self.complete("def f(", suffix="return x").choices[0].text, str)
        except openai.BadRequestError as error:
            self.assertEqual(error.param, "suffix")


class Responses(OpenaiTest):
    def respond(self, **fields):
        return self.client.responses.create(model=MODEL, **{"input": "Hello", "temperature": 0, "max_output_tokens": 40,
                                                            "store": False, **fields})

    def test_plain_and_streamed(self):
        whole = self.respond()
        self.assertEqual((whole.object, whole.error), ("response", None))
        self.assertIn(whole.status, ["completed", "incomplete"])
        events = list(self.respond(stream=True))
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        self.assertEqual(events[0].type, "response.created")
        self.assertEqual(events[-1].type, f"response.{whole.status}")
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(text, whole.output_text)
        self.assertEqual(events[-1].response.output_text, whole.output_text)
        self.assertEqual(events[-1].response.usage.output_tokens, whole.usage.output_tokens)

    def test_a_limit_is_incomplete(self):
        answer = self.respond(max_output_tokens=3, extra_body={"ignore_eos": True})
        self.assertEqual((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))

    def test_tools_and_their_results(self):
        fields = {"tools": [FLAT_WEATHER, {"type": "web_search"}], "tool_choice": "required",
                  "parallel_tool_calls": False, "max_output_tokens": 300}
        answer = self.respond(**fields)
        call = next(item for item in answer.output if item.type == "function_call")
        self.assertEqual((answer.status, call.name), ("completed", "get_weather"))
        self.assert_is_weather(call.arguments)
        with self.client.responses.stream(model=MODEL, input="Hello", temperature=0, **fields) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_response()
        self.assertEqual([item.arguments for item in streamed.output if item.type == "function_call"], [call.arguments])
        after = self.respond(input=[*HELLO, *answer.output, {"type": "function_call_output", "call_id": call.call_id,
                                                             "output": "rain"}], tools=fields["tools"])
        self.assertGreater(after.usage.input_tokens, answer.usage.input_tokens)
        self.assertGreater(after.usage.input_tokens_details.cached_tokens, 0)

    def test_thinking(self):
        answer = self.respond(reasoning={"effort": "high"}, max_output_tokens=20, extra_body={"ignore_eos": True})
        self.assertEqual(answer.output[0].type, "reasoning")
        self.assertGreater(len(answer.output[0].content[0].text), 0)
        self.assertGreater(answer.usage.output_tokens_details.reasoning_tokens, 0)

    def test_structured_output(self):
        answer = self.client.responses.parse(model=MODEL, input="Hello", text_format=Order, temperature=0,
                                             max_output_tokens=200)
        self.assertIsInstance(answer.output_parsed, Order)


class Models(OpenaiTest):
    def test_list_and_retrieve(self):
        ids = [model.id for model in self.client.models.list()]
        self.assertIn(MODEL, ids)
        for name in ids:
            self.assertEqual(self.client.models.retrieve(name).id, name)


class Keys(harness.ServerTest):
    @classmethod
    def setUpClass(cls):
        import tempfile
        with tempfile.NamedTemporaryFile("w") as keys:
            keys.write("sk-right name=a requests=1\n")
            keys.flush()
            cls.server = harness.Server("--api-keys", keys.name)

    def test_keys(self):
        with openai.OpenAI(base_url=f"{self.server.url}/v1", api_key="sk-wrong", max_retries=0) as client:
            with self.assertRaises(openai.AuthenticationError) as caught:
                client.models.list()
            self.assertEqual(caught.exception.code, "invalid_api_key")
        with openai.OpenAI(base_url=f"{self.server.url}/v1", api_key="sk-right", max_retries=0) as client:
            with client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, max_tokens=60000,
                                                extra_body={"ignore_eos": True}) as stream:
                next(iter(stream))
                with self.assertRaises(openai.RateLimitError):
                    client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)


if __name__ == "__main__":
    unittest.main()
