#!/usr/bin/env python3
"""Trains one model from the same weights on the same batches with transformers and with Cachalot.

    P=$(bench/transformers/setup); ninja -C build/release train_replay
    $P bench/transformers/train_compare.py                 # losses of 200 steps, then times
    $P bench/transformers/train_compare.py --no-times      # losses alone
    $P bench/transformers/train_compare.py --no-losses     # times alone

Losses: fp32, the golden model tests/golden/tiny, AdamW as its train.json has it (one group, decay of everything that has a gradient,
no clipping). torch runs first and records the experts and the indexer's picks of every row; ours runs twice: replaying them, whose
losses must all agree to 1e-5, and choosing for itself, of which the first step that differs by more is reported.
Times: fp32, the preset nano, the same threads for both, which take turns; medians of the steps' seconds (gradients and update) without
each run's first steps. The ratio is torch's seconds over ours.
Exit code 1: a loss with replay is off by more than the bound, or the ratio is below 2 (--ratio).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy
import safetensors.numpy
import torch

import models

BOUND = 1e-5
WARM_UP = 2


def text_batches(path, steps, rows, length, vocab_size, seed=1):
    """Bytes of this repository's documents as ids, rows from places drawn with a seed."""
    files = [models.ROOT / "README.md", *sorted((models.ROOT / "docs").rglob("*.md"))]
    text = numpy.frombuffer(b"\n".join(f.read_bytes() for f in files), dtype=numpy.uint8)
    starts = numpy.random.default_rng(seed).integers(0, len(text) - length, steps * rows)
    ids = numpy.stack([text[s:s + length] for s in starts]).astype(numpy.int32) % vocab_size
    safetensors.numpy.save_file({"input_ids": narrow(ids.reshape(steps, rows, length))}, path)
    return torch.from_numpy(ids.reshape(steps, rows, length).astype(numpy.int64))


def narrow(integers):
    """In the smallest type that holds them."""
    return next(integers.astype(t) for t in (numpy.int8, numpy.int16, numpy.int32) if abs(integers.astype(numpy.int64)).max() <= numpy.iinfo(t).max)


class ChoiceRecorder:
    """What the routers and indexers of a model choose, per step and row, ascending, unused places -1 and last."""

    def __init__(self, model):
        self.topk = model.config.index_topk
        self.steps = {}
        for i, layer in enumerate(model.model.layers):
            if not layer.mlp.is_hash:
                layer.mlp.gate.register_forward_hook(self._experts(f"layers.{i}.experts"))
            indexer = getattr(layer.self_attn.compressor, "indexer", None)
            if indexer is not None:
                indexer.register_forward_hook(self._selected(f"layers.{i}.selected"))

    def _experts(self, name):
        def hook(module, inputs, output):
            self.steps.setdefault(name, []).append(output[2].sort(dim=-1).values.numpy().astype(numpy.int32))
        return hook

    def _selected(self, name):
        def hook(module, inputs, output):
            last = torch.iinfo(output.dtype).max
            picks = torch.where(output < 0, last, output).sort(dim=-1).values.flatten(0, 1)
            padded = torch.full((picks.shape[0], self.topk), -1)
            padded[:, :picks.shape[1]] = torch.where(picks == last, -1, picks)
            self.steps.setdefault(name, []).append(padded.numpy().astype(numpy.int32))
        return hook

    def save(self, path):
        safetensors.numpy.save_file({name: narrow(numpy.stack(steps)) for name, steps in self.steps.items()}, path)


