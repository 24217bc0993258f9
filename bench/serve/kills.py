#!/usr/bin/env python3
"""Harms `cachalot serve` while clients stream, kills it at a random moment, and starts it again on the same prefix folder.

    bench/serve/kills.py build/release/cachalot models/nano [--kills 100] [--clients 8] [--harms kill,torn,full,clock]

The harms take turns, one for each start:
    kill    none but the kill
    torn    before the start, files of the folder lose their end or have bytes changed
    full    the server can write no file beyond a size drawn anew, as on a full disk
    clock   the time of day jumps by up to a year, forth and back, several times a second
Every answer that came whole must be the one that an undisturbed server gives, no server may end but by the kill, and each starts.
JSON, one line: answers, wrong ones, servers that ended, what they found in the folder, seconds to ready.
"""

import argparse
import asyncio
import json
import mmap
import os
import pathlib
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile

from load import complete, metric
from served import start

PROMPTS = 24
FOUND = ["disk_hits", "damaged_records", "failed_writes"]  # what the servers say of their folder
# The time of day plus what the file says, in seconds.
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile int64_t* jump;
__attribute__((constructor)) static void map_jump(void) {
  const int file = open(getenv("CLOCK_JUMP"), O_RDONLY);
  void* at = mmap(0, sizeof *jump, PROT_READ, MAP_SHARED, file, 0);
  if (at != MAP_FAILED) jump = at;
}
int clock_gettime(clockid_t clock, struct timespec* time) {
  const int failed = (int)syscall(SYS_clock_gettime, clock, time);
  if (!failed && jump && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += *jump;
  return failed;
}
int gettimeofday(struct timeval* restrict time, void* restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t* out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
"""
YEAR = 366 * 86400


class Clock:
    """A time of day that jumps, for servers that are started with its environment."""

    def __init__(self, folder):
        self.library, jump = folder / "clock.so", folder / "jump"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", self.library], input=CLOCK, text=True, check=True)
        jump.write_bytes(bytes(8))
        with open(jump, "r+b") as file:
            self.jump = mmap.mmap(file.fileno(), 8)
        self.environment = {**os.environ, "LD_PRELOAD": str(self.library), "CLOCK_JUMP": str(jump)}

    def set(self, seconds):
        self.jump[:] = struct.pack("q", seconds)


def tear(folder, rng):
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0]
    for path in rng.sample(files, min(len(files), 1 + len(files) // 3)):
        size = path.stat().st_size
        with open(path, "r+b") as file:
            if rng.random() < 0.5:
                file.truncate(rng.randrange(size))
                continue
            for _ in range(rng.randrange(1, 9)):
                file.seek(rng.randrange(size))
                file.write(bytes([rng.randrange(256)]))


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


def start_harmed(options, harm, folder, clock, rng):
    flags = ("--prefix-dir", folder)
    if harm == "torn":
        tear(folder, rng)
    if harm == "clock":
        return start(options, *flags, env=clock.environment)
    if harm == "full":
        limit = rng.randrange(1 << 17)
        # The signal stays ignored, as Python has it, so that writes fail as those on a full disk do.
        return start(options, *flags, restore_signals=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    return start(options, *flags)


async def run(server, url, harm, clock, options, expected, counts, rng):
    async def jump():
        while True:
            clock.set(rng.randrange(-YEAR, YEAR))
            await asyncio.sleep(0.1)

    jumping = asyncio.create_task(jump()) if harm == "clock" else None
    clients = asyncio.create_task(stream(url, rng, options.clients, expected, counts))
    await asyncio.sleep(rng.random() * options.longest)
    if jumping:
        jumping.cancel()
    if server.poll() is None:
        for name in FOUND:
            counts[name] += int(await metric(url, f"cachalot_prefix_{name}_total"))
    else:
        counts["ended"] += 1
    server.kill()
    await clients


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--harms", type=lambda text: text.split(","), default=["kill", "torn", "full", "clock"])
    parser.add_argument("--longest", type=float, default=1.5, help="seconds until a kill; more where the machine is busy")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts = {"answers": 0, "wrong": 0, "ended": 0, **dict.fromkeys(FOUND, 0)}
    ready = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        clock = Clock(folder)
        server, url, _ = start(options, "--prefix-dir", folder / "undisturbed")
        expected = [asyncio.run(complete(url, body(number))).text for number in range(PROMPTS)]
        server.send_signal(signal.SIGTERM)
        server.wait()
        disturbed = folder / "disturbed"
        for kill in range(options.kills):
            harm = options.harms[kill % len(options.harms)]
            server, url, seconds = start_harmed(options, harm, disturbed, clock, rng)
            ready.append(seconds)
            asyncio.run(run(server, url, harm, clock, options, expected, counts, rng))
            server.wait()
        ready.sort()
    print(json.dumps({"kills": options.kills, **counts, "ready_s_median": round(ready[len(ready) // 2], 3), "ready_s_max": round(ready[-1], 3)}))
    return 1 if counts["wrong"] or counts["ended"] or not counts["answers"] else 0


if __name__ == "__main__":
    sys.exit(main())
