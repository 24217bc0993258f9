#!/usr/bin/env python3
"""The AdamW steps of a golden run (train.json) once more in torch, with what they chose, as train_replay reads it.

    record_golden.py tests/golden/tiny OUT     # OUT/batches.safetensors, choices.safetensors, losses.json
"""

import json
import pathlib
import subprocess
import sys

import numpy
import safetensors.numpy
import torch

import models
import train_compare


def main():
    golden, out = map(pathlib.Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    run = json.loads((golden / "train.json").read_text())
    expected = safetensors.numpy.load(subprocess.run(["zstd", "-dc", golden / "expected.safetensors.zst"], stdout=subprocess.PIPE, check=True).stdout)
    steps = 20
    torch.set_num_threads(2)
    model = models.load(golden.resolve(), torch.float32, "eager")
    recorder = train_compare.ChoiceRecorder(model)
    adamw = run["adamw"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=adamw["lr"], betas=tuple(adamw["betas"]), eps=adamw["eps"],
                                  weight_decay=adamw["weight_decay"])
    ids, labels = (torch.from_numpy(expected[name].astype(numpy.int64)) for name in ("input_ids", "labels"))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    recorder.save(out / "choices.safetensors")
    safetensors.numpy.save_file({name: train_compare.narrow(numpy.stack([expected[name]] * steps)) for name in ("input_ids", "labels")},
                                out / "batches.safetensors")
    (out / "losses.json").write_text(json.dumps({"losses": losses}, indent=1))


if __name__ == "__main__":
    main()
