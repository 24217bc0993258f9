#!/usr/bin/env python3
"""tools/check_links finds what leads nowhere, and nothing else."""

import pathlib
import subprocess
import sys
import tempfile

TOOL = pathlib.Path(__file__).with_name("check_links")


def main():
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        subprocess.run(["git", "-C", name, "init", "-q"], check=True)
        (root / "docs/reference").mkdir(parents=True)
        (root / "docs/reference/forward.md").write_text("# Forward\n## 3. Attention\n### 3.7 Scores\n- **A5** a property\n")
        (root / "docs/other.md").write_text("See [it](reference/forward.md#x) and [none](missing.md), [web](https://example.org/a).\n")
        (root / "good.h").write_text("// Source  reference/forward\n//         3, 3.7 and A5. 12 rows; docs/other.md.\n")

        def run():
            done = subprocess.run([sys.executable, TOOL, "--root", name], stdout=subprocess.PIPE, text=True)
            return done.returncode, done.stdout.splitlines()

        assert run() == (1, ["docs/other.md: link to missing.md: no such file"]), run()
        (root / "docs/other.md").unlink()
        (root / "bad.h").write_text("// reference/forward 3.7, 3.8; reference/backward 1; reference/forward A6\n")
        (root / "docs/reference/forward.md").open("a").write("see ../elsewhere/golden\n")
        code, found = run()
        assert code == 1 and sorted(line.split(": ")[-1] for line in found) == [
            "docs/reference/forward.md has no 3.8", "docs/reference/forward.md has no A6", "no docs/reference/backward.md", "no such file",
            "outside the project"], found


if __name__ == "__main__":
    main()
