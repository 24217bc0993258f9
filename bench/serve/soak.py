#!/usr/bin/env python3
"""A long soak of `cachalot serve`: 200 clients come, stream, leave half-way; some bring long prompts. The server has one core, the clients the other.

    bench/serve/soak.py build/release/cachalot models/nano [--clients 200] [--seconds 600] [--max-token-gap 0.5] [--cache-gb G]

Fails for any error, a request left over, or memory that grows after a third of the time (by a twentieth and 8 MiB). It prints, and does
not judge, what a machine that others use would spoil: tokens per second, latency, and the share of times between two tokens, as the
server saw them, that kept the promise of --max-token-gap. JSON, one line.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request

from served import start


def kept(url, bound):
    """The share of times between tokens up to the histogram's first bound that is not below `bound`, and that bound."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        page = answer.read().decode()
    rows = re.findall(r'^cachalot_time_between_tokens_seconds_bucket\{le="([^"]+)"\} (\d+)$', page, re.M)
    total = int(rows[-1][1])
    edge, count = next((edge, int(count)) for edge, count in rows if float(edge) >= bound)
    return {"within_s": float(edge), "share": round(count / max(total, 1), 6), "of": total}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--max-token-gap", type=float, default=0.5)
    parser.add_argument("--cache-gb", type=float, default=0.03, help="so little that the cache is full early, and what grows beside it shows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, url, _ = start(options, "--max-token-gap", options.max_token_gap, "--prefix-dir", folder, "--cache-gb", options.cache_gb,
                               prefix=("taskset", "-c", "0"))
        try:
            out = subprocess.run(["taskset", "-c", "1", sys.executable, pathlib.Path(__file__).with_name("load.py"), "soak", "--url", url, "--clients",
                                  str(options.clients), "--seconds", str(options.seconds)], stdout=subprocess.PIPE, text=True)
            report = {**json.loads(out.stdout), "gaps": kept(url, options.max_token_gap)}
        finally:
            server.terminate()
            status = server.wait()
    resident = report["resident_mib"]
    warm = resident[len(resident) // 3:]
    half = len(warm) // 2
    before, after = statistics.mean(warm[:half]), statistics.mean(warm[half:])
    report["growth_mib"] = round(after - before, 1)
    is_flat = after <= before * 1.05 + 8
    print(json.dumps(report))
    return 1 if out.returncode or status or not is_flat else 0


if __name__ == "__main__":
    sys.exit(main())
