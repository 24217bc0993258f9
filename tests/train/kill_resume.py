#!/usr/bin/env python3
"""Kills a training run at random moments, resumes it each time, and compares what it leaves with an undisturbed run.

  kill_resume.py --binary build/release/cachalot --config tests/train/small.toml --text README.md --kills 50 --work DIR [--seed N]

--text trains on the bytes of a file; what comes behind "--" goes to every `cachalot train`.

The last checkpoint's files must be equal byte for byte (masters, moments, routing biases, data cursor, spike history), and so must every
value of metrics.jsonl but times. Exit status 0 if they are."""
import argparse
import array
import hashlib
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time


def run(binary, config, directory, extra, resume, seconds=None):
    command = [binary, "train", config, f"--run_dir={directory}", *extra] + (["--resume"] if resume else [])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode != 0:
        sys.exit(f"kill_resume: {' '.join(command)} ended with {process.returncode}:\n{output.decode(errors='replace')[-2000:]}")
    return True


def newest(directory):
    return sorted((directory / "checkpoints").glob("step-*"))[-1]


def digests(checkpoint):
    # The configuration names its own directory, and the manifest the configuration's bytes.
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(checkpoint.iterdir())
            if f.name not in ("run.toml", "manifest.json")}


def values(directory):
    lines = []
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "event" not in entry:
            lines.append({k: v for k, v in entry.items() if not k.startswith(("time/", "throughput/"))})
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("extra", nargs="*")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    if args.text:
        array.array("H", list(args.text.read_bytes())).tofile((args.work / "bytes.bin").open("wb"))
        args.extra.append(f"--data.0.path={args.work / 'bytes.bin'}")
    undisturbed, killed = args.work / "undisturbed", args.work / "killed"
    begin = time.monotonic()
    run(args.binary, args.config, undisturbed, args.extra, resume=False)
    whole = time.monotonic() - begin

    # Moments spread over start-up, steps and checkpoints; a run that ends before its moment is started from the beginning.
    rng = random.Random(args.seed)
    kills = finished = 0
    while kills < args.kills:
        done = run(args.binary, args.config, killed, args.extra, resume=True, seconds=rng.uniform(0.02, max(0.5, whole / 4)))
        kills += not done
        if done:
            finished += 1
            compare(undisturbed, killed)
            shutil.rmtree(killed)
    run(args.binary, args.config, killed, args.extra, resume=True)
    compare(undisturbed, killed)
    print(f"{kills} kills, {finished + 1} finished runs, each equal to the undisturbed one ({whole:.1f} s)")


def compare(undisturbed, killed):
    a, b = newest(undisturbed), newest(killed)
    if a.name != b.name:
        sys.exit(f"kill_resume: expected {a.name}, found {b.name}")
    for name, digest in digests(a).items():
        found = digests(b).get(name)
        if found != digest:
            sys.exit(f"kill_resume: {a.name}/{name}: expected {digest[:16]}, found {found and found[:16]}")
    expected, found = values(undisturbed), values(killed)
    if expected != found:
        at = next((i for i, (x, y) in enumerate(zip(expected, found)) if x != y), min(len(expected), len(found)))
        sys.exit(f"kill_resume: metrics.jsonl: first difference at line {at}: expected {expected[at:at + 1]}, found {found[at:at + 1]}")


main()
