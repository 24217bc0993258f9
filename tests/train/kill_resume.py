#!/usr/bin/env python3
"""Kills a training run at random moments, resumes it each time, and compares what it leaves with an undisturbed run.

  kill_resume.py --binary build/release/cachalot --config tests/train/small.toml --text README.md --kills 50 --work DIR [--seed N]
  kill_resume.py --binary build/release/cachalot --config tests/train/small.toml tests/train/spike.toml --spike --kills 10 --work DIR

  kill_resume.py --binary build/release/cachalot --verb rl --config tests/post/nano.toml --kills 50 --work DIR

--text trains on the bytes of a file; --spike on a made-up sequence with a stretch of unheard-of tokens, whose loss makes the run go back to
an earlier checkpoint. Every second kill then waits for that, and at least one falls where stale choices bridge the spike. What comes
behind "--" goes to every `cachalot train`. With --verb rl or distill every second kill waits for answers that are being sampled, with distill
every fourth for a teacher's states.

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


def spiking_tokens():
    rng = random.Random(1)
    tokens = [0]
    while len(tokens) < 24000:
        tokens.append(rng.randrange(64) if rng.random() < 0.3 else (5 * tokens[-1] + 1) % 64)
    tokens[11264:11776] = [128 + rng.randrange(128) for _ in range(512)]
    return tokens


def train(args, directory, resume, seconds=None, is_due=lambda: True):
    """Kills the run `seconds` after it is due; True if it has ended before."""
    command = [args.binary, args.verb, *args.config, f"--run_dir={directory}", *args.extra] + (["--resume"] if resume else [])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while seconds is not None and process.poll() is None and not is_due():
        time.sleep(0.005)
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
    return max((directory / "checkpoints").glob("step-*"), default=None)


def bridges_a_spike(directory):
    checkpoint = newest(directory)
    return checkpoint is not None and json.loads((checkpoint / "trainer.json").read_text())["anticipation"]["steps_left"] > 0


def digests(checkpoint):
    # The configuration names its own directory, and the manifest the configuration's bytes.
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(checkpoint.iterdir())
            if f.name not in ("run.toml", "manifest.json")}


def log_of(directory):
    path = directory / "metrics.jsonl"
    # A kill may have torn the last line.
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def values(directory):
    return [{k: v for k, v in entry.items() if not k.startswith(("time/", "throughput/"))}
            for entry in log_of(directory) if "event" not in entry]


def num_rollbacks(directory):
    return sum(entry.get("event") == "rollback" for entry in log_of(directory))


def has_open_answers(directory):
    """Whether a step's log holds answers and not yet its last reward (frames of kind 6)."""
    last = max((directory / "rollouts").glob("step-*.log"), default=None)
    data, at, tokens, rewards = last.read_bytes() if last else b"", 0, 0, 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at:at + 4], "little")
        tokens += data[at + 8] == 3
        rewards += data[at + 8] == 6
        at += 8 + size
    return tokens > 0 and rewards == 0


def has_teacher_states(directory):
    return any((directory / "teachers").glob("*"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--config", required=True, nargs="+")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verb", default="train", choices=["train", "rl", "distill"])
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--spike", action="store_true")
    parser.add_argument("extra", nargs="*")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    if args.text or args.spike:
        tokens = spiking_tokens() if args.spike else args.text.read_bytes()
        array.array("H", list(tokens)).tofile((args.work / "tokens.bin").open("wb"))
        args.extra.append(f"--data.0.path={args.work / 'tokens.bin'}")
    undisturbed, killed = args.work / "undisturbed", args.work / "killed"
    begin = time.monotonic()
    train(args, undisturbed, resume=False)
    whole = time.monotonic() - begin
    if num_rollbacks(undisturbed) != args.spike:
        sys.exit(f"kill_resume: expected {int(args.spike)} rollbacks of the undisturbed run, found {num_rollbacks(undisturbed)}")

    # Moments spread over start-up, steps and checkpoints; a run that ends before its moment is started from the beginning.
    rng = random.Random(args.seed)
    on_tasks = args.verb != "train"
    kills = finished = bridging = in_answers = 0
    while kills < args.kills or bridging < args.spike:
        waits = kills % 2 == 1
        if on_tasks and waits:
            is_due = has_teacher_states if args.verb == "distill" and kills % 4 == 3 else has_open_answers
            done = train(args, killed, resume=True, seconds=rng.uniform(0, 0.3), is_due=lambda: is_due(killed))
        else:
            done = train(args, killed, resume=True, seconds=rng.uniform(0.02, max(0.5, whole / 4)),
                         is_due=lambda: not (args.spike and waits) or num_rollbacks(killed) > 0)
        kills += not done
        bridging += not done and bridges_a_spike(killed)
        in_answers += not done and has_open_answers(killed)
        if done:
            finished += 1
            compare(undisturbed, killed)
            shutil.rmtree(killed)
    train(args, killed, resume=True)
    compare(undisturbed, killed)
    where = f"{in_answers} of them while answers were sampled" if on_tasks else f"{bridging} of them while a spike was bridged"
    print(f"{kills} kills, {where}, {finished + 1} finished runs, each equal to the undisturbed one ({whole:.1f} s)")


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
