"""What local servers are known to break their clients with, over plain sockets: each test states what is right."""

import contextlib
import http.client
import json
import re
import socket
import tempfile
import threading
import time
import unittest

import harness
from harness import MODEL

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
COMPLETIONS = "/v1/completions"
ENDLESS = {"max_tokens": 60000, "ignore_eos": True}
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"name": "get_weather", "description": "The weather", "parameters": harness.WEATHER_SCHEMA}
TOOLS = [{"type": "function", "function": WEATHER}]
JSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "order", "schema": harness.CLOCK_SCHEMA}}


class SocketTest(harness.ServerTest):
    def body(self, path, **fields):
        """A small request of the path's API."""
        asked = {CHAT: {"messages": HELLO, "max_tokens": 20}, MESSAGES: {"messages": HELLO, "max_tokens": 20},
                 RESPONSES: {"input": "Hello", "max_output_tokens": 20},
                 COMPLETIONS: {"prompt": "Hello", "max_tokens": 20}}[path]
        return {"model": MODEL, "temperature": 0, **asked, **fields}

    def answer(self, path, **fields):
        status, value = self.server.post(path, self.body(path, **fields))
        self.assertEqual(status, 200, value)
        return value

    @contextlib.contextmanager
    def sent(self, path, body):
        """A request under way, on a connection that ends with the block. Gives the connection."""
        connection = http.client.HTTPConnection(self.server.address, timeout=harness.WAIT_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            yield connection
        finally:
            connection.close()


class Tools(SocketTest):
    def test_tools_that_run_elsewhere_are_accepted_and_named(self):
        tools = [{"type": "web_search"}, {"type": "local_shell"}, {"type": "image_generation"},
                 {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark",
                                                                     "definition": "start: /x+/"}},
                 {"type": "namespace", "name": "mcp", "tools": [{"type": "function", "name": "find"}]},
                 {"type": "function", **WEATHER}]
        for stream in [False, True]:
            status, headers, text = self.server.request("POST", RESPONSES, self.body(RESPONSES, tools=tools,
                                                                                     stream=stream))
            self.assertEqual(status, 200, text)
            named = " ".join(value for name, value in headers.items() if "tool" in name)
            for name in ["web_search", "local_shell", "image_generation"]:
                self.assertIn(name, named)
            for name in ["apply_patch", "get_weather", "mcp"]:
                self.assertNotIn(name, named)

    def test_an_empty_list_of_tools_is_none(self):
        plain = self.answer(CHAT)
        for fields in [{"tools": []}, {"tools": None, "tool_choice": None}, {"tools": [], "response_format": None}]:
            empty = self.answer(CHAT, **fields)
            self.assertEqual(empty["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"])
            self.assertEqual(empty["choices"][0]["message"], plain["choices"][0]["message"])

    def test_streams_of_calls_are_whole_and_in_order(self):
        events = self.server.events(CHAT, self.body(CHAT, tools=TOOLS, tool_choice="required", max_tokens=300,
                                                    parallel_tool_calls=False))
        self.assertEqual(events[-1], "[DONE]")
        calls, finishes = [], []
        for chunk in events[:-1]:
            for name in ["id", "object", "created", "model", "choices"]:
                self.assertIn(name, chunk)
            choice = chunk["choices"][0]
            self.assertIn("finish_reason", choice)
            self.assertEqual(finishes, [])
            if choice["finish_reason"] is not None:
                finishes.append(choice["finish_reason"])
                self.assertEqual(choice["delta"], {})
                self.assertGreater(chunk["usage"]["prompt_tokens"], 0)
            self.assertNotIn("｜", json.dumps(choice, ensure_ascii=False))
            for call in choice["delta"].get("tool_calls", []):
                if call["index"] == len(calls):
                    self.assertTrue(call["id"])
                    calls.append([call["function"]["name"], ""])
                else:
                    self.assertNotEqual(call["function"]["arguments"], "")
                calls[call["index"]][1] += call["function"]["arguments"]
        self.assertEqual(finishes, ["tool_calls"])
        self.assertEqual(calls[0][0], "get_weather")
        self.assert_is_weather(calls[0][1])

    def test_noise_never_is_an_error_nor_shows_markup(self):
        for seed in range(12):
            for choice in ["auto", "none"]:
                fields = {"tools": TOOLS, "tool_choice": choice, "temperature": 2.5, "seed": seed, "max_tokens": 60,
                          "reasoning_effort": "high" if seed % 2 else "none"}
                message = self.answer(CHAT, **fields)["choices"][0]["message"]
                self.assertNotIn("｜DSML｜", json.dumps(message, ensure_ascii=False))
                events = self.server.events(CHAT, self.body(CHAT, **fields))
                self.assertNotIn("｜DSML｜", json.dumps(events, ensure_ascii=False))
                text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
                self.assertEqual(text, message["content"] or "")


