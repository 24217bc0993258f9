#!/usr/bin/env python3
"""Whether an exported model computes the same in transformers: dequantised to f32 under transformers' names, and quantised from there
under the public names, each loaded there, and its logits of a text compared with ours.

    P=$(bench/transformers/setup); ninja -C build/release cachalot
    $P bench/transformers/export_check.py models/nano --text docs/design.md

Prints a line each: the largest difference of a logit and the share of positions whose likeliest token is the same. Exit code 1: a logit
differs by more than 1e-3. The quantised one is skipped where the model is not stored in FP8 and FP4: quantising would change it."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import safetensors.numpy
import torch

import models

BOUND = 1e-3

parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--text", type=pathlib.Path, required=True)
parser.add_argument("--tokens", type=int, default=512)
parser.add_argument("--cachalot", type=pathlib.Path, default=models.ROOT / "build/release/cachalot")
arguments = parser.parse_args()


def ours(*words):
    return subprocess.run([str(w) for w in (arguments.cachalot, *words)], check=True, capture_output=True, text=True).stdout


with tempfile.TemporaryDirectory() as scratch:
    directory = pathlib.Path(scratch) / "f32"
    ours("convert", arguments.model, directory, "--dtype", "f32", "--names", "transformers")
    tokenizer = arguments.model / "tokenizer.json"
    import tokenizers  # comes with transformers
    ids = tokenizers.Tokenizer.from_file(str(tokenizer)).encode(arguments.text.read_text(), add_special_tokens=False).ids[:arguments.tokens]
    ids_file, out = pathlib.Path(scratch) / "ids.safetensors", pathlib.Path(scratch) / "logits.safetensors"
    safetensors.numpy.save_file({"input_ids": numpy.asarray([ids], dtype=numpy.int32)}, ids_file)
    ours("logits", arguments.model, "--ids", ids_file, "--out", out, "--precision", "exact")
    found = safetensors.numpy.load_file(out)["logits"][0].astype(numpy.float64)
    exports = {"f32": directory}
    if "quantization_config" in json.loads((arguments.model / "config.json").read_text()):
        exports["quantised"] = pathlib.Path(scratch) / "quantised"
        ours("quantize", directory, exports["quantised"])
    largest = 0.0
    for name, export in exports.items():
        model = models.load(export, torch.float32)
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().numpy()
        difference = float(numpy.abs(found - expected).max())
        same = float((found.argmax(-1) == expected.argmax(-1)).mean())
        print(json.dumps({"export": name, "tokens": len(ids), "largest_difference": difference,
                          "largest_logit": float(numpy.abs(expected).max()), "same_likeliest_token": same, "bound": BOUND}))
        largest = max(largest, difference)
sys.exit(not largest <= BOUND)
