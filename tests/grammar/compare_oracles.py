#!/usr/bin/env python3
"""Random texts under the masks against PyPI's validators: tests/grammar/setup makes the environment that this runs in.

  compare_oracles.py GRAMMAR_WALKS SCHEMAS [--count N] [--tokens N] [--seed N]

1. Every text that ended is JSON and a document that jsonschema accepts, formats checked.
2. Those documents, changed at random and spelled compactly, are accepted by the grammar only if jsonschema accepts them.
3. On the same documents the grammar and llguidance give the same answer, where llguidance knows the schema and the text keeps to
   what our header states (properties that are not declared are written only where additionalProperties asks for them).
4. At least 95 % of the texts end within their tokens.
Exits 77 where the environment is missing, which ctest counts as skipped.
"""
import argparse
import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path(__file__).resolve().parents[2] / "build" / "grammar_oracles" / "bin" / "python"
try:
    import jsonschema
    import llguidance
except ImportError:
    if ENVIRONMENT.exists() and Path(sys.executable) != ENVIRONMENT:
        os.execv(ENVIRONMENT, [str(ENVIRONMENT), *sys.argv])
    print("skipped: run tests/grammar/setup first")
    sys.exit(77)


def walks(binary, schemas, count, tokens):
    out = subprocess.run([binary, "walk", schemas, str(count), str(tokens)], check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        index, state, text = line.split("\t")
        yield int(index), state, json.loads(text)


def ours(binary, schemas, documents):
    lines = "".join(f"{i}\t-\t{json.dumps(text, ensure_ascii=False)}\n" for i, text in documents)
    out = subprocess.run([binary, "check", schemas], input=lines, check=True, capture_output=True, text=True).stdout
    return [line == "1" for line in out.splitlines()]


def parts(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from parts(item, path + (key,))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from parts(item, path + (i,))


def changed(value, rng):
    """The value with one of its parts replaced, removed or added."""
    value = copy.deepcopy(value)
    path = rng.choice(list(parts(value)))
    other = rng.choice([None, True, 0, 1, -3, 7, 42, 101, 1.5, "", "a", "ab", "b!", "日本", "2024-02-30", "2024-02-29", "cat", [], [1], [[]], {}])
    if not path:
        if isinstance(value, dict) and value and rng.random() < 0.5:
            value.pop(rng.choice(list(value)))
            return value
        if isinstance(value, list) and rng.random() < 0.7:
            value.insert(rng.randrange(len(value) + 1), other)
            return value
        return other
    holder = value
    for step in path[:-1]:
        holder = holder[step]
    kind = rng.random()
    if kind < 0.4:
        holder[path[-1]] = other
    elif kind < 0.6:
        del holder[path[-1]]
    elif isinstance(holder, dict):
        holder[rng.choice(["a", "b", "x", "zz", "name", "kind"])] = other
    else:
        holder.append(other)
    return value


def guidance_matchers(schemas):
    tokenizer = llguidance.LLTokenizer("byte")
    made = []
    for schema in schemas:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        made.append(None if matcher.get_error() else matcher)
    return tokenizer, made


def guidance_takes(tokenizer, matcher, text):
    matcher.reset()
    tokens = tokenizer.tokenize_bytes(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("schemas")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with open(args.schemas, encoding="utf-8") as file:
        schemas = json.load(file)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validators = [jsonschema.Draft202012Validator(s, format_checker=checker) for s in schemas]

    failures, num_ended, num_walks, documents = 0, 0, 0, []
    for index, state, text in walks(args.binary, args.schemas, args.count, args.tokens):
        num_walks += 1
        if state == "refused":
            print(f"schema {index}: refused: {text}")
            failures += 1
        if state != "1":
            continue
        num_ended += 1
        try:
            value = json.loads(text)
            validators[index].validate(value)
        except (json.JSONDecodeError, jsonschema.ValidationError, RecursionError) as error:
            print(f"schema {index}: {text!r}: {str(error).splitlines()[0]}")
            failures += 1
            continue
        documents.append((index, value))

    texts, valid = [], []
    for index, value in documents:
        for _ in range(3):
            value = changed(value, rng) if rng.random() < 0.8 else value
            texts.append((index, json.dumps(value, ensure_ascii=False, separators=(",", ":"))))
            valid.append(validators[index].is_valid(value))
    answers = ours(args.binary, args.schemas, texts)
    tokenizer, matchers = guidance_matchers(schemas)
    num_compared, num_yes, narrower, wider = 0, 0, [], []
    for (index, text), is_valid, answer in zip(texts, valid, answers):
        num_yes += answer
        if answer and not is_valid:
            print(f"schema {index}: accepted, but not valid: {text}")
            failures += 1
        if matchers[index] is None:
            continue
        num_compared += 1
        theirs = guidance_takes(tokenizer, matchers[index], text)
        # Where nothing is said of other properties, the grammar has none.
        if theirs and not answer and "additionalProperties" in json.dumps(schemas[index]):
            narrower.append((index, text, is_valid))
        if answer and not theirs:
            wider.append((index, text, is_valid))
    print(f"{num_walks} walks, {num_ended} ended; {len(texts)} changed documents, {num_yes} accepted, {sum(valid)} valid; "
          f"{num_compared} compared with llguidance: {len(narrower)} it alone accepts, {len(wider)} the grammar alone")
    print(f"llguidance knows {sum(m is not None for m in matchers)} of {len(schemas)} schemas")
    for name, cases in (("llguidance alone", narrower), ("the grammar alone", wider)):
        for index, text, is_valid in cases[:40]:
            print(f"{name}: schema {index}: {'valid' if is_valid else 'invalid'}: {text[:150]}")
    if num_ended < 0.95 * num_walks:
        print(f"expected at least 95 % of the walks to end, found {num_ended} of {num_walks}")
        failures += 1
    return 1 if failures or narrower or len(wider) > 0.01 * num_compared else 0


if __name__ == "__main__":
    sys.exit(main())