class Drafts(Tools):
    flags = ("--drafts", "3")


class Streams(SocketTest):
    def test_responses_end_in_one_terminal_event_and_the_stream_ends(self):
        for fields in [{}, {"text": {"verbosity": "low"}}, {"reasoning": {"effort": "high", "summary": "auto"}},
                       {"include": ["reasoning.encrypted_content"], "store": False, "prompt_cache_key": "x",
                        "parallel_tool_calls": True, "service_tier": None, "truncation": "disabled"}]:
            events = self.server.events(RESPONSES, self.body(RESPONSES, **fields))
            ends = [event["type"] for event in events
                    if event["type"] in ("response.completed", "response.incomplete", "response.failed")]
            self.assertEqual([events[-1]["type"]], ends)
            self.assertNotEqual(ends, ["response.failed"])
            self.assertGreater(events[-1]["response"]["usage"]["output_tokens"], 0)

    def test_usage_comes_whether_asked_for_or_not(self):
        for fields in [{}, {"stream_options": {}}, {"stream_options": None},
                       {"stream_options": {"include_usage": True, "include_obfuscation": False}}]:
            for path in [CHAT, COMPLETIONS]:
                events = self.server.events(path, self.body(path, n=2, **fields))
                usages = [event["usage"] for event in events[:-1] if event.get("usage")]
                self.assertEqual(len(usages), 1)
                self.assertIn("cached_tokens", usages[0]["prompt_tokens_details"])

    def test_a_message_starts_once_and_blocks_do_not_interleave(self):
        fields = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "ignore_eos": True,
                  "logit_bias": {str(self.token("</think>")): harness.end_bias()}, "temperature": 1, "seed": 1, "max_tokens": 120}
        open_block, kinds = None, []
        for event in self.server.events(MESSAGES, self.body(MESSAGES, **fields)):
            kinds.append(event["type"])
            if event["type"] == "message_start":
                usage = event["message"]["usage"]
                self.assertGreater(usage["input_tokens"] + usage["cache_read_input_tokens"], 0)
            elif event["type"] == "content_block_start":
                self.assertIsNone(open_block)
                open_block = event["content_block"]["type"]
            elif event["type"] == "content_block_delta":
                of = {"thinking_delta": "thinking", "signature_delta": "thinking", "text_delta": "text"}
                self.assertEqual(of[event["delta"]["type"]], open_block)
            elif event["type"] == "content_block_stop":
                open_block = None
        self.assertEqual(kinds.count("message_start"), 1)
        self.assertEqual(kinds[-1], "message_stop")


