#!/usr/bin/env python3
"""Start, prefill, decode and many sequences of one checkpoint with llama.cpp and with Cachalot on this CPU.

    P=$(bench/llama/setup); ninja -C build/release cachalot
    $P bench/llama/compare.py                                                       # nano's shapes
    $P bench/llama/compare.py --model flash-slice --prompts 512 --depths 256 4096   # Flash's widths

A model with made-up weights in bf16 is quantised by `cachalot quantize` (FP8 and FP4, public layout); llama.cpp's converter makes its
file of that (FP4 as MXFP4, FP8 as Q8_0), and its own programs measure it, with flash attention, which is faster. Both sides take turns
with the same number of threads; medians over the rounds. A ratio is their time over ours: above 1, ours is ahead. Only `start` counts
loading. Ours chooses each token greedily and reads its prompts once, cold; theirs takes random tokens and warms up before it counts.
Of many sequences at once ours shows the median step, theirs the mean.

--cpu-clock, with one thread: both sides' clocks show the processor's time of their process, for a machine that others use too.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "bench/transformers"))
import models  # noqa: E402

DECODED = 64  # tokens of a decode measurement
PROMPT = "In the beginning"
CPU_CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec* time) {
  const int is_wall = clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME;
  return (int)syscall(SYS_clock_gettime, is_wall ? CLOCK_PROCESS_CPUTIME_ID : clock, time);
}
"""


def run(*words, **variables):
    result = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, **variables})
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, words[:3]))}: exit code {result.returncode}\n{result.stderr[-2000:]}")
    return result.stdout


