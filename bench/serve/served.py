"""A server of its own for a measurement: on one thread, on a port that is free."""

import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request


def start(options, *flags, prefix=(), **popen):
    """(process, url, seconds until it is ready). `prefix` are words before the command, as `taskset`."""
    begin = time.monotonic()
    server = subprocess.Popen([*prefix, options.binary, "serve", options.model, "--port", "0", "--threads", "1", *map(str, flags)],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **popen)
    line = server.stdout.readline()
    if "serving" not in line:
        sys.exit(f"the server has not started: {line!r}")
    url = line.split()[-1]
    while not is_ready(url):
        time.sleep(0.005)
    return server, url, time.monotonic() - begin


def is_ready(url):
    try:
        with urllib.request.urlopen(f"{url}/health") as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return False


def processor_seconds(process):
    """Of all its threads that live."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir()) * 1e-9
