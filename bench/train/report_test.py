#!/usr/bin/env python3
"""training_bench reports what each part of a step costs: one round, every line of it read. What the numbers are is docs/benchmarks.md's.

    report_test.py TRAINING_BENCH
"""
import json
import math
import subprocess
import sys

PHASES = {"forward", "anticipatory pass", "forward and backward", "optimizer", "packing", "whole step"}
CHANGES = {"as it is", "AdamW only", "plain residual", "no indexer loss", "anticipatory routing", "recompute mhc", "bf16", "fp8", "fp8 and qat"}

done = subprocess.run([sys.argv[1], "--json", "--threads=2", "--seconds=0"], capture_output=True, text=True, check=True)
rows = [json.loads(line) for line in done.stdout.splitlines()]
phases = {row["phase"]: row for row in rows if "phase" in row}
changes = {row["change"]: row for row in rows if "change" in row}
order = {row["order"]: row for row in rows if "order" in row}
if phases.keys() != PHASES or changes.keys() != CHANGES or len(order) < 10 or len(rows) != len(phases) + len(changes) + len(order) + 1:
    sys.exit(f"expected the phases {sorted(PHASES)}, the changes {sorted(CHANGES)} and ordered ops once each, found\n{done.stdout}")
if not 0 <= rows[-1]["order_costs_at_most"] < 1:
    sys.exit(f"order_costs_at_most: expected a share of a step, found {rows[-1]}")
for row in rows:
    for key, value in row.items():
        if not isinstance(value, str) and (not math.isfinite(value) or value < 0):
            sys.exit(f"{key}: expected a number that is not negative, found {row}")
for name, row in changes.items():
    if not row["ratio"] > 0:
        sys.exit(f"{name}: expected a ratio to the step as it is, found {row}")
