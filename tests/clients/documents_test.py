"""Answers and calls bound by schemas, of a model of made-up weights: PyPI's jsonschema takes every one that ended, and with drafts they
are the same. DOCUMENTS=N: how many, by default 10,000."""

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
# Logits that what ends strings, objects, lists and arguments gets more: the model does not know that they end.
ENDS = {'"': 6, "}": 6, "]": 6, "<": 6, "/": 7, "b": 5}

with open(os.path.join(harness.ROOT, "tests", "grammar", "schemas.json")) as file:
    SCHEMAS = json.load(file)


def bounded(schema):
    """With strings of at most 30 characters: what ends an argument's string are several tokens, which a random model does not find."""
    if isinstance(schema, list):
        return [bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    is_free = schema.get("type") == "string" and not {"enum", "const", "pattern", "format", "maxLength"} & set(schema)
    return {**{key: bounded(value) for key, value in schema.items()}, **({"maxLength": 30} if is_free else {})}


# Those that a strict tool may have. The names of arguments stand between quotes, so none has a quote.
OBJECTS = [bounded(schema) for schema in SCHEMAS if schema.get("type") == "object" and "anyOf" not in schema and
           schema.get("additionalProperties") is not True and all('"' not in name for name in schema.get("properties", {}))]


def request(i, bias):
    """The i-th request, and the schema of what it asks for. Every fourth is a call."""
    body = {"model": MODEL, "messages": HELLO, "temperature": 1, "seed": i, "max_tokens": 600, "logit_bias": bias}
    if i % 4 == 3:
        schema = OBJECTS[i // 4 % len(OBJECTS)]
        tool = {"type": "function", "function": {"name": "take", "strict": True, "parameters": schema}}
        return schema, {**body, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    schema = SCHEMAS[i % len(SCHEMAS)]
    return schema, {**body, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


class DocumentsTest(unittest.TestCase):
    def answers(self, *flags):
        with harness.Server("--random-weights", "--sequences", str(CLIENTS), *flags) as server, \
                concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            bias = {str(server.token(text)): more for text, more in ENDS.items()}
            return list(clients.map(lambda i: self.answer(server, *request(i, bias), i), range(COUNT)))

    def answer(self, server, schema, body, i):
        """The document's text; None where it was cut."""
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
