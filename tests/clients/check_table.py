"""Checks that README.md's table of what breaks clients has every row, and that each of its tests is there."""

import glob
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
NUM_ROWS = 44


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def cpp_tests():
    found = set()
    for pattern in ["src/**/*_test.cpp", "tests/**/*_test.cpp"]:
        for path in glob.glob(os.path.join(ROOT, pattern), recursive=True):
            found |= {f"{suite}.{name}" for suite, name in re.findall(r"^TEST(?:_[FP])?\((\w+), (\w+)\)", read(path), re.M)}
    return found


def python_tests():
    """Methods with their classes, those that a class has from the one before it included."""
    found = set()
    for path in glob.glob(os.path.join(HERE, "*_test.py")):
        module = os.path.basename(path)[:-3]
        methods = {}
        for name, base, body in re.findall(r"^class (\w+)\(([\w.]+)\):\n((?:(?:[ ].*)?\n)*)", read(path), re.M):
            methods[name] = methods.get(base, []) + re.findall(r"^    def (test_\w+)\(", body, re.M)
            found |= {f"{module}.{name}.{method}" for method in methods[name]}
    return found


def main():
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.*) \|$", read(os.path.join(HERE, "README.md")), re.M)
    numbers = [int(number) for number, _, _ in rows]
    faults = []
    if numbers != list(range(1, NUM_ROWS + 1)):
        faults.append(f"expected the rows 1 to {NUM_ROWS}, found {numbers}")
    known = cpp_tests() | python_tests()
    for number, _, cell in rows:
        names = re.findall(r"`([\w.]+)`", cell)
        if not names:
            faults.append(f"row {number}: expected at least one test, found none")
        faults += [f"row {number}: there is no test {name}" for name in names if name not in known]
    print("\n".join(faults) or f"{len(rows)} rows")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
