"""tools/check_flags: each option that changes values is refused, and contraction must be off."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_flags")


def run(*commands, ending="cpp"):
    entries = [{"directory": "/", "file": f"f{number}.{ending}", "command": command} for number, command in enumerate(commands)]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(entries, file)
        file.flush()
        done = subprocess.run([sys.executable, TOOL, file.name], capture_output=True, text=True)
        return done.returncode, done.stdout


class CheckFlags(unittest.TestCase):
    def test_accepts_a_strict_command(self):
        self.assertEqual(run("c++ -O3 -ffp-contract=off -fno-math-errno -mavx2 -c f0.cpp")[0], 0)

    def test_refuses_value_changing_options(self):
        for option in ("-ffast-math", "-Ofast", "-fassociative-math", "-march=native", "-ffp-contract=fast"):
            code, output = run("c++ -ffp-contract=off -c f0.cpp", f"c++ -ffp-contract=off {option} -c f1.cpp")
            self.assertEqual(code, 1)
            self.assertIn(f"f1.cpp: expected no value-changing option, found {option}", output)

    def test_refuses_a_command_that_leaves_contraction_to_the_compiler(self):
        code, output = run("c++ -O3 -c f0.cpp")
        self.assertEqual(code, 1)
        self.assertIn("expected -ffp-contract=off", output)

    def test_asks_cuda_for_its_own_option(self):
        self.assertEqual(run("nvcc --fmad=false -c f0.cu", ending="cu")[0], 0)
        code, output = run("nvcc -ffp-contract=off -c f0.cu", ending="cu")
        self.assertEqual(code, 1)
        self.assertIn("f0.cu: expected --fmad=false", output)

    def test_refuses_an_empty_list(self):
        self.assertEqual(run()[0], 1)


if __name__ == "__main__":
    unittest.main()
