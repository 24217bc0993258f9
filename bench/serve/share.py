#!/usr/bin/env python3
"""What part of `bench batch` is left when the same sequences decode behind `cachalot serve`, on one core.

    bench/serve/share.py build/release/cachalot models/nano [--clients 64] [--tokens 256] [--rounds 5]

As in `bench batch`, prompts do not count: the server's time is taken from the last client's first token to the first client's last. Both
times are the processor's, of one process with one thread of arithmetic, so that a machine that others use will do. Both sides take
turns. JSON, one line: tokens per second of processor time of both, medians, and the ratios of the turns.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys

from load import complete
from served import processor_seconds, start


async def served(server, url, options):
    begun, counts, marks = set(), [0] * options.clients, []

    def event(i):
        counts[i] += 1
        if counts[i] == 1:
            begun.add(i)
            if len(begun) == options.clients:
                marks.append((sum(counts), processor_seconds(server)))

    async def client(i):
        rng = random.Random(i)
        body = {"prompt": [rng.randrange(3, options.vocabulary) for _ in range(options.prompt_tokens)], "max_tokens": options.tokens,
                "temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        answer = await complete(url, body, on_event=lambda: event(i))
        if len(marks) == 1:
            marks.append((sum(counts), processor_seconds(server)))
        return answer

    answers = await asyncio.gather(*(client(i) for i in range(options.clients)))
    failed = [answer.error for answer in answers if answer.error or answer.status != 200]
    if failed or len(marks) != 2:
        sys.exit(f"the clients did not all stream at once: {failed[:1]}")
    # Some tokens show nothing yet and have no event of their own.
    tokens_per_event = sum(answer.tokens for answer in answers) / sum(counts)
    (events_a, seconds_a), (events_b, seconds_b) = marks
    return (events_b - events_a) * tokens_per_event / (seconds_b - seconds_a)


def batch(options):
    out = subprocess.run([options.binary, "bench", "batch", "--model", options.model, "--threads", "1", "--cpu-clock", "--rounds", "1", "--sequences",
                          str(options.clients), "--prompt-tokens", str(options.prompt_tokens), "--decode-tokens", str(options.tokens)],
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)["batch"][0]["tokens_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=1024)
    options = parser.parse_args()
    server, url, _ = start(options, "--sequences", options.clients, prefix=("taskset", "-c", "0"))
    ours, theirs = [], []
    try:
        for _ in range(options.rounds):
            ours.append(asyncio.run(served(server, url, options)))
            theirs.append(batch(options))
    finally:
        server.terminate()
        server.wait()
    print(json.dumps({"served_tokens_per_s": round(statistics.median(ours)), "batch_tokens_per_s": round(statistics.median(theirs)),
                      "ratio": round(statistics.median(ours) / statistics.median(theirs), 3),
                      "ratios": sorted(round(a / b, 3) for a, b in zip(ours, theirs))}))


if __name__ == "__main__":
    sys.exit(main())
