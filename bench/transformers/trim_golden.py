#!/usr/bin/env python3
"""tests/golden/tiny and clamp: a whole fp32 golden set (src/verify/golden.h) with its matrices rounded to bf16, computed anew by
transformers, and of what it computes some rows whole and digests of all the rest (src/verify/digest.h). Of the losses of
AdamW's steps those that do not depend on the last bit of the weights; tests/train/replay_golden holds the others with their choices.

    trim_golden.py SET OUT     # OUT/config.json, model, expected and grad_digests.safetensors, train.json
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy
import safetensors.numpy
import safetensors.torch
import torch

import models

ROW_PROJECTIONS = 4
GRADIENT_PROJECTIONS = 16
# fp32 in the public files.
FP32 = (".ape", ".bias", ".attn_sink")
# Whole rows: the first, those around the window's 32 and around multiples of 4 and 128 (ends of compressed entries), the last.
ROWS = (0, 1, 2, 3, 4, 7, 8, 31, 32, 33, 63, 64, 100, 127, 128, 129, 160, 199, 255, 256, 257, -4, -3, -2, -1)


def signs(width, count):
    """[count, width] of 1 and -1: bit k of the j-th output of splitmix64, started at 0."""
    step = numpy.uint64(0x9E3779B97F4A7C15)
    z = numpy.arange(1, width + 1, dtype=numpy.uint64) * step
    z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    z ^= z >> numpy.uint64(31)
    bits = (z >> numpy.arange(count, dtype=numpy.uint64)[:, None]) & numpy.uint64(1)
    return 1.0 - 2.0 * bits.astype(numpy.float64)


def row_digests(values):
    rows = values.reshape(-1, values.shape[-1] if values.ndim < 4 else values.shape[-2] * values.shape[-1]).astype(numpy.float64)
    return rows @ signs(rows.shape[1], ROW_PROJECTIONS).T


def gradient_digest(gradient):
    flat = gradient.ravel().astype(numpy.float64)
    return numpy.concatenate([[numpy.linalg.norm(flat)], signs(flat.size, GRADIENT_PROJECTIONS) @ flat])


def rounded(name, weight):
    fp32 = name.endswith(FP32) or "hc_" in name
    return weight if fp32 or weight.dtype != torch.float32 else weight.to(torch.bfloat16)


class Recorder:
    def __init__(self, model):
        self.found = {}
        for i, layer in enumerate(model.model.layers):
            layer.register_forward_hook(self._hook(f"hidden.{i}", lambda out: out[0] if isinstance(out, tuple) else out))
            layer.mlp.gate.register_forward_hook(self._hook(f"router_weights.{i}", lambda out: out[1]))
            layer.mlp.gate.register_forward_hook(self._hook(f"router_experts.{i}", lambda out: out[2]))
            indexer = getattr(layer.self_attn.compressor, "indexer", None)
            if indexer is not None:
                indexer.register_forward_hook(self._hook(f"topk.{i}", lambda out: out))

    def _hook(self, name, pick):
        def hook(module, inputs, output):
            self.found[name] = pick(output).detach().numpy()
        return hook


def gradients(model, public):
    """By public names: what the model saves under a name that held a public tensor's bytes is that tensor's."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        saved = safetensors.torch.load_file(pathlib.Path(scratch) / "model.safetensors")
        by_bytes = {weight.float().numpy().tobytes(): name for name, weight in public.items()}
        names = {name: by_bytes[weight.float().numpy().tobytes()] for name, weight in saved.items()}
        assert sorted(names.values()) == sorted(public)
        has_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        no_gradient = [name for name, _ in model.named_parameters() if name not in has_gradient]
        with torch.no_grad():
            for p in model.parameters():
                p.data = torch.full_like(p, float("nan")) if p.grad is None else p.grad
        model.save_pretrained(scratch)
        saved = safetensors.torch.load_file(pathlib.Path(scratch) / "model.safetensors")
    return {names[name]: g.numpy() for name, g in saved.items()
            if g.is_floating_point() and not g.isnan().any() and not names[name].endswith("gate.bias")}, no_gradient


