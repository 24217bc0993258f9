#!/usr/bin/env python3
"""Sabotage of GPU kernels: builds the kernel tests with each fault of gpu_faults.tsv, runs its test and sees it fail. Where a GPU
and nvcc are.

  gpu_faults.py [FAULT...]

The sources are a copy, build/gpu-faults, whose builds share the compiler's cache. A fault is gpu_patches/FAULT.patch. Writes the
table anew, with what came of each. Which order events come in is chance, so a test gets five runs. Exit status 1 where a fault
is missed."""

import csv
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
COPY = os.path.join(ROOT, "build/gpu-faults")
TABLE = os.path.join(HERE, "gpu_faults.tsv")


def run(*command):
    subprocess.run(command, cwd=COPY, check=True, stdout=subprocess.DEVNULL)


def build():
    run("cmake", "--preset", "cuda")
    run("cmake", "--build", "--preset", "cuda", "--target", "cuda_kernels_test")


def outcome(test):
    """ "passed", "failed" or what else came of the one test."""
    done = subprocess.run(
        ["build/cuda/cuda_kernels_test", f"--gtest_filter={test}", "--gtest_repeat=5"],
        cwd=COPY,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
    )
    if f"[  FAILED  ] {test}" in done.stdout:
        return "failed"
    return (
        "passed" if done.returncode == 0 and f"[       OK ] {test} " in done.stdout else "not run"
    )


def main():
    with open(TABLE, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    wanted = sys.argv[1:] or [row["fault"] for row in rows]
    if not os.path.exists(COPY):
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", COPY], check=True)
    run(
        "git",
        "checkout",
        "--detach",
        subprocess.check_output(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True).strip(),
    )
    build()
    for test in sorted({row["test"] for row in rows}):
        if (found := outcome(test)) != "passed":
            raise SystemExit(f"{test}: expected to pass without a fault, found: {found}")
    missed = 0
    for row in rows:
        if row["fault"] not in wanted:
            continue
        patch = os.path.join(HERE, "gpu_patches", row["fault"] + ".patch")
        run("git", "apply", patch)
        build()
        row["verdict"] = "caught" if outcome(row["test"]) == "failed" else "missed"
        run("git", "apply", "--reverse", patch)
        missed += row["verdict"] == "missed"
        print(f"{row['fault']} -> {row['test']}: {row['verdict']}", flush=True)
    with open(TABLE, "w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(
            lines, ["fault", "test", "verdict"], delimiter="\t", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
