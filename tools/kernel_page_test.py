#!/usr/bin/env python3
"""docs/kernels/gpu.md shows the kernel that tests/cuda/add_norm.cu is, and that is tested."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent


def main():
    code = (ROOT / "tests/cuda/add_norm.cu").read_text(encoding="utf-8")
    shown = code[code.index("constexpr int kRows"):code.index("}  // namespace")].rstrip()
    page = (ROOT / "docs/kernels/gpu.md").read_text(encoding="utf-8")
    assert f"```cuda\n{shown}\n```\n" in page, "docs/kernels/gpu.md: expected the code of tests/cuda/add_norm.cu, found other code"


if __name__ == "__main__":
    main()
