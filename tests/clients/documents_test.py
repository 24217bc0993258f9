"""Answers and calls bound by schemas that the model knows nothing of: PyPI's jsonschema takes every one that ended, and with drafts
they are the same. DOCUMENTS=N: how many, by default 10,000."""

import concurrent.futures
import json
import os
import unittest

import jsonschema

import harness
from harness import MODEL

COUNT = int(os.environ.get("DOCUMENTS", "10000"))
CLIENTS = 32
SHARE_ENDED = 0.95
HELLO = [{"role": "user", "content": "Hello"}]

with open(os.path.join(harness.ROOT, "tests", "grammar", "schemas.json")) as file:
    SCHEMAS = json.load(file)
# Those that a strict tool may have. The names of arguments stand between quotes, so none has a quote.
OBJECTS = [schema for schema in SCHEMAS if schema.get("type") == "object" and "anyOf" not in schema and
           all('"' not in name for name in schema.get("properties", {}))]


def request(i):
    """The i-th request, and the schema of what it asks for. Every fourth is a call."""
    body = {"model": MODEL, "messages": HELLO, "temperature": 1, "seed": i, "max_tokens": 600}
    if i % 4 == 3:
        schema = OBJECTS[i // 4 % len(OBJECTS)]
        tool = {"type": "function", "function": {"name": "take", "strict": True, "parameters": schema}}
        return schema, {**body, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    schema = SCHEMAS[i % len(SCHEMAS)]
    return schema, {**body, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


class DocumentsTest(unittest.TestCase):
    def answers(self, *flags):
        with harness.Server("--sequences", str(CLIENTS), *flags) as server, \
                concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(lambda i: self.answer(server, i), range(COUNT)))

    def answer(self, server, i):
        """The document's text; None where it was cut."""
        schema, body = request(i)
        status, answer = server.post("/v1/chat/completions", body)
        self.assertEqual(status, 200, f"{i}: {answer}")
        choice = answer["choices"][0]
        calls = choice["message"].get("tool_calls", [])
        if choice["finish_reason"] == "length":
            self.assertEqual(calls, [])
            return None
        is_call = "tools" in body
        self.assertEqual(choice["finish_reason"], "tool_calls" if is_call else "stop", i)
        text = calls[0]["function"]["arguments"] if is_call else choice["message"]["content"]
        try:
            validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
            validator(schema, format_checker=validator.FORMAT_CHECKER).validate(json.loads(text))
        except (ValueError, jsonschema.ValidationError) as error:
            self.fail(f"{i}: {json.dumps(schema)}: {text}: {error}")
        return text

    def test_every_document_that_ended_is_one(self):
        plain = self.answers()
        print(f"{sum(text is not None for text in plain)} of {COUNT} ended")
        self.assertGreaterEqual(sum(text is not None for text in plain), SHARE_ENDED * COUNT)
        self.assertEqual(self.answers("--drafts", "3"), plain)


if __name__ == "__main__":
    unittest.main()
