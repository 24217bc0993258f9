#!/usr/bin/env python3
"""train_replay on what torch and transformers did: tests/train/replay holds the batches and choices (gzip -9 -n) and losses of six steps from
tests/golden/tiny, recorded by train_compare.py --no-times --steps 6 --length 136 (torch 2.11.0, transformers 5.17.0), and
tests/train/replay_golden those of twenty steps as the golden run's, the golden batch each time, its masked labels with it.

    replay_test.py TRAIN_REPLAY
"""

import json
import lzma
import pathlib
import struct
import subprocess
import sys
import tempfile

BOUND = 1e-5
TESTS = pathlib.Path(__file__).resolve().parents[2] / "tests"
FIXTURE = TESTS / "train/replay"
GOLDEN_STEPS = TESTS / "train/replay_golden"
ADAMW = json.loads((TESTS / "golden/tiny/train.json").read_text())["adamw"]


def unpacked(path):
    return lzma.decompress(path.read_bytes())


class Choices:
    """The fixture's, to change elements of."""

    def __init__(self, fixture=FIXTURE):
        self.bytes = bytearray(unpacked(fixture / "choices.safetensors.xz"))
        size = struct.unpack_from("<Q", self.bytes)[0]
        self.header, self.data = json.loads(self.bytes[8:8 + size]), 8 + size

    def place(self, name, step, row, column):
        entry = self.header[name]
        _, rows, columns = entry["shape"]
        assert entry["dtype"] == "I8", entry
        return self.data + entry["data_offsets"][0] + (step * rows + row) * columns + column

    def get(self, *place):
        return struct.unpack_from("<b", self.bytes, self.place(*place))[0]

    def set(self, value, *place):
        struct.pack_into("<b", self.bytes, self.place(*place), value)


def run(program, folder, choices, fixture=FIXTURE):
    path, batches, out = folder / "choices.safetensors", folder / "batches.safetensors", folder / "out.json"
    path.write_bytes(choices.bytes)
    batches.write_bytes(unpacked(fixture / "batches.safetensors.xz"))
    command = [program, TESTS / "golden/tiny", "--batches", batches, "--choices", path, "--out", out,
               "--lr", ADAMW["lr"], "--beta1", ADAMW["betas"][0], "--beta2", ADAMW["betas"][1], "--eps", ADAMW["eps"],
               "--weight-decay", ADAMW["weight_decay"], "--threads", 1]
    done = subprocess.run([str(c) for c in command], stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr, json.loads(out.read_text())["losses"] if done.returncode == 0 else None


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    failures = []

    def check(condition, message):
        if not condition:
            failures.append(message)

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for fixture in (GOLDEN_STEPS, FIXTURE):
            code, error, replayed = run(program, folder, Choices(fixture), fixture)
            assert code == 0, error
            expected = json.loads((fixture / "losses.json").read_text())["losses"]
            off = [abs(f - e) / e for e, f in zip(expected, replayed)]
            check(len(replayed) == len(expected) and max(off) <= BOUND,
                  f"{fixture.name}: losses: relative differences {off}, bound {BOUND}")

        # A choice changed in step 3 changes that step's loss, and none before.
        for tensor, column in (("layers.3.experts", 0), ("layers.2.selected", 15)):
            changed, place = Choices(), (tensor, 3, 100, column)
            chosen = {changed.get(tensor, 3, 100, c) for c in range(2)}
            changed.set(-1 if "selected" in tensor else min(set(range(8)) - chosen), *place)
            code, error, losses = run(program, folder, changed)
            assert code == 0, error
            check(losses[:3] == replayed[:3], f"{tensor}: a change in step 3 reached an earlier one")
            check(losses[3] != replayed[3], f"{tensor}: a change in step 3 did not reach it")

        # Row 100's position leaves it 25 entries.
        for tensor, value in (("layers.3.experts", 8), ("layers.2.selected", 25)):
            wrong = Choices()
            wrong.set(value, tensor, 3, 100, 0)
            code, error, _ = run(program, folder, wrong)
            check(code == 2 and tensor in error and str(value) in error, f"{tensor} = {value}: exit code {code}, {error!r}")

    print("\n".join(failures) or "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
