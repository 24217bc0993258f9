#!/usr/bin/env python3
"""tools/kernel_table changes what is between the marks of a page, and refuses a page without them."""

import importlib.machinery
import importlib.util
import pathlib

loader = importlib.machinery.SourceFileLoader("kernel_table", str(pathlib.Path(__file__).with_name("kernel_table")))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("kernel_table", loader))
loader.exec_module(tool)


def main():
    page = f"before\n{tool.BEGIN}| old |\n{tool.END}after\n"
    expected = f"before\n{tool.BEGIN}| new |\n{tool.END}after\n"
    assert tool.replaced(page, "| new |\n\n") == expected
    assert tool.replaced(expected, "| new |") == expected
    for broken in (page.replace(tool.BEGIN, ""), page + tool.END, tool.END + tool.BEGIN):
        try:
            tool.replaced(broken, "")
        except ValueError:
            continue
        raise AssertionError(broken)
    real = (pathlib.Path(__file__).parent.parent / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert tool.replaced(real, "x") != real


if __name__ == "__main__":
    main()
