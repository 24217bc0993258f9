#!/usr/bin/env python3
"""tools/check_lines on what it must refuse and must not."""

import pathlib
import subprocess
import sys
import tempfile

TOOL = pathlib.Path(__file__).with_name("check_lines")
GOOD = '''// A comment of a hundred columns is as long as a line may be. ------------------------------------
int a = 1;  // short
int b =
    f(1);
const char* text = R"(a raw string keeps its lines, however long they are: their text is what the program means to say
and the lines between, which are as long as they need to be, even over a hundred columns, are of it too
)";
  x = y;
  z = 2;  // not a declaration torn in two
'''
TORN = '''struct S {
  double
      gap;  // between the two
  bool on =
      false;  // unless
};
'''


def run(text):
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "file.h"
        path.write_text(text)
        done = subprocess.run([sys.executable, TOOL, path], stdout=subprocess.PIPE, text=True)
        return done.returncode, [line.split(":")[1] for line in done.stdout.splitlines()]


def main():
    assert run(GOOD) == (0, []), run(GOOD)
    assert run(TORN) == (1, ["3", "5"]), run(TORN)
    long = 'f("' + "x" * 97 + '");\n'
    assert run(long) == (1, ["1"]), run(long)


if __name__ == "__main__":
    main()
