#!/usr/bin/env python3
"""Sabotage of training: turns on each fault of the table, runs its test and sees it fail; every test passes without a fault.

  training_faults.py --checks build/release/tests/faults/training_faults_checks --table tests/faults/training_faults.tsv

The table is "fault, test". Prints what caught what. Exit status 0 if each fault is caught by a failed expectation (a crash is none)
and nothing fails without one."""
import argparse
import csv
import subprocess
import sys


def run(checks, test, fault=None):
    """Whether the one test passed, "passed" or "failed"; anything else is what went wrong."""
    command = [checks, f"--gtest_filter={test}"] + ([f"--fault={fault}"] if fault else [])
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    if "[==========] Running 1 test from" not in done.stdout:
        return "no such test"
    if done.returncode == 0 and f"[       OK ] {test} " in done.stdout:
        return "passed"
    if done.returncode == 1 and f"[  FAILED  ] {test}" in done.stdout:
        return "failed"
    return f"ended with {done.returncode}: {done.stderr.strip()[-300:]}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checks", required=True)
    parser.add_argument("--table", required=True)
    args = parser.parse_args()
    with open(args.table, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    errors = []
    for test in sorted({row["test"] for row in rows}):
        if (outcome := run(args.checks, test)) != "passed":
            errors.append(f"{test}: expected to pass without a fault, found: {outcome}")
    for row in rows:
        outcome = run(args.checks, row["test"], row["fault"])
        print(f"{row['fault']} -> {row['test']}: {'caught' if outcome == 'failed' else outcome}", flush=True)
        if outcome != "failed":
            errors.append(f"{row['fault']}: expected {row['test']} to fail, found: {outcome}")
    print("\n".join(errors), file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