class Structured(SocketTest):
    def test_json_is_the_answer_and_thinking_stays(self):
        message = self.answer(CHAT, response_format=JSON_FORMAT, reasoning_effort="high", temperature=1, seed=1,
                              max_tokens=250, logit_bias={str(self.token("</think>")): harness.end_bias()})["choices"][0]["message"]
        self.assertEqual(list(json.loads(message["content"])), ["utc"])
        self.assertTrue(message["reasoning_content"])

    def test_bounds_need_not_be_whole(self):
        def content(schema):
            answer = self.answer(CHAT, guided_json=schema, temperature=1000, seed=3, max_tokens=60)
            return json.loads(answer["choices"][0]["message"]["content"])

        self.assertIn(content({"type": "integer", "minimum": 1.5, "maximum": 3.5}), [2, 3])
        self.assertEqual(content({"type": "integer", "exclusiveMinimum": 1.5, "exclusiveMaximum": 2.5}), 2)
        self.assertEqual(len(content({"type": "array", "items": {"type": "boolean"}, "minItems": 2.0, "maxItems": 2})), 2)
        for schema, part in [({"type": "number", "minimum": 0.5}, "minimum"),
                                ({"type": "array", "minItems": 1.5}, "minItems"),
                                ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "found none")]:
            status, value = self.server.post(CHAT, self.body(CHAT, guided_json=schema))
            self.assertEqual(status, 400)
            self.assertIn("guided_json", value["error"]["message"])
            self.assertIn(part, value["error"]["message"])

    def test_bad_schemas_patterns_and_grammars_are_refused(self):
        schemas = [{"type": "spaceship"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "(["},
                   {"type": "number", "multipleOf": 3}, {"enum": []}, {"minItems": -1, "type": "array"},
                   {"uniqueItems": True, "type": "array"}, {"not": {}}, {"if": {}, "then": {}}, "{", 7]
        bad = [{"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
               for schema in schemas]
        bad += [{"guided_regex": pattern} for pattern in ["([", "*", "a{5,2}", "(?<=a)b", "\\1", "(" * 20000]]
        bad += [{"guided_grammar": text} for text in ["x", "root ::= missing", "(" * 20000]]
        bad += [{"guided_choice": [1]}, {"response_format": {"type": "json_schema"}}]
        for fields in bad:
            status, value = self.server.post(CHAT, self.body(CHAT, **fields))
            self.assertEqual(status, 400, f"{json.dumps(fields)[:200]}: {json.dumps(value)[:300]}")
            self.assertTrue(value["error"]["message"])
        deep = '{"type": "array", "items": ' * 3000 + "{}" + "}" * 3000
        text = json.dumps(self.body(CHAT, guided_json="HERE")).replace('"HERE"', deep)
        self.assertEqual(self.server.post(CHAT, text)[0], 400)


class Requests(SocketTest):
    def test_bad_bodies_are_refused_in_the_apis_own_shape(self):
        bodies = [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100000, b'{"messages": NaN}',
                  b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"messages": [{"content": "x"}]}',
                  b'{"messages": [{"role": "wizard", "content": "x"}], "input": 7, "prompt": {}}', b'{"messages": {}, "input": {}, "prompt": {}}',
                  b'{"messages": [], "model": 7, "input": 7, "prompt": false}', b'{"a":' * 5000]
        for path in [CHAT, MESSAGES, RESPONSES, COMPLETIONS]:
            for body in bodies:
                status, value = self.server.post(path, body)
                self.assertIn(status, [400, 404], f"{path} {body[:60]}: {value}")
                self.assertEqual(value.get("type") == "error", path == MESSAGES)
                self.assertTrue(value["error"]["message"])

    def test_probes_of_other_servers_get_words(self):
        for method, path in [("GET", "/api/tags"), ("POST", "/api/pull"), ("POST", "/api/show"), ("GET", "/api/version"),
                             ("POST", "/v1/embeddings"), ("GET", "/props"), ("GET", "/slots")]:
            status, _, text = self.server.request(method, path, "{}" if method == "POST" else None)
            self.assertEqual(status, 404)
            self.assertIn("/v1", json.loads(text)["error"]["message"])

    def test_paths_with_and_without_v1_a_slash_and_a_query(self):
        for path in ["/v1/chat/completions", "/chat/completions", "/v1/chat/completions/",
                     "/v1/chat/completions?api-version=2024-10-21"]:
            status, value = self.server.post(path, self.body(CHAT))
            self.assertEqual((status, value["object"]), (200, "chat.completion"))
        status, value = self.server.post("/v1/messages?beta=true", self.body(MESSAGES))
        self.assertEqual((status, value["type"]), (200, "message"))

    def test_fields_that_clients_send_are_accepted(self):
        for path, fields in [
                (CHAT, {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "verbosity": "low",
                        "prediction": {"type": "content", "content": "x"}, "modalities": ["text"], "prompt_cache_key": "k",
                        "safety_identifier": "s", "logit_bias": None, "stop": None, "seed": None, "unheard_of": 1}),
                (MESSAGES, {"metadata": {"user_id": "{\"device\": \"x\"}"}, "context_management": {"edits": []},
                            "output_config": {"effort": "high"}, "thinking": {"type": "adaptive", "display": "omitted"},
                            "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]})]:
            self.answer(path, **fields)

    def test_required_keys_are_there(self):
        answer = self.answer(CHAT)
        for name in ["id", "object", "created", "model", "choices", "usage"]:
            self.assertIn(name, answer)
        for name in ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"]:
            self.assertIn(name, self.answer(MESSAGES))
        for name in ["id", "object", "created_at", "status", "model", "output", "usage", "error", "incomplete_details",
                     "parallel_tool_calls", "tool_choice", "tools"]:
            self.assertIn(name, self.answer(RESPONSES))

    def test_a_title_does_not_think(self):
        message = self.answer(CHAT, model=f"{MODEL}:no-thinking")
        self.assertEqual(message["usage"]["completion_tokens_details"]["reasoning_tokens"], 0)

    def test_system_messages_stay_where_they_are(self):
        begin = [{"role": "system", "content": "You are an agent. " * 400}, *HELLO, {"role": "assistant", "content": "Yes."}]
        first = begin + [{"role": "user", "content": "Go on."}]
        self.answer(CHAT, messages=first)
        later = first + [{"role": "assistant", "content": "So."}, {"role": "system", "content": "90 tokens left."}, *HELLO]
        usage = self.answer(CHAT, messages=later)["usage"]
        self.assertGreater(usage["prompt_tokens_details"]["cached_tokens"], 0.7 * usage["prompt_tokens"])


def places(value, path=()):
    """The paths to a JSON value's parts."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


class OddValues(SocketTest):
    flags = ("--context", "1024")  # for those that lift the limit of tokens

    def test_in_every_place_are_answered_or_refused_in_words(self):
        sampling = {"top_p": 0.9, "seed": 1, "stop": ["zz"], "logit_bias": {"5": 1}, "n": 1, "stream_options": {"include_usage": True}}
        bodies = [
            (CHAT, {**sampling, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
                    "messages": [{"role": "system", "content": [{"type": "text", "text": "x"}]}, *HELLO, {"role": "assistant", "tool_calls": [
                        {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]},
                        {"role": "tool", "tool_call_id": "c", "content": "rain"}]}),
            (CHAT, {"response_format": JSON_FORMAT, "reasoning_effort": "none"}),
            (MESSAGES, {"system": [{"type": "text", "text": "x"}], "thinking": {"type": "disabled"}, "stop_sequences": ["zz"],
                        "tools": [{"name": "f", "input_schema": harness.CLOCK_SCHEMA}], "tool_choice": {"type": "tool", "name": "f"}}),
            (RESPONSES, {"instructions": "x", "tools": [{"type": "function", "name": "f", "parameters": harness.CLOCK_SCHEMA}],
                         "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], "text": {"format": {"type": "text"}},
                         "reasoning": {"effort": "none"}}),
            (COMPLETIONS, {**sampling, "prompt": [[5, 6]], "logprobs": 1, "echo": True})]
        for path, fields in bodies:
            body = self.body(path, **fields, **{"max_output_tokens" if path == RESPONSES else "max_tokens": 2})
            self.assertEqual(self.server.post(path, body)[0], 200)
            for place in places(body):
                for value in [None, True, -1, 2**70, "x", [None], {"type": "x"}]:
                    status, answer = self.server.post(path, replaced(body, place, value))
                    where = f"{path} {place} {value}: {answer}"
                    self.assertIn(status, [200, 400, 404], where)
                    if status != 200:
                        self.assertTrue(answer["error"]["message"], where)


class Prefixes(SocketTest):
    LONG = [{"role": "user", "content": "The springs of the world. " * 300}]

    def usage(self, task=None, **fields):
        message = {**self.LONG[0], **({"task": task} if task else {})}
        usage = self.answer(CHAT, messages=[message], max_tokens=4, **fields)["usage"]
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]

    def test_a_salt_keeps_clients_apart(self):
        def answer(**fields):
            return self.answer(CHAT, messages=self.LONG, logprobs=True, top_logprobs=5, max_tokens=8, **fields)

        first = answer(cache_salt="one")
        for salt in ["two", None]:
            self.assertEqual(answer(cache_salt=salt)["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        again = answer(cache_salt="one")
        self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"],
                           0.8 * again["usage"]["prompt_tokens"])
        # What comes from the cache has the bits of what comes without.
        self.assertEqual(again["choices"], first["choices"])

    def test_quick_tasks_run_their_prompt_once(self):
        salt = {"cache_salt": "tasks"}
        _, cached = self.usage(**salt)
        self.assertEqual(cached, 0)
        for task in ["action", "query", "authority", "domain"]:
            tokens, cached = self.usage(task, **salt)
            self.assertGreater(cached, 0.8 * tokens, task)


    def test_a_restart_finds_what_was_kept(self):
        body = self.body(CHAT, messages=self.LONG, logprobs=True, top_logprobs=5)
        answers = []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                with harness.Server("--prefix-dir", folder) as server:
                    status, answer = server.post(CHAT, body)
                    self.assertEqual(status, 200, answer)
                    answers.append(answer)
        first, again = (answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers)
        self.assertEqual(first, 0)
        self.assertGreater(again, 0.8 * answers[1]["usage"]["prompt_tokens"])
        self.assertEqual(answers[1]["choices"], answers[0]["choices"])


class OneAtATime(SocketTest):
    """One answer at a time: the others wait in line."""

    flags = ("--sequences", "1")

    def test_cancelling_in_all_four_states(self):
        cancelled = self.server.metric("cachalot_requests_cancelled_total")
        long = "word " * 30000
        states = {
            "stream": (self.body(CHAT, stream=True, **ENDLESS), "cachalot_requests_running"),
            "plain": (self.body(CHAT, **ENDLESS), "cachalot_requests_running"),
            "prompt": (self.body(CHAT, messages=[{"role": "user", "content": long}]), "cachalot_requests_running"),
        }
        for i, (state, (body, gauge)) in enumerate(states.items()):
            with self.subTest(state), self.sent(CHAT, body):
                self.assert_comes_to(gauge, 1)
            self.assert_comes_to("cachalot_requests_cancelled_total", cancelled + i + 1)
            self.assert_comes_to("cachalot_requests_running", 0)
        with self.sent(CHAT, self.body(CHAT, stream=True, **ENDLESS)) as first:
            events = first.getresponse()
            self.assertTrue(events.readline().startswith(b"data: "))
            with self.sent(CHAT, self.body(CHAT)):
                self.assert_comes_to("cachalot_requests_waiting", 1)
            self.assert_comes_to("cachalot_requests_waiting", 0)
            self.assert_comes_to("cachalot_requests_cancelled_total", cancelled + 4)
            # The one before goes on.
            while not events.readline().startswith(b"data: "):
                pass
        self.assert_comes_to("cachalot_requests_running", 0)

    def test_what_has_run_is_not_run_again(self):
        body = self.body(CHAT, messages=[{"role": "user", "content": "once " * 20000}], stream=True, max_tokens=1)
        before = self.server.metric("cachalot_engine_rows_total")
        with self.sent(CHAT, body):
            while self.server.metric("cachalot_engine_rows_total") < before + 9000:
                time.sleep(0.01)
        self.assert_comes_to("cachalot_requests_running", 0)
        usage = [event for event in self.server.events(CHAT, body)[:-1] if event.get("usage")][-1]["usage"]
        # States in the middle of a prompt are kept at every 8,192 tokens.
        self.assertGreaterEqual(usage["prompt_tokens_details"]["cached_tokens"], 8192)

    def test_waiting_is_not_silent(self):
        kinds = {CHAT: b": ", COMPLETIONS: b": ", MESSAGES: b"event: ping", RESPONSES: b"event: response.in_progress"}
        with self.sent(CHAT, self.body(CHAT, stream=True, **ENDLESS)) as first:
            events = first.getresponse()

            def read_on():  # one that does not read would be left, and the others' turn would come
                with contextlib.suppress(Exception):
                    while events.read1(4096):
                        pass

            threading.Thread(target=read_on, daemon=True).start()
            with contextlib.ExitStack() as stack:
                streams = {path: stack.enter_context(self.sent(path, self.body(path, stream=True))).getresponse()
                           for path in kinds}
                for path, sign in kinds.items():
                    lines = []
                    # The second of a kind is the keep-alive where the stream begins with one.
                    while sum(line.startswith(sign) for line in lines) < (2 if path == RESPONSES else 1):
                        lines.append(streams[path].readline())
                        self.assertLess(len(lines), 50, f"{path}: {lines}")
        self.assert_comes_to("cachalot_requests_running", 0)


class Browsers(SocketTest):
    flags = ("--allow-origin", "http://chat.example")

    def test_a_page_that_may_call_sends_any_header(self):
        asked = "authorization, content-type, x-stainless-os, x-stainless-retry-count, anthropic-version"
        status, headers, _ = self.server.request("OPTIONS", CHAT, headers={
            "Origin": "http://chat.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": asked})
        self.assertEqual(status, 204)
        self.assertEqual(headers["access-control-allow-origin"], "http://chat.example")
        allowed = headers["access-control-allow-headers"].lower()
        for name in asked.split(", "):
            self.assertIn(name, allowed)
        for body in [self.body(CHAT), self.body(CHAT, stream=True), {"model": "x"}]:
            _, headers, _ = self.server.request("POST", CHAT, body, {"Origin": "http://chat.example"})
            self.assertEqual(headers["access-control-allow-origin"], "http://chat.example")
        # What an answer's own headers say may be read.
        _, headers, _ = self.server.request("POST", RESPONSES, self.body(RESPONSES, tools=[{"type": "web_search"}]),
                                            {"Origin": "http://chat.example"})
        shown = headers["access-control-expose-headers"].lower()
        for name in ["x-request-id", "request-id", *(name for name in headers if name.endswith("tools"))]:
            self.assertIn(name, shown.split(", "))

    def test_another_page_may_not(self):
        for headers in [{"Origin": "http://evil.example"}, {"Host": "evil.example"}]:
            status, _, _ = self.server.request("POST", CHAT, self.body(CHAT), headers)
            self.assertEqual(status, 403)


class Page(SocketTest):
    def test_it_needs_nothing_from_elsewhere(self):
        status, headers, html = self.server.request("GET", "/")
        self.assertEqual((status, headers["content-type"]), (200, "text/html; charset=utf-8"))
        self.assertNotIn("style=", html)
        types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        paths = re.findall(r'(?:src|href)="([^"]+)"', html)
        for path in paths:
            status, headers, text = self.server.request("GET", f"/{path}")
            self.assertEqual((status, headers["content-type"]), (200, types[path.split(".")[1]] + "; charset=utf-8"), path)
            self.assertIn("default-src 'none'", headers["content-security-policy"])
            paths += [name for name in re.findall(r'from "./([^"]+)"', text) if name not in paths]
            if path != "icon.svg":
                self.assertNotIn("://", text)
        self.assertIn("conversation.js", paths)


class Crowds(SocketTest):
    def test_half_open_and_idle_connections_hold_up_nobody(self):
        host, port = self.server.address.split(":")
        with contextlib.ExitStack() as stack:
            for i in range(340):
                connection = stack.enter_context(socket.create_connection((host, int(port))))
                if i < 40:
                    connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {self.server.address}\r\n"
                                       "Content-Length: 100000\r\n\r\n{".encode())
            self.answer(CHAT, max_tokens=1)

    def test_a_short_prompt_does_not_wait_for_a_long_one(self):
        words = 30000
        begin = self.server.metric("cachalot_engine_rows_total")
        with self.sent(CHAT, self.body(CHAT, messages=[{"role": "user", "content": "late " * words}])):
            while self.server.metric("cachalot_engine_rows_total") < begin + 1000:
                time.sleep(0.01)
            self.answer(CHAT, max_tokens=1)
            self.assertLess(self.server.metric("cachalot_engine_rows_total"), begin + words / 2)
        self.assert_comes_to("cachalot_requests_running", 0)

    def test_a_prompt_of_20_mb_is_refused_in_words(self):
        status, value = self.server.post(CHAT, self.body(CHAT, messages=[{"role": "user", "content": "a" * 20_000_000}]))
        self.assertEqual((status, value["error"]["code"]), (400, "context_length_exceeded"))

    def test_a_body_of_64_mb_of_metadata_is_passed_over(self):
        large = self.body(CHAT, max_tokens=1, metadata={str(i): "a" * 1000 for i in range(64_000)})
        with self.sent(CHAT, large) as connection:
            self.answer(CHAT, max_tokens=1)  # beside it
            self.assertEqual(connection.getresponse().status, 200)


if __name__ == "__main__":
    unittest.main()
