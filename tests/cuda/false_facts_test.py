#!/usr/bin/env python3
"""A false fact about a tile does not compile. Usage: tests/cuda/false_facts_test.py [NVCC]"""
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent.parent
# What stands in a kernel, a fact that is true there and one that is false.
STATEMENTS = [
    # A barrier that the chip has, and whole warps.
    ("tile::sync_threads<{}, 64>();", "15", "16"),
    ("tile::sync_threads<1, {}>();", "64", "48"),
    # By eight: registers, columns.
    ("tile::shrink_registers<{}>();", "56", "60"),
    ("tile::CoreMatrices<{}>::descriptor(0);", "24", "20"),
    # 4, 8 or 16 bytes, which is said by a type.
    ("tile::load_shared_state(static_cast<const {}*>(bytes));", "float", "double"),
    ("tile::load_once(static_cast<const {}*>(bytes));", "tile::Vector16", "float"),
]


def compile_kernel(nvcc, folder, statements):
    source = pathlib.Path(folder) / "facts.cu"
    text = '#include "tile/copy.cuh"\n#include "tile/mma.cuh"\nusing namespace cachalot;\n'
    text += "__global__ void kernel(const void* bytes) {\n" + "\n".join(statements) + "\n}\n"
    source.write_text(text, encoding="utf-8")
    command = [nvcc, "-std=c++20", "-gencode=arch=compute_90a,code=sm_90a", f"-I{ROOT / 'src'}",
               "-ptx", "-o", source.with_suffix(".ptx"), source]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main():
    nvcc = sys.argv[1] if len(sys.argv) > 1 else "nvcc"
    with tempfile.TemporaryDirectory() as folder:
        facts = [statement.format(true) for statement, true, _ in STATEMENTS]
        good = compile_kernel(nvcc, folder, facts)
        assert good.returncode == 0, f"expected true facts to compile, found\n{good.stderr}"
        for statement, _, false in STATEMENTS:
            text = statement.format(false)
            made = compile_kernel(nvcc, folder, [text])
            assert made.returncode != 0, f"expected a refusal, found that it compiles: {text}"


if __name__ == "__main__":
    main()
