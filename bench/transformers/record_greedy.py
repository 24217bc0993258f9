#!/usr/bin/env python3
"""tests/golden/nano/expected.json: what transformers makes of models/nano, dequantised to f32 (export_check.py): 48 greedy tokens of
each prompt, and the mean loss of a text's tokens. A token of which the runner-up is near is refused: rounding must not decide it.

    P=$(bench/transformers/setup); ninja -C build/release cachalot
    $P bench/transformers/record_greedy.py tests/golden/nano/expected.json
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import tokenizers
import torch

import models

PROMPTS = ("In the beginning", "Sort these numbers in ascending order: 5, 3, 9.", "def read(path):\n    ",
           "The file is opened for reading, and every line of it is split at its first space. " * 12)
NUM_TOKENS = 48
HELD_TOKENS = 700
GAP = 1e-3  # of two logits; ours are within 1e-4 of these (export_check.py)


def main():
    out = pathlib.Path(sys.argv[1])
    nano = models.ROOT / "models/nano"
    tokenizer = tokenizers.Tokenizer.from_file(str(nano / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as scratch:
        directory = pathlib.Path(scratch) / "f32"
        subprocess.run([models.ROOT / "build/release/cachalot", "convert", nano, directory, "--dtype", "f32", "--names", "transformers"],
                       check=True, stdout=subprocess.DEVNULL)
        model = models.load(directory, torch.float32)
    prompts = []
    with torch.inference_mode():
        for text in PROMPTS:
            ids = [model.config.bos_token_id] + tokenizer.encode(text, add_special_tokens=False).ids
            greedy = []
            for _ in range(NUM_TOKENS):
                best = model(input_ids=torch.tensor([ids + greedy]), use_cache=False).logits[0, -1].topk(2)
                assert best.values[0] - best.values[1] > GAP, (text, len(greedy), best)
                greedy.append(best.indices[0].item())
            prompts.append({"text": text, "ids": ids, "greedy": greedy,
                            "greedy_text": tokenizer.decode(greedy, skip_special_tokens=False)})
        held = tokenizer.encode((models.ROOT / "docs/design.md").read_text(), add_special_tokens=False).ids[:HELD_TOKENS]
        ids = torch.tensor([held])
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids, use_cache=False).logits[0, :-1].double(), ids[0, 1:]).item()
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"prompts": prompts, "held_ids": held, "held_loss": loss}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