def step_losses(directory, ids, labels, run, seed):
    """The losses of the steps; with a seed, from weights that are one rounding off."""
    model = models.load(directory.resolve(), torch.float32, "eager")
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + (torch.randint(0, 2, p.shape, generator=generator) * 2 - 1) * 2.0 ** -23)
    adamw = run["adamw"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=adamw["lr"], betas=tuple(adamw["betas"]), eps=adamw["eps"],
                                  weight_decay=adamw["weight_decay"])
    losses = []
    for _ in run["losses"]:
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main():
    whole, out = map(pathlib.Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    shutil.copyfile(whole / "config.json", out / "config.json")
    public = {name: rounded(name, w) for name, w in safetensors.torch.load_file(whole / "model.safetensors").items()}
    safetensors.torch.save_file(public, out / "model.safetensors")

    old = safetensors.numpy.load_file(whole / "expected.safetensors")
    ids, labels = (torch.from_numpy(old[name]) for name in ("input_ids", "labels"))
    length = ids.shape[1]
    model = models.load(out.resolve(), torch.float32, "eager")
    recorder = Recorder(model)
    result = model(input_ids=ids, labels=labels, use_cache=False)
    result.loss.backward()

    rows = sorted({r % length for r in ROWS if r < length})
    logits = result.logits.detach().numpy()
    expected = {"input_ids": ids.numpy().astype(numpy.int32), "labels": labels.numpy().astype(numpy.int32),
                "rows": numpy.array(rows, dtype=numpy.int32), "loss": result.loss.detach().reshape(1).numpy(),
                "logits": logits[:, rows], "digest.logits": row_digests(logits)}
    for name, values in recorder.found.items():
        if name.startswith("hidden"):
            expected[name] = values[:1, rows]
            expected["digest." + name] = row_digests(values[:1])
        elif name.startswith("router_experts"):
            expected[name] = values.reshape(-1, values.shape[-1]).astype(numpy.uint8)
        elif name.startswith("router_weights"):
            expected[name] = values.reshape(-1, values.shape[-1])
        else:
            expected[name] = values.astype(numpy.int16)
    safetensors.numpy.save_file({k: numpy.ascontiguousarray(v) for k, v in expected.items()}, out / "expected.safetensors")

    grads, no_gradient = gradients(model, public)
    digests = {name: gradient_digest(g) for name, g in grads.items()}
    safetensors.numpy.save_file(digests, out / "grad_digests.safetensors")

    run = json.loads((whole / "train.json").read_text())
    assert run["no_grad"] == no_gradient, no_gradient
    # With torch's 1e-8, elements whose gradient is rounding noise decide a loss from the fifth step on.
    run["adamw"]["eps"] = 1e-6
    losses = step_losses(out, ids, labels, run, None)
    others = [step_losses(out, ids, labels, run, seed) for seed in range(2)]
    determined = [all(abs(other[i] / loss - 1) < 1e-6 for other in others) for i, loss in enumerate(losses)]
    run["losses"] = losses[:(determined + [False]).index(False)]
    (out / "train.json").write_text(json.dumps(run, indent=1) + "\n")

    # The same code on the set as it was computes what the set holds.
    before = models.load(whole.resolve(), torch.float32, "eager")
    recorder = Recorder(before)
    logits = before(input_ids=ids, use_cache=False).logits.detach().numpy()
    assert abs(logits - old["logits"]).max() < 1e-4
    for name, values in recorder.found.items():
        values = values[:1] if name.startswith("hidden") else values
        if name.startswith(("hidden", "router_weights")):
            assert abs(numpy.sort(values.reshape(old[name].shape)) - numpy.sort(old[name])).max() < 1e-4, name
        else:
            assert (numpy.sort(values.reshape(old[name].shape)) == numpy.sort(old[name])).all(), name


if __name__ == "__main__":
    main()
