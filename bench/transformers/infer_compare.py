#!/usr/bin/env python3
"""Prefill and decode of one model with transformers and with Cachalot on this CPU.

    P=$(bench/transformers/setup); ninja -C build/release cachalot
    $P bench/transformers/infer_compare.py                                   # flash-slice, 512 and 64 tokens, 1 and 2 threads
    $P bench/transformers/infer_compare.py --model nano --prompt 256         # seconds instead of minutes

The model is made by transformers with made-up weights and saved in bf16. First the logits must agree: both sides in fp32 over these
weights, the relative norm of the difference at most 1e-4. Then both run in bf16, taking turns: prefill of the prompt at once, then
decode, one token at a time, greedily. Medians over the rounds; a ratio is transformers' seconds over ours. Loading is not timed.
Exit code 1: the logits do not agree.
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
import transformers

import models

BOUND = 1e-4
CHECKED_TOKENS = 160  # beyond a window of 128 and one HCA entry


def run_ours(arguments, *words):
    return subprocess.run([str(w) for w in (arguments.cachalot, *words)], check=True, stdout=subprocess.PIPE, text=True).stdout


def our_logits(arguments, directory, ids, precision):
    path, out = models.WORK / "ids.safetensors", models.WORK / "logits.safetensors"
    safetensors.numpy.save_file({"input_ids": numpy.asarray([ids], dtype=numpy.int32)}, path)
    run_ours(arguments, "logits", directory, "--ids", path, "--out", out, "--precision", precision)
    return safetensors.numpy.load_file(out)["logits"][0].astype(numpy.float64)


def torch_logits(directory, ids, dtype):
    model = models.load(directory, dtype)
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().numpy()


def distance(expected, found):
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))


def check_logits(arguments, directory, ids):
    reference = torch_logits(directory, ids, torch.float32)
    exact = distance(reference, our_logits(arguments, directory, ids, "exact"))
    theirs = distance(reference, torch_logits(directory, ids, torch.bfloat16))
    ours = distance(reference, our_logits(arguments, directory, ids, "bf16"))
    print(f"logits of {len(ids)} tokens, relative norm of the difference from transformers in fp32: ours in fp32 {exact:.2g} "
          f"(bound {BOUND:g}); in bf16 transformers {theirs:.2g}, ours {ours:.2g}", flush=True)
    return exact <= BOUND


def time_torch(model, ids, num_tokens, threads):
    """Seconds of the prefill of all but the last id, and of num_tokens steps from it."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        cache = transformers.DynamicCache(config=model.config)
        start = time.perf_counter()
        model(input_ids=torch.tensor([ids[:-1]]), cache=cache, use_cache=True, logits_to_keep=1)
        prefill = time.perf_counter() - start
        token = torch.tensor([ids[-1:]])
        start = time.perf_counter()
        for _ in range(num_tokens):
            token = model(input_ids=token, cache=cache, use_cache=True).logits[:, -1:].argmax(-1)
        return prefill, time.perf_counter() - start


def time_ours(arguments, directory, ids, num_tokens, threads):
    out = run_ours(arguments, "generate", directory, "--prompt-ids", ",".join(map(str, ids)), "--max-tokens", num_tokens,
                   "--ignore-eos", "--greedy", "--json", "--threads", threads, "--precision", "bf16", "--chunk", len(ids))
    timings = json.loads(out)["timings"]
    assert timings["completion_tokens"] == num_tokens
    return timings["prefill_seconds"], timings["decode_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cachalot", type=pathlib.Path, default=models.ROOT / "build/release/cachalot")
    parser.add_argument("--model", choices=models.SHAPES, default="flash-slice")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--experts", help="transformers' experts_implementation (default: its choice)")
    arguments = parser.parse_args()
    models.WORK.mkdir(parents=True, exist_ok=True)
    directory = models.make(arguments.model, torch.bfloat16)
    vocab_size = models.SHAPES[arguments.model]["vocab_size"]
    ids = numpy.random.default_rng(1).integers(0, vocab_size, arguments.prompt).tolist()
    if not check_logits(arguments, directory, ids[:CHECKED_TOKENS]):
        return 1
    model = models.load(directory, torch.bfloat16, arguments.experts)
    num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"{arguments.model}, {num_bytes / 1e9:.2f} GB, bf16; prompt of {arguments.prompt}, {arguments.tokens} tokens, "
          f"medians of {arguments.rounds}", flush=True)
    for threads in arguments.threads:
        time_torch(model, ids, 2, threads)  # warms up
        theirs, ours = [], []
        for _ in range(arguments.rounds):
            theirs.append(time_torch(model, ids, arguments.tokens, threads))
            ours.append(time_ours(arguments, directory, ids, arguments.tokens, threads))
        for what, count, i in (("prefill", len(ids) - 1, 0), ("decode", arguments.tokens, 1)):
            a, b = (statistics.median(run[i] for run in runs) for runs in (theirs, ours))
            print(f"{threads} threads, {what}: transformers {count / a:.1f} tokens/s, cachalot {count / b:.1f} tokens/s, "
                  f"ratio {a / b:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