def train_torch(model, batches, adamw):
    """Losses of the steps before their updates, and seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=adamw["lr"], betas=tuple(adamw["betas"]), eps=adamw["eps"],
                                  weight_decay=adamw["weight_decay"], fused=True)
    losses, seconds = [], []
    for ids in batches:
        start = time.perf_counter()
        optimizer.zero_grad()
        # The mean over all labelled positions in fp32; labels are shifted by the model.
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    return losses, seconds


def train_ours(arguments, model, batches, adamw, threads, choices=None):
    out = models.WORK / "ours.json"
    command = [arguments.train_replay, model, "--batches", batches, "--out", out, "--threads", threads, "--lr", adamw["lr"],
               "--beta1", adamw["betas"][0], "--beta2", adamw["betas"][1], "--eps", adamw["eps"],
               "--weight-decay", adamw["weight_decay"]]
    if choices is not None:
        command += ["--choices", choices]
    subprocess.run([str(c) for c in command], check=True)
    found = json.loads(out.read_text())
    return found["losses"], found["seconds"]


def relative(expected, found):
    return [abs(f - e) / abs(e) for e, f in zip(expected, found)]


def compare_losses(arguments):
    golden = models.ROOT / "tests/golden/tiny"
    adamw = json.loads((golden / "train.json").read_text())["adamw"]
    for key in ("lr", "eps", "weight_decay"):
        if getattr(arguments, key) is not None:
            adamw[key] = getattr(arguments, key)
    model = models.load(golden, torch.float32, "eager")
    path, choices = models.WORK / "batches.safetensors", models.WORK / "choices.safetensors"
    batches = text_batches(path, arguments.steps, 2, arguments.length, model.config.vocab_size, arguments.seed)
    recorder = ChoiceRecorder(model)
    torch_losses, _ = train_torch(model, batches, adamw)
    recorder.save(choices)
    replayed, _ = train_ours(arguments, golden, path, adamw, arguments.threads, choices)
    free, _ = train_ours(arguments, golden, path, adamw, arguments.threads)

    off = relative(torch_losses, replayed)
    worst = max(range(len(off)), key=off.__getitem__)
    off_free = relative(torch_losses, free)
    first = next((s for s, o in enumerate(off_free) if o > BOUND), None)
    print(f"tests/golden/tiny, fp32, {arguments.steps} steps of 2 x {arguments.length} tokens, AdamW {adamw}")
    print(f"losses: {torch_losses[0]:.6f} at first, {torch_losses[-1]:.6f} at last (torch)")
    print(f"choices replayed: worst step {worst}: {torch_losses[worst]:.8f} and {replayed[worst]:.8f}, relative {off[worst]:.2g} "
          f"(bound {BOUND:g})")
    print("choices of each side's own: " + ("no step is off by more" if first is None else
          f"first step off by more: {first}: {torch_losses[first]:.8f} and {free[first]:.8f}") +
          f"; worst relative {max(off_free):.2g}")
    if arguments.losses_out:
        arguments.losses_out.write_text(json.dumps({"torch": torch_losses, "replayed": replayed, "free": free}))
    return off[worst] <= BOUND


def compare_times(arguments):
    directory = models.make(arguments.model, torch.float32)
    adamw = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
    path = models.WORK / "timed.safetensors"
    length, rows = arguments.time_length, arguments.time_rows
    batches = text_batches(path, arguments.time_steps + WARM_UP, rows, length, models.SHAPES[arguments.model]["vocab_size"])
    torch_seconds, our_seconds = [], []
    for _ in range(arguments.rounds):
        model = models.load(directory, torch.float32, arguments.experts)
        torch_losses, seconds = train_torch(model, batches, adamw)
        torch_seconds += seconds[WARM_UP:]
        del model
        our_losses, seconds = train_ours(arguments, directory, path, adamw, arguments.threads)
        our_seconds += seconds[WARM_UP:]
    off = relative(torch_losses[:1], our_losses[:1])[0]
    theirs, ours = statistics.median(torch_seconds), statistics.median(our_seconds)
    tokens = rows * length
    print(f"{arguments.model}, fp32, {arguments.threads} threads, steps of {rows} x {length} tokens, {len(our_seconds)} timed; "
          f"first losses differ by {off:.2g}")
    print(f"transformers ({arguments.experts} experts): {theirs:.3f} s a step, {tokens / theirs:.0f} tokens/s")
    print(f"cachalot: {ours:.3f} s a step, {tokens / ours:.0f} tokens/s")
    print(f"ratio: {theirs / ours:.2f}")
    return off <= BOUND and theirs / ours >= arguments.ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-replay", type=pathlib.Path, default=models.ROOT / "build/release/train_replay")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-losses", action="store_true")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--length", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="of the places that the rows of text begin at")
    parser.add_argument("--lr", type=float, help="another than the golden run's")
    parser.add_argument("--eps", type=float)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--losses-out", type=pathlib.Path, help="JSON with all losses")
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--model", choices=models.SHAPES, default="nano", help="of the times")
    parser.add_argument("--time-length", type=int, default=512)
    parser.add_argument("--time-rows", type=int, default=4)
    parser.add_argument("--time-steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--experts", default="eager", help="transformers' experts_implementation for the times")
    parser.add_argument("--ratio", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models.WORK.mkdir(parents=True, exist_ok=True)
    passed = arguments.no_losses or compare_losses(arguments)
    passed = (arguments.no_times or compare_times(arguments)) and passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
