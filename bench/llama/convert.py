#!/usr/bin/env python3
"""Runs llama.cpp's own converter on a checkpoint whose tokenizer it has never seen.

    convert.py LLAMA_SOURCES MODEL OUT.gguf

The converter knows the pre-tokenizer of a released vocabulary by a hash of what it does with a text. A vocabulary trained
here has no such hash, and its pre-tokenizer is DeepSeek-V3's, which llama.cpp calls "deepseek-v3". Weights: its choice, which is
MXFP4 for FP4 (the same values), Q8_0 for FP8, bf16 and fp32 as they are.
"""

import runpy
import sys


def main():
    sources, model, out = sys.argv[1:]
    sys.path[:0] = [sources, f"{sources}/gguf-py"]
    import conversion

    conversion.TextModel.get_vocab_base_pre = lambda self, tokenizer: "deepseek-v3"
    sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", out]
    runpy.run_path(f"{sources}/convert_hf_to_gguf.py", run_name="__main__")


if __name__ == "__main__":
    main()
