#!/usr/bin/env python3
"""Kills `cachalot serve` at random moments while clients stream, and starts it again on the same prefix folder.

    bench/serve/kills.py build/release/cachalot models/nano [--kills 100] [--clients 8]

Every answer that came whole must be the one that an undisturbed server gives. JSON, one line: answers, wrong ones, seconds to ready.
"""

import argparse
import asyncio
import json
import pathlib
import random
import signal
import sys
import tempfile

from load import complete
from served import start

PROMPTS = 24


def body(number):
    rng = random.Random(number)
    shared = [random.Random(0).randrange(3, 1024) for _ in range(600)]
    return {"prompt": shared[:rng.randrange(100, 600)] + [rng.randrange(3, 1024) for _ in range(20)], "max_tokens": 40, "temperature": 0.8,
            "seed": number, "ignore_eos": True, "stream": number % 2 == 0}


async def stream(url, rng, clients, expected, counts):
    async def client(own):
        while True:
            number = own.randrange(PROMPTS)
            try:
                answer = await complete(url, body(number))
            except (OSError, asyncio.IncompleteReadError, ValueError, IndexError):
                return
            if answer.status != 200 or answer.error:
                return
            counts["answers"] += 1
            counts["wrong"] += answer.text != expected[number]

    await asyncio.gather(*(client(random.Random(rng.random())) for _ in range(clients)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts = {"answers": 0, "wrong": 0}
    ready = []
    with tempfile.TemporaryDirectory() as folder:
        server, url, _ = start(options, "--prefix-dir", pathlib.Path(folder) / "undisturbed")
        expected = [asyncio.run(complete(url, body(number))).text for number in range(PROMPTS)]
        server.send_signal(signal.SIGTERM)
        server.wait()
        for _ in range(options.kills):
            server, url, seconds = start(options, "--prefix-dir", pathlib.Path(folder) / "disturbed")
            ready.append(seconds)

            async def run():
                clients = asyncio.create_task(stream(url, rng, options.clients, expected, counts))
                await asyncio.sleep(rng.random() * 1.5)
                server.kill()
                await clients

            asyncio.run(run())
            server.wait()
        ready.sort()
    print(json.dumps({"kills": options.kills, **counts, "ready_s_median": round(ready[len(ready) // 2], 3), "ready_s_max": round(ready[-1], 3)}))
    return 1 if counts["wrong"] or not counts["answers"] else 0


if __name__ == "__main__":
    sys.exit(main())
