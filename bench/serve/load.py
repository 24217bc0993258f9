#!/usr/bin/env python3
"""Many clients of `cachalot serve` at once, with Python's standard library alone.

    bench/serve/load.py same  --url http://127.0.0.1:8080 [--clients 64]
        each client's answer at once with the others is, byte for byte, the one it gets alone
    bench/serve/load.py speed --url ... [--clients 1,4,16,64] [--prompt-tokens 64] [--max-tokens 64] [--rounds 3]
        time to the first token and tokens per second; JSON, one line
    bench/serve/load.py soak  --url ... [--clients 200] [--seconds 600]
        clients come, stream, leave half-way; errors, latency and the server's memory; JSON, one line

Prompts are ids of tokens, so that no tokenizer is needed; --vocabulary says how many there are.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
import urllib.parse


class Answer:
    def __init__(self):
        self.status = 0
        self.text = ""
        self.first = None  # seconds after the request
        self.last = None
        self.gaps = []
        self.tokens = 0
        self.error = ""


async def read_chunks(reader):
    """The body of an answer, piece by piece."""
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        piece = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield piece[:-2]


async def complete(url, body, leave_after=None, on_event=lambda: None):
    """One completion; streamed where the body says so. The client leaves after so many events; on_event() is called at each."""
    parts = urllib.parse.urlsplit(url)
    answer = Answer()
    begin = time.monotonic()
    payload = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write((f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
                      f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n").encode() + payload)
        await writer.drain()
        answer.status = int((await reader.readline()).split()[1])
        length = None
        while (line := (await reader.readline()).strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if length is not None:
            whole = await reader.readexactly(length)
            if answer.status != 200:
                answer.error = whole.decode(errors="replace")
                return answer
            value = json.loads(whole)
            answer.text = value["choices"][0]["text"]
            answer.tokens = value["usage"]["completion_tokens"]
            answer.first = answer.last = time.monotonic() - begin
            return answer
        pending = b""
        is_done = False
        events = 0
        async for piece in read_chunks(reader):
            pending += piece
            *lines, pending = pending.split(b"\n")
            for line in lines:
                line = line.rstrip(b"\r")
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]":
                    is_done = True
                    continue
                value = json.loads(line[6:])
                if "error" in value:
                    answer.error = json.dumps(value)
                if value.get("usage"):
                    answer.tokens = value["usage"]["completion_tokens"]
                if not value.get("choices"):
                    continue
                answer.text += value["choices"][0]["text"]
                now = time.monotonic() - begin
                if answer.first is None:
                    answer.first = now
                else:
                    answer.gaps.append(now - answer.last)
                answer.last = now
                events += 1
                on_event()
                if leave_after is not None and events >= leave_after:
                    return answer
        if not is_done:
            answer.error = "the stream has no end"
        return answer
    finally:
        writer.close()


def body(options, seed, prompt_tokens, max_tokens, stream):
    rng = random.Random(seed)
    out = {"prompt": [rng.randrange(3, options.vocabulary) for _ in range(prompt_tokens)], "max_tokens": max_tokens,
           "temperature": options.temperature, "seed": seed, "ignore_eos": True, "stream": stream}
    if stream:
        out["stream_options"] = {"include_usage": True}
    return out


async def same(options):
    bodies = [body(options, seed, 5 + seed, 40 + seed % 9, seed % 2 == 0) for seed in range(options.clients[0])]
    alone = [await complete(options.url, one) for one in bodies]
    together = await asyncio.gather(*(complete(options.url, one) for one in bodies))
    wrong = [i for i, (a, b) in enumerate(zip(alone, together)) if a.error or b.error or a.text != b.text]
    print(json.dumps({"clients": len(bodies), "different": len(wrong),
                      "errors": [a.error or b.error for a, b in zip(alone, together) if a.error or b.error][:3]}))
    return 1 if wrong else 0


async def speed(options):
    rows = []
    for clients in options.clients:
        firsts, rates = [], []
        for turn in range(options.rounds):
            seeds = range(turn * 1000, turn * 1000 + clients)
            begin = time.monotonic()
            answers = await asyncio.gather(*(complete(options.url, body(
                options, seed + 7919 * clients, options.prompt_tokens, options.max_tokens, True)) for seed in seeds))
            seconds = time.monotonic() - begin
            failed = [one.error for one in answers if one.error or one.status != 200]
            if failed:
                print(failed[0], file=sys.stderr)
                return 1
            firsts += [one.first for one in answers]
            rates.append(sum(one.tokens for one in answers) / seconds)
        rows.append({"clients": clients, "first_token_s": round(statistics.median(firsts), 4),
                     "first_token_p95_s": round(sorted(firsts)[int(0.95 * (len(firsts) - 1))], 4),
                     "tokens_per_s": round(statistics.median(rates), 1)})
    print(json.dumps({"speed": rows}))
    return 0


async def metric(url, name):
    parts = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
    page = (await reader.read()).decode()
    writer.close()
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(name + " "))


async def soak(options):
    end = time.monotonic() + options.seconds
    errors, firsts, gaps = [], [], []
    done = {"answers": 0, "left": 0, "tokens": 0}

    async def client(number):
        rng = random.Random(number)
        while time.monotonic() < end:
            leaves = rng.randrange(1, 20) if rng.random() < 0.2 else None
            long = rng.random() < 0.05
            one = body(options, rng.randrange(1 << 30), rng.randrange(400, 1500) if long else rng.randrange(3, 80),
                       rng.randrange(1, 60), rng.random() < 0.8)
            try:
                answer = await complete(options.url, one, leaves)
            except (OSError, asyncio.IncompleteReadError, ValueError) as failure:
                errors.append(repr(failure))
                continue
            if answer.error or answer.status != 200:
                errors.append(f"{answer.status} {answer.error}")
                continue
            done["left" if leaves is not None and answer.tokens == 0 else "answers"] += 1
            done["tokens"] += answer.tokens
            firsts.append(answer.first)
            gaps.extend(answer.gaps)

    async def memory():
        out = []
        while time.monotonic() < end:
            out.append(round(await metric(options.url, "process_resident_memory_bytes") / 2**20, 1))
            await asyncio.sleep(max(1.0, options.seconds / 20))
        return out

    resident, *_ = await asyncio.gather(memory(), *(client(i) for i in range(options.clients[0])))
    await asyncio.sleep(1)
    gaps.sort()
    firsts.sort()
    left_over = {name: await metric(options.url, "cachalot_requests_" + name) for name in ("running", "waiting")}
    print(json.dumps({"clients": options.clients[0], "seconds": options.seconds, **done, "errors": len(errors), "first_errors": errors[:3],
                      "tokens_per_s": round(done["tokens"] / options.seconds, 1), "first_token_p50_s": firsts[len(firsts) // 2],
                      "gap_p50_s": gaps[len(gaps) // 2], "gap_p99_s": gaps[int(len(gaps) * 0.99)], "gap_max_s": gaps[-1],
                      "resident_mib": resident, **left_over}))
    return 1 if errors or any(left_over.values()) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["same", "speed", "soak"])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--clients", type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is what `bench batch` decodes with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--vocabulary", type=int, default=1024)
    options = parser.parse_args()
    options.clients = options.clients or {"same": [64], "speed": [1, 4, 16, 64], "soak": [200]}[options.what]
    return asyncio.run({"same": same, "speed": speed, "soak": soak}[options.what](options))


if __name__ == "__main__":
    sys.exit(main())
