"""What the tests of clients share: a server of its own for each test file, its metrics, and plain HTTP."""

import http.client
import json
import math
import os
import re
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
NANO = os.path.join(ROOT, "models", "nano")
# Whose words are not looked at may be another.
MODEL_FOLDER = os.environ.get("CACHALOT_MODEL", NANO)
MODEL = "nano"
# A machine that others use is slow, and no reason to fail: what never comes fails later.
WAIT_SECONDS = 300


def end_bias():
    """For </think>: thinking ends after some tens of tokens."""
    with open(os.path.join(MODEL_FOLDER, "config.json"), encoding="utf-8") as file:
        return math.log(json.load(file)["vocab_size"]) - 3.3


WEATHER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK_SCHEMA = {
    "type": "object",
    "properties": {"utc": {"type": "boolean"}},
    "required": ["utc"],
    "additionalProperties": False,
}


class Server:
    """`cachalot serve` on a port that is free; ends with the block that holds it."""

    def __init__(self, *flags, model=MODEL_FOLDER):
        program = os.environ.get("CACHALOT", os.path.join(ROOT, "build", "release", "cachalot"))
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([program, "serve", model, "--name", MODEL, "--port", "0",
                                         *flags], stdout=subprocess.PIPE,
                                        stderr=self.log, text=True)
        # A server that never says its port ends here.
        watch = threading.Timer(WAIT_SECONDS, self.process.kill)
        watch.start()
        self.url = ""
        for line in self.process.stdout:
            found = re.match(r"serving .* at (http://\S+)", line)
            if found:
                self.url = found[1]
                break
        watch.cancel()
        if not self.url:
            raise RuntimeError(f"the server did not start: {self.errors()}")
        self.address = self.url.removeprefix("http://")

    def errors(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(WAIT_SECONDS)
        self.process.stdout.close()
        self.log.close()
        return status

    def request(self, method, path, body=None, headers=None):
        """(status, headers by lower-case name, text)"""
        connection = http.client.HTTPConnection(self.address, timeout=WAIT_SECONDS)
        try:
            payload = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text
        finally:
            connection.close()

    def post(self, path, body, headers=None):
        """(status, JSON)"""
        status, _, text = self.request("POST", path, body, headers)
        return status, json.loads(text)

    def events(self, path, body):
        """The data of a stream's events, in order: JSON or "[DONE]"."""
        status, headers, text = self.request("POST", path, {**body, "stream": True})
        if status != 200 or not headers["content-type"].startswith("text/event-stream"):
            raise AssertionError(f"no stream: {status} {text}")
        data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in data]

    def metric(self, name):
        _, _, text = self.request("GET", "/metrics")
        found = re.search(rf"^{name} (\S+)$", text, re.M)
        if not found:
            raise AssertionError(f"no metric {name}")
        return float(found[1])

    def token(self, text):
        """The id of a text that is one token."""
        status, found = self.post("/tokenize", {"prompt": text, "add_special_tokens": False})
        if (status, found.get("count")) != (200, 1):
            raise AssertionError(f"{text!r} is not one token: {found}")
        return found["tokens"][0]


class ServerTest(unittest.TestCase):
    """Tests of one server, which must still live after each of them."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags)

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        if status != 0:
            raise AssertionError(f"the server ended with {status}")

    def tearDown(self):
        self.assertIsNone(self.server.process.poll(), "the server ended")

    def assert_comes_to(self, name, value):
        end = time.monotonic() + WAIT_SECONDS
        while (found := self.server.metric(name)) != value:
            self.assertLess(time.monotonic(), end, f"{name}: expected {value}, found {found}")
            time.sleep(0.02)

    def assert_is_weather(self, arguments):
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        self.assertEqual(set(arguments), {"city", "days"})
        self.assertIn(arguments["city"], ["Rome", "Oslo"])
        self.assertIn(arguments["days"], range(1, 10))

    def token(self, text):
        return self.server.token(text)
