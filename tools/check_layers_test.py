"""tools/check_layers on made-up trees: what it must let pass and what it must refuse, with file and line."""
import os
import subprocess
import sys
import tempfile
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_layers")
LAYERS = "# comment\nbase:\ntensor: base\nops: tensor\ntext: base\napps: ops text\n"


def run(files, layers=LAYERS):
    with tempfile.TemporaryDirectory() as root:
        for path, text in {"src/LAYERS": layers, **files}.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as file:
                file.write(text)
        done = subprocess.run([sys.executable, TOOL, root], capture_output=True, text=True)
        return done.returncode, done.stdout


class CheckLayers(unittest.TestCase):
    def refuses(self, files, words, layers=LAYERS):
        code, output = run(files, layers)
        self.assertEqual(code, 1, output)
        for word in words:
            self.assertIn(word, output)

    def test_allows_own_row_and_what_it_reaches(self):
        code, output = run({
            "src/ops/a.cpp": '#include "ops/b.h"\n#include "tensor/t.h"\n#include "base/c.h"\n#include <vector>\n',
            "src/apps/main.cpp": '#include "base/c.h"\n  #  include "text/x.h"\n',
            "tests/t.cpp": '#include "apps/main.h"\n',
        })
        self.assertEqual(code, 0, output)

    def test_refuses_the_layer_above(self):
        self.refuses({"src/tensor/a.h": '#pragma once\n\n#include "ops/a.h"\n'},
                     ["src/tensor/a.h:3:", 'found "ops/a.h"', "may use base"])

    def test_refuses_a_neighbour(self):
        self.refuses({"src/ops/sub/a.cpp": '#include "text/x.h"\n'}, ["src/ops/sub/a.cpp:1:"])

    def test_refuses_in_tests_beside_the_code_and_in_cuda(self):
        self.refuses({"src/base/a_test.cpp": '#include "ops/a.h"\n'}, ["src/base/a_test.cpp:1:"])
        self.refuses({"src/base/a.cu": '#include "ops/a.h"\n'}, ["src/base/a.cu:1:"])

    def test_refuses_ptx_outside_its_home(self):
        self.refuses({"src/ops/k.cu": '\nasm volatile("bar.sync 0;");\n'}, ["src/ops/k.cu:2: expected inline PTX in tile/"])
        code, output = run({"src/tile/t.cuh": 'asm("x;");\n', "src/ops/k.cu": "// no asm here\n"}, LAYERS + "tile:\n")
        self.assertEqual(code, 0, output)

    def test_refuses_includes_that_do_not_start_at_src(self):
        self.refuses({"src/ops/a.cpp": '#include "b.h"\n#include "../base/c.h"\n#include "tests/d.h"\n'},
                     ["a.cpp:1:", "a.cpp:2:", "a.cpp:3:"])

    def test_refuses_switches_of_planted_faults(self):
        self.refuses({"src/ops/a.cpp": "int f() {\n  if (planted::sink_missing) return 1;\n  return 0;\n}\n"},
                     ["src/ops/a.cpp:2:", "tests/faults/patches"])
        self.refuses({"src/ops/a.cpp": "#ifdef CACHALOT_FAULTS\n#endif\n"}, ["src/ops/a.cpp:1:"])

    def test_refuses_work_on_activations_outside_ops(self):
        layers = "base:\nops: base\nautograd: ops\nmodel: autograd\ntrain: model\n"
        planted = {
            "a loop over x": "void f(float* x, int n) {\n  for (int i = 0; i < n; ++i) x[i] *= 2;\n}\n",
            "a loop over out": "void f(const T& t, float* out) {\n  for (auto r : t.rows())\n"
                               "    for (int i = 0; i < 3; ++i) out[r + i] = 0;\n}\n",
            "a loop over floats": "void f(std::vector<float>& v) {\n  for (const float x : v) sum += x;\n}\n",
            "a loop over .data": "void f(Matrix m) {\n  while (n-- > 0) { m.data[n] = 1; }\n}\n",
            "memcpy of y": "void f(float* y) {\n  std::memcpy(y + 1, z, 4);\n}\n",
            "std::accumulate of losses": "std::vector<float> losses(3);\nreturn std::accumulate(losses.begin(), losses.end(), 0);\n",
            "std::max_element of row": "auto* row = step.floats(n);\nreturn std::max_element(row, row + n);\n",
        }
        for found, code in planted.items():
            for folder in ("autograd", "model", "train"):
                self.refuses({f"src/{folder}/a.cpp": code}, [f"src/{folder}/a.cpp:", "in ops/, found " + found], layers)
            status, output = run({"src/ops/a.cpp": code, "src/model/a_test.cpp": code}, layers)
            self.assertEqual(status, 0, output)
        self.refuses({"src/model/a.h": "class A { std::vector<float> sums_; };\n",
                      "src/model/a.cpp": "for (int i = 0; i < 3; ++i) sums_[i] = 0;\n"}, ["src/model/a.cpp:1:"], layers)

    def test_refuses_the_thread_pool_outside_ops(self):
        layers = "base:\nops: base\nmodel: ops\ndata: base\n"
        for use in ("ctx.pool->run(n, fn);", "pool_.run(n, fn);", "for_row_blocks(ctx, rows, 1, fn);"):
            self.refuses({"src/model/a.cpp": "\n" + use + "\n"}, ["src/model/a.cpp:2: expected the thread pool's work in ops/"],
                         layers)
            code, output = run({"src/ops/a.cpp": use, "src/data/a.cpp": use, "src/base/a.cpp": use}, layers)
            self.assertEqual(code, 0, output)

    def test_lets_pass_what_touches_no_activation(self):
        layers = "base:\nops: base\nmodel: ops\n"
        code, output = run({"src/model/a.cpp":
                            "// for (float x : v) x[i] = 1;\n"
                            "void f(float* x, const int64_t* ids) {\n"
                            "  for (int64_t i = 0; i < n; ++i) total += ids[i];\n"
                            "  for (int64_t g = 0; g < groups; ++g) products[g].x = x + g * columns;\n"
                            "  for (int64_t g = 0; g < groups; ++g) ops::add(ctx, x + g * columns);\n"
                            "  x[0] = 1;\n"
                            "}\n"}, layers)
        self.assertEqual(code, 0, output)

    def test_refuses_angle_brackets_for_our_folders(self):
        self.refuses({"src/base/a.cpp": "#include <ops/a.h>\n"}, ["src/base/a.cpp:1:"])

    def test_refuses_a_folder_without_a_row(self):
        self.refuses({"src/extra/a.cpp": ""}, ["src/extra", "expected a row"])

    def test_refuses_a_table_that_points_downwards(self):
        self.refuses({}, ["src/LAYERS:1:", "found ops"], "base: ops\nops:\n")
        self.refuses({}, ["a second row"], "base:\nbase:\n")


if __name__ == "__main__":
    unittest.main()
