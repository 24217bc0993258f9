#!/usr/bin/env python3
"""A false fact about a tile does not compile. Usage: tests/cuda/false_facts_test.py [NVCC]"""
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent.parent
# What stands in a kernel, a fact that is true there and one that is false.
STATEMENTS = [
    ("tile::sync_threads<{}, 64>();", "15", "16"),                               # a barrier that the chip has
    ("tile::sync_threads<1, {}>();", "64", "48"),                                # whole warps
    ("tile::shrink_registers<{}>();", "56", "60"),                               # by eight
    ("tile::CoreMatrices<{}>::descriptor(0);", "24", "20"),                      # columns by eight
    ("tile::load_shared_state(static_cast<const {}*>(bytes));", "float", "double"),  # 4, 8 or 16 bytes
    ("tile::load_once(static_cast<const {}*>(bytes));", "tile::Vector16", "float"),  # which is said by a type
]


def compile_kernel(nvcc, folder, statements):
    source = pathlib.Path(folder) / "facts.cu"
    source.write_text('#include "tile/copy.cuh"\n#include "tile/mma.cuh"\nusing namespace cachalot;\n'
                      "__global__ void kernel(const void* bytes) {\n" + "\n".join(statements) + "\n}\n", encoding="utf-8")
    return subprocess.run([nvcc, "-std=c++20", "-gencode=arch=compute_90a,code=sm_90a", f"-I{ROOT / 'src'}", "-ptx", "-o",
                           source.with_suffix(".ptx"), source], capture_output=True, text=True, check=False)


def main():
    nvcc = sys.argv[1] if len(sys.argv) > 1 else "nvcc"
    with tempfile.TemporaryDirectory() as folder:
        good = compile_kernel(nvcc, folder, [statement.format(true) for statement, true, _ in STATEMENTS])
        assert good.returncode == 0, f"expected true facts to compile, found\n{good.stderr}"
        for statement, _, false in STATEMENTS:
            text = statement.format(false)
            assert compile_kernel(nvcc, folder, [text]).returncode != 0, f"expected a refusal, found that it compiles: {text}"


if __name__ == "__main__":
    main()
