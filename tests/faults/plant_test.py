"""tests/faults/plant.py on made-up sources: what it makes of a patch, and which patches it must refuse, with patch and file."""
import os
import subprocess
import sys
import tempfile
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "plant.py")
SOURCE = """#include "a.h"

int f(int x) {
  x += 1;
  g(x);
  return x;
}
"""


def patch(hunk, file="src/a.cpp"):
    return f"Why it is wrong.\n--- a/{file}\n+++ b/{file}\n@@ -1,1 +1,1 @@\n{hunk}"


TWICE = patch(" int f(int x) {\n-  x += 1;\n+  x += 2;\n   g(x);\n")
THREE = patch("-  x += 1;\n+  x += 3;\n   g(x);\n")
MORE = patch("   x += 1;\n+  x *= 2;\n   g(x);\n")
NEVER = patch("   x += 1;\n-  g(x);\n   return x;\n")


class Plant(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def plant(self, patches, source=SOURCE):
        """Exit status, what was printed, and the copy's lines below the declarations of the switches."""
        self.write("src/a.cpp", source)
        for name, text in patches.items():
            self.write(f"patches/{name}.patch", text)
        done = subprocess.run([sys.executable, TOOL, "--patches", self.path("patches"), "--source", self.folder.name,
                               "--out", self.path("out")], capture_output=True, text=True)
        copy = []
        if done.returncode == 0:
            with open(self.path("out/src/a.cpp"), encoding="utf-8") as file:
                copy = file.read().splitlines()
        return done.returncode, done.stdout + done.stderr, copy

    def test_a_change_is_behind_its_switch(self):
        code, output, copy = self.plant({"twice": TWICE})
        self.assertEqual((code, output), (0, "src/a.cpp\nplanted.cpp\n"))
        self.assertEqual(copy, ["namespace cachalot::planted {", "extern bool twice;", "}", '#include "a.h"', "",
                                "int f(int x) {", "if (::cachalot::planted::twice) {", "  x += 2;", "} else {", "  x += 1;", "}",
                                "  g(x);", "  return x;", "}"])
        with open(self.path("out/planted.cpp"), encoding="utf-8") as file:
            self.assertIn('{"twice", &twice},', file.read())

    def test_faults_of_the_same_lines_are_alternatives(self):
        _, _, copy = self.plant({"three": THREE, "twice": TWICE})
        self.assertEqual(copy[6:13], ["if (::cachalot::planted::three) {", "  x += 3;",
                                      "} else if (::cachalot::planted::twice) {", "  x += 2;", "} else {", "  x += 1;", "}"])

    def test_lines_may_be_added_or_left_out_beside_a_change(self):
        _, _, copy = self.plant({"more-of-it": MORE, "never": NEVER, "twice": TWICE})
        self.assertEqual(copy[1], "extern bool more_of_it, never, twice;")
        self.assertEqual(copy[11:18], ["if (::cachalot::planted::more_of_it) {", "  x *= 2;", "}",
                                       "if (::cachalot::planted::never) {", "} else {", "  g(x);", "}"])

    def test_lines_at_column_0_stay(self):
        _, _, copy = self.plant({"with": patch(' #include "a.h"\n+#include <cmath>\n \n')})
        self.assertEqual(copy[3:5], ['#include "a.h"', "#include <cmath>"])
        self.assertNotIn("if", "".join(copy))

    def test_a_copy_that_stays_the_same_is_not_written_again(self):
        self.plant({"twice": TWICE})
        os.utime(self.path("out/src/a.cpp"), (1, 1))
        self.plant({"twice": TWICE})
        self.assertEqual(os.path.getmtime(self.path("out/src/a.cpp")), 1)
        self.plant({"twice": TWICE}, SOURCE + "// end\n")
        self.assertNotEqual(os.path.getmtime(self.path("out/src/a.cpp")), 1)

    def refuses(self, patches, words, source=SOURCE):
        code, output, _ = self.plant(patches, source)
        self.assertEqual(code, 1, output)
        for word in words:
            self.assertIn(word, output)

    def test_refuses_a_patch_that_no_longer_applies_and_names_it_and_the_file(self):
        self.refuses({"twice": TWICE}, ["twice.patch: src/a.cpp:", "found them in 0"], SOURCE.replace("x += 1", "x += 9"))

    def test_refuses_a_patch_of_lines_that_stand_twice(self):
        self.refuses({"never": NEVER}, ["never.patch: src/a.cpp:", "found them in 2"], SOURCE + SOURCE)

    def test_refuses_changes_that_collide(self):
        both = patch("-  x += 1;\n-  g(x);\n+  g(x + 1);\n")
        self.refuses({"both": both, "never": NEVER}, ["src/a.cpp", "never", "both"])

    def test_refuses_a_header_a_missing_file_and_text_without_a_diff(self):
        self.write("src/a.h", "int x;\n")
        self.refuses({"header": patch("+  int y;\n int x;\n", "src/a.h")}, ["header.patch: src/a.h:"])
        self.refuses({"gone": patch("+  int x;\n", "src/b.cpp")}, ["gone.patch: src/b.cpp:"])
        self.refuses({"words": "nothing\n"}, ["words.patch: expected a unified diff"])

    def test_refuses_what_it_cannot_put_behind_a_switch(self):
        self.refuses({"all": patch("-int f(int x) {\n+int f(long x) {\n   x += 1;\n")}, ["all: src/a.cpp:", "column 0"])
        self.refuses({"line": patch('-#include "a.h"\n \n')}, ["line: src/a.cpp:", "column 0"])

    def test_refuses_parts_of_statements(self):
        parts = SOURCE.replace("g(x);", "if (x)\n    g(x,\n      1);")
        for name, hunk in {"begin": "-    g(x,\n+    h(x,\n       1);\n", "end": "     g(x,\n-      1);\n+      2);\n",
                           "new": "   if (x)\n+    h(x);\n     g(x,\n"}.items():
            self.refuses({name: patch(hunk)}, [f"{name}: src/a.cpp:", "whole statements"], parts)
            os.remove(self.path(f"patches/{name}.patch"))

    def test_every_refusal_is_told_at_once(self):
        self.refuses({"words": "nothing\n", "twice": TWICE}, ["words.patch", "twice.patch"], "int x;\n")


if __name__ == "__main__":
    unittest.main()
