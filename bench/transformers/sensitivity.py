#!/usr/bin/env python3
"""How far a golden run's AdamW losses depend on rounding: torch's own steps (record_golden.py) beside ours with its choices, and ours
with every weight moved by one rounding or not (three seeds), with the same choices, beside ours.

    sensitivity.py tests/golden/clamp OUT     # OUT as record_golden.py leaves it, made where it is missing
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy
import safetensors.numpy
import safetensors.torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROUNDING = 2.0 ** -24


def ours(model, recorded, adamw, out):
    command = [ROOT / "build/release/train_replay", model, "--batches", recorded / "batches.safetensors",
               "--choices", recorded / "choices.safetensors", "--out", out, "--lr", adamw["lr"], "--beta1", adamw["betas"][0],
               "--beta2", adamw["betas"][1], "--eps", adamw["eps"], "--weight-decay", adamw["weight_decay"]]
    subprocess.run([str(c) for c in command], check=True)
    return json.loads(out.read_text())["losses"]


def moved(golden, folder, seed):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(golden, folder)
    rng = numpy.random.default_rng(seed)
    for path in folder.glob("model*.safetensors"):
        tensors = {name: (w.float() if w.is_floating_point() else w).numpy() for name, w in safetensors.torch.load_file(path).items()}
        for name, values in tensors.items():
            if values.dtype == numpy.float32:
                tensors[name] = (values * (1 + ROUNDING * rng.choice([-1, 0, 1], values.shape))).astype(numpy.float32)
        safetensors.numpy.save_file(tensors, path)
    return folder


def show(title, expected, found):
    print(f"{title:<34}" + " ".join(f"{abs(f - e) / abs(e):.0e}" for e, f in zip(expected, found)))


def main():
    golden, out = map(pathlib.Path, sys.argv[1:3])
    if not (out / "losses.json").exists():
        subprocess.run([sys.executable, pathlib.Path(__file__).with_name("record_golden.py"), golden, out], check=True)
    run = json.loads((golden / "train.json").read_text())
    torch_losses = json.loads((out / "losses.json").read_text())["losses"]
    base = ours(golden, out, run["adamw"], out / "ours.json")
    show("torch here, torch in the file", run["losses"], torch_losses)
    show("ours, torch here", torch_losses, base)
    for seed in range(3):
        show("ours one rounding off, ours", base, ours(moved(golden, out / "moved", seed), out, run["adamw"], out / "ours.json"))


if __name__ == "__main__":
    main()
