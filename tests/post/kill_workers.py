#!/usr/bin/env python3
"""Kills a trainer that listens and its workers at random moments, and compares what they leave with a run of one process.

  kill_workers.py --binary build/release/cachalot --config tests/post/nano.toml --kills 20 --work DIR [--workers 2] [--seed N] -- --model.init_from=models/nano

Every kill (SIGKILL) is of the trainer or of one worker, which then starts again. What was killed when is counted: before a step's first token, while answers
were sampled, or in rewards, updates and checkpoints; and whether the log's last frame was torn. The last checkpoint's files must be equal byte for byte
to those of a run whose trainer samples itself, and so must every value of metrics.jsonl but times, every text and reward of
samples.jsonl, and the logs that are kept, frame by frame. Exit status 0 if they are."""
import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time


def frames(path):
    """Payloads of a log's whole frames (docs/formats/rollout_log.md), and whether something follows them."""
    data, at, payloads = path.read_bytes() if path else b"", 0, []
    while at + 9 <= len(data):
        size = int.from_bytes(data[at:at + 4], "little")
        if at + 8 + size > len(data):
            break
        payloads.append(data[at + 8:at + 8 + size])
        at += 8 + size
    return payloads, at < len(data)


def kinds(path):
    return {payload[0] for payload in frames(path)[0]}


class Run:
    def __init__(self, args, directory):
        self.args, self.directory = args, directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.trainer = None
        self.workers = [None] * args.workers
        self.started = [0.0] * args.workers
        self.seen = None

    def start_trainer(self):
        command = [self.args.binary, self.args.verb, *self.args.config,
                   f"--run_dir={self.directory}", "--resume", f"--listen=127.0.0.1:{self.port}",
                   "--lease-seconds=20", *self.args.extra]
        self.trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def start_worker(self, i):
        command = [self.args.binary, "rollout", f"127.0.0.1:{self.port}", f"--work={self.directory}-worker-{i}", f"--name=worker-{i}",
                   "--threads=1", "--sequences=5"]
        self.started[i] = time.monotonic()
        self.workers[i] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def last_log(self):
        return max((self.directory / "rollouts").glob("step-*.log"), default=None)

    def is_sampling(self):
        """With tokens that were not there after the last kill."""
        log = self.last_log()
        found = kinds(log)
        return 3 in found and 6 not in found and (log, log.stat().st_size) != self.seen

    def remember(self):
        log = self.last_log()
        self.seen = (log, log.stat().st_size) if log else None

    def is_over(self):
        for i, worker in enumerate(self.workers):
            if worker.poll() not in (None, 0):
                sys.exit(f"kill_workers: worker {i} ended with {worker.returncode}:\n{worker.stderr.read().decode(errors='replace')[-2000:]}")
        code = self.trainer.poll()
        if code not in (None, 0):
            sys.exit(f"kill_workers: the trainer ended with {code}:\n{self.trainer.stdout.read().decode(errors='replace')[-2000:]}")
        return code == 0

    def await_workers(self):
        """They end with the run; one that was started in its last moments may have come too late to hear of it, and waits for the trainer."""
        over = time.monotonic()
        for i, worker in enumerate(self.workers):
            try:
                if worker.wait(timeout=30) != 0:
                    sys.exit(f"kill_workers: expected worker {i} to end with the run, found that it failed")
            except subprocess.TimeoutExpired:
                if over - self.started[i] > 20:
                    sys.exit(f"kill_workers: expected worker {i} to end with the run, found it waiting")

    def end(self):
        for process in [self.trainer, *self.workers]:
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.wait()


def newest(directory):
    return max((directory / "checkpoints").glob("step-*"))


def digests(checkpoint):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(checkpoint.iterdir()) if f.name not in ("run.toml", "manifest.json")}


def metrics(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().split("\n")[:-1]]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))} for line in lines if "event" not in line]


def samples(directory):
    lines = {}
    for line in (directory / "samples.jsonl").read_text().split("\n"):
        try:
            row = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        lines[row["step"]] = row
    return lines


def logs(directory):
    """Of each log its frames, in whatever order they came: every token with its log-probability, every end and reward, and none twice."""
    return {log.name: sorted(frames(log)[0]) for log in (directory / "rollouts").glob("step-*.log")}


def compare(expected, found):
    for what, of in (("the last checkpoint", lambda d: (newest(d).name, digests(newest(d)))), ("metrics.jsonl", metrics), ("samples.jsonl", samples),
                     ("rollouts", logs)):
        if of(expected) != of(found):
            sys.exit(f"kill_workers: {found}: {what}: expected that of {expected}, found another")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--verb", default="rl", choices=["rl", "distill"])
    parser.add_argument("--config", required=True, nargs="+")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("extra", nargs="*")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    undisturbed = args.work / "undisturbed"
    begin = time.monotonic()
    subprocess.run([args.binary, args.verb, *args.config, f"--run_dir={undisturbed}", *args.extra],
                   check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - begin

    rng = random.Random(args.seed)
    counts = {"the trainer": 0, "a worker": 0, "before a step's first token": 0, "while answers were sampled": 0, "in an update": 0, "in a frame": 0}
    finished = 0
    while sum(counts[k] for k in ("the trainer", "a worker")) < args.kills or finished == 0:
        directory = args.work / f"killed-{finished}"
        run = Run(args, directory)
        try:
            run.start_trainer()
            for i in range(args.workers):
                run.start_worker(i)
            while not run.is_over():
                if sum(counts[k] for k in ("the trainer", "a worker")) >= args.kills:
                    time.sleep(0.05)
                    continue
                if rng.random() < 0.6:
                    while not run.is_over() and not run.is_sampling():
                        time.sleep(0.002)
                    time.sleep(rng.uniform(0, 0.2))
                else:
                    time.sleep(rng.uniform(0, max(0.3, whole / 4)))
                if run.is_over():
                    break
                victim = rng.randrange(args.workers + 1)
                process = run.trainer if victim == args.workers else run.workers[victim]
                if process.poll() is not None:
                    continue
                process.send_signal(signal.SIGKILL)
                process.communicate()
                # A kill within a write leaves part of a frame; writes are too short to meet by chance.
                log = run.last_log()
                if victim == args.workers and log and rng.random() < 0.5:
                    os.truncate(log, max(0, log.stat().st_size - rng.randrange(1, 8)))
                found, is_torn = kinds(log), frames(log)[1]
                counts["the trainer" if victim == args.workers else "a worker"] += 1
                counts["before a step's first token" if 3 not in found else "while answers were sampled" if 6 not in found else "in an update"] += 1
                counts["in a frame"] += is_torn
                run.remember()
                run.start_trainer() if victim == args.workers else run.start_worker(victim)
            run.await_workers()
        finally:
            run.end()
        compare(undisturbed, directory)
        shutil.rmtree(directory)
        finished += 1
        print(f"{finished} runs: {counts}", flush=True)
    print(f"{sum(counts[k] for k in ('the trainer', 'a worker'))} kills: " + ", ".join(f"{n} {k}" for k, n in counts.items()) +
          f"; {finished} runs, each equal to the undisturbed one ({whole:.1f} s)")


main()
