#!/usr/bin/env python3
"""tools/check_tree counts tracked files, and those alone."""

import pathlib
import subprocess
import sys
import tempfile

TOOL = pathlib.Path(__file__).with_name("check_tree")


def main():
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        git = ["git", "-C", name]
        subprocess.run([*git, "init", "-q"], check=True)
        (root / "small").write_bytes(bytes(1 << 19))
        (root / "ignored").write_bytes(bytes(1 << 23))
        (root / "large file").write_bytes(bytes(1 << 21))
        subprocess.run([*git, "add", "small", "large file"], check=True)

        def run(mib):
            done = subprocess.run([sys.executable, TOOL, "--root", name, "--mib", str(mib)], stdout=subprocess.PIPE, text=True)
            return done.returncode, done.stdout

        assert run(2.5) == (0, "2 tracked files, 2.5 MiB (at most 2.5)\n"), run(2.5)
        code, out = run(2.4)
        assert code == 1 and "2.00 MiB  large file" in out and "ignored" not in out, out


if __name__ == "__main__":
    main()