def seconds_of_start(cpu_clock, *words, **variables):
    """From exec to the first byte of the answer; with cpu_clock, the processor's time of the whole process."""
    begin = time.perf_counter()
    process = subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               env={**os.environ, **variables})
    answered = process.stdout.read(1)
    seconds = time.perf_counter() - begin
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not answered:
        sys.exit(f"{words[0]}: no answer, exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime if cpu_clock else seconds


def use_cpu_clock(folder):
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(CPU_CLOCK)
    run("cc", "-shared", "-fPIC", "-O1", "-o", library, source)
    os.environ["LD_PRELOAD"] = str(library)


def make(arguments):
    """The quantised checkpoint and llama.cpp's file of it, made where they are missing."""
    checkpoint = models.WORK / f"{arguments.model}-fp4"
    if not (checkpoint / "config.json").exists():
        run(arguments.cachalot, "quantize", models.make(arguments.model, torch.bfloat16), checkpoint)
        shutil.copy(ROOT / "models/nano/tokenizer.json", checkpoint)  # the rest of a larger vocabulary is never named
    gguf = checkpoint.with_suffix(".gguf")
    if not gguf.exists():
        run(sys.executable, ROOT / "bench/llama/convert.py", arguments.llama / "sources", checkpoint, gguf)
    return checkpoint, gguf


class Ours:
    def __init__(self, arguments, checkpoint, work):
        self.binary, self.model, self.threads, self.cpu_clock = arguments.cachalot, checkpoint, arguments.threads, arguments.cpu_clock
        self.work, self.saved = work, {}
        self.vocab_size = models.SHAPES[arguments.model]["vocab_size"]
        self.packed = {"CACHALOT_CACHE_DIR": str(work / "packed"), "CACHALOT_CACHE_GIB": "64"}

    def generate(self, *words, **variables):
        return json.loads(run(self.binary, "generate", self.model, "--threads", self.threads, "--greedy", "--ignore-eos", "--json",
                              *words, **(variables or self.packed)))

    def ids(self, count):
        return ["--prompt-ids", *numpy.random.default_rng(1).integers(0, self.vocab_size, count)]

    def start(self, packed):
        return seconds_of_start(self.cpu_clock, self.binary, "generate", self.model, "--threads", self.threads, "--greedy", "--json",
                                "--max-tokens", 1, "--prompt", PROMPT, **(self.packed if packed else {"CACHALOT_CACHE_GIB": "0"}))

    def prefill(self, count):
        timings = self.generate(*self.ids(count + 1), "--max-tokens", 1)["timings"]
        return timings["prefill_seconds"] / count

    def decode(self, depth):
        if depth not in self.saved:
            self.saved[depth] = self.work / f"depth-{depth}"
            self.generate(*self.ids(depth), "--max-tokens", 1, "--save", self.saved[depth])
        timings = self.generate("--restore", self.saved[depth], "--max-tokens", DECODED)["timings"]
        return timings["decode_seconds"] / timings["completion_tokens"]

    def batch(self, sequences):
        out = json.loads(run(self.binary, "bench", "batch", "--model", self.model, "--threads", self.threads, "--sequences", sequences,
                             "--prompt-tokens", 64, "--decode-tokens", DECODED, "--rounds", 1, **self.packed))
        return 1 / out["batch"][0]["tokens_per_s"]


class Theirs:
    def __init__(self, arguments, gguf):
        self.bin, self.gguf, self.threads, self.cpu_clock = arguments.llama / "bin", gguf, arguments.threads, arguments.cpu_clock

    def start(self):
        # It prints the prompt together with the first token, and knows no option for threads.
        return seconds_of_start(self.cpu_clock, self.bin / "llama-simple", "-m", self.gguf, "-n", 1, PROMPT,
                                OMP_THREAD_LIMIT=str(self.threads))

    def bench(self, *words):
        out = run(self.bin / "llama-bench", "-m", self.gguf, "-t", self.threads, "-fa", 1, "-r", 1, "-o", "json", *words)
        return 1 / json.loads(out)[0]["avg_ts"]

    def prefill(self, count):
        return self.bench("-p", count, "-n", 0)

    def decode(self, depth):
        return self.bench("-p", 0, "-n", DECODED, "-d", depth)

    def batch(self, sequences):
        out = run(self.bin / "llama-batched-bench", "-m", self.gguf, "-t", self.threads, "-fa", "on", "-npp", 64,
                  "-c", sequences * (64 + DECODED + 128), "-ntg", DECODED, "-npl", sequences, "--output-format", "jsonl")
        return 1 / json.loads(next(line for line in out.splitlines() if line.startswith("{")))["speed_tg"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cachalot", type=pathlib.Path, default=ROOT / "build/release/cachalot")
    parser.add_argument("--llama", type=pathlib.Path, default=ROOT / "build/llama", help="where setup built it")
    parser.add_argument("--model", choices=models.SHAPES, default="nano-index-64")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompts", type=int, nargs="*", default=[512, 4096])
    parser.add_argument("--depths", type=int, nargs="*", default=[256, 4096, 16384, 65408])
    parser.add_argument("--sequences", type=int, nargs="*", default=[16])
    parser.add_argument("--skip-start", action="store_true")
    parser.add_argument("--cpu-clock", action="store_true", help="needs --threads 1")
    arguments = parser.parse_args()
    if arguments.cpu_clock and arguments.threads != 1:
        parser.error("--cpu-clock needs --threads 1")
    checkpoint, gguf = make(arguments)
    with tempfile.TemporaryDirectory(dir=models.WORK) as folder:
        if arguments.cpu_clock:
            use_cpu_clock(pathlib.Path(folder))
        ours, theirs = Ours(arguments, checkpoint, pathlib.Path(folder)), Theirs(arguments, gguf)
        cases = [] if arguments.skip_start else [("start, packed file there", lambda: ours.start(True), theirs.start),
                                                 ("start, none kept", lambda: ours.start(False), theirs.start)]
        for what, counts in (("prefill", arguments.prompts), ("decode", arguments.depths), ("batch", arguments.sequences)):
            for n in counts:
                name = {"prefill": f"prefill of {n}", "decode": f"decode after {n}", "batch": f"{n} sequences at once"}[what]
                cases.append((name, lambda w=what, n=n: getattr(ours, w)(n), lambda w=what, n=n: getattr(theirs, w)(n)))
        ours.start(True)  # makes the packed file
        clock = ", processor time" * arguments.cpu_clock
        print(f"{arguments.model}, {arguments.threads} threads{clock}, medians of {arguments.rounds} turns\n"
              "| | llama.cpp | cachalot | ratio | ratios of the turns |\n|---|---|---|---|---|", flush=True)
        for name, mine, other in cases:
            a, b = [], []
            for _ in range(arguments.rounds):
                a.append(other())
                b.append(mine())
            unit = (lambda s: f"{s:.3f} s") if name.startswith("start") else (lambda s: f"{1 / s:.1f} tokens/s")
            turns = sorted(x / y for x, y in zip(a, b))
            print(f"| {name} | {unit(statistics.median(a))} | {unit(statistics.median(b))} | "
                  f"{statistics.median(a) / statistics.median(b):.2f} | {turns[0]:.2f} to {turns[-1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
