#!/usr/bin/env python3
"""`cachalot serve` beside PyPI's server of llama.cpp (llama-cpp-python[server]) on one checkpoint, in one run.

    P=$(bench/llama/setup); ninja -C build/release cachalot
    $P bench/llama/serve_compare.py [--clients 1 4 16 64] [--rounds 3]

Each server has one thread on one core, the clients another core. All clients of a turn send a prompt of their own at once and stream the
answer; both sides take turns. Time to the first event, and events per second of all clients together (an event is a token, nearly
always), medians over the rounds. The checkpoint has made-up weights, as in compare.py. A ratio above 1: ours is ahead.
"""

import argparse
import asyncio
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import compare

sys.path.append(str(compare.ROOT / "bench/serve"))
from load import complete  # noqa: E402
from served import start  # noqa: E402

PORT = 18437
WORDS = "the of and to in that he was it his for with as had you not be her on at by which have or from this him but all she".split()


def theirs(options, gguf):
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(options.llama / "bin")}
    server = subprocess.Popen(["taskset", "-c", "0", options.server_python, "-m", "llama_cpp.server", "--model", str(gguf), "--port", str(PORT), "--n_ctx",
                               "4096", "--n_threads", "1", "--n_threads_batch", "1", "--flash_attn", "true", "--interrupt_requests", "false"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    url = f"http://127.0.0.1:{PORT}"
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v1/models"):
                return server, url
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None:
                sys.exit(f"llama.cpp's server has ended with {server.returncode}")
            time.sleep(0.1)


async def turn(url, clients, seed, options):
    """(median time to the first event, events per second)"""
    def body(i):
        rng = random.Random(seed * 1000 + i)
        return {"prompt": " ".join(rng.choices(WORDS, k=options.prompt_words)), "max_tokens": options.tokens, "temperature": 0, "stream": True}

    begin = time.monotonic()
    answers = await asyncio.gather(*(complete(url, body(i)) for i in range(clients)))
    seconds = time.monotonic() - begin
    failed = [answer.error for answer in answers if answer.error or answer.status != 200]
    if failed:
        sys.exit(f"{url}: {failed[0]}")
    return statistics.median(answer.first for answer in answers), sum(len(answer.gaps) + 1 for answer in answers) / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cachalot", type=pathlib.Path, default=compare.ROOT / "build/release/cachalot")
    parser.add_argument("--llama", type=pathlib.Path, default=compare.ROOT / "build/llama", help="where setup built it")
    parser.add_argument("--server-python", help="of llama-cpp-python[server]; by default setup's")
    parser.add_argument("--model", choices=compare.models.SHAPES, default="nano-index-64")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--prompt-words", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.server_python = options.server_python or str(options.llama / "server/bin/python")
    checkpoint, gguf = compare.make(options)
    options.binary, options.model = options.cachalot, str(checkpoint)
    ours, our_url, _ = start(options, "--sequences", max(options.clients), prefix=("taskset", "-c", "0"))
    other, other_url = theirs(options, gguf)
    os.sched_setaffinity(0, {1})
    try:
        print("| clients | first, llama.cpp | first, cachalot | ratio | tokens/s, llama.cpp | tokens/s, cachalot | ratio |\n|---|---|---|---|---|---|---|")
        for clients in options.clients:
            rows = {our_url: [], other_url: []}
            for seed in range(options.rounds):
                for url, found in rows.items():
                    found.append(asyncio.run(turn(url, clients, seed, options)))
            (first_a, rate_a), (first_b, rate_b) = ([statistics.median(column) for column in zip(*rows[url])] for url in (other_url, our_url))
            print(f"| {clients} | {first_a:.3f} s | {first_b:.3f} s | {first_a / first_b:.2f} | {rate_a:.1f} | {rate_b:.1f} | {rate_b / rate_a:.2f} |", flush=True)
    finally:
        for server in (ours, other):
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
