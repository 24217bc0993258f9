"""A prompt of a million tokens through the API: it is not silent, it can be left, and a restart finds it on disk."""

import http.client
import json
import random
import tempfile
import time
import unittest

import harness

TOKENS = 1_000_000
COMPLETIONS = "/v1/completions"
# Every line that a stream begins with while the prompt runs.
KEEP_ALIVE = b": "


class Million(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.prefixes = folder.name
        random.seed(1)
        # Ids of the plain vocabulary.
        prompt = [random.randrange(1000, 100_000) for _ in range(TOKENS)]
        self.body = json.dumps({"prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 1,
                                "stream": True, "stream_options": {"include_usage": True}})

    def serve(self):
        return harness.Server("--prefix-dir", self.prefixes, "--cache-gb", "4", "--sequences", "2")

    def stream(self, server):
        connection = http.client.HTTPConnection(server.address, timeout=600)
        self.addCleanup(connection.close)
        connection.request("POST", COMPLETIONS, self.body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        return connection, answer

    def whole(self, server):
        """(keep-alives, longest silence in seconds, choices, usage)"""
        _, answer = self.stream(server)
        keep_alives, silence, choices, usage = 0, 0, [], None
        last = time.monotonic()
        for line in answer:
            now = time.monotonic()
            silence, last = max(silence, now - last), now
            keep_alives += line.startswith(KEEP_ALIVE)
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                self.assertNotIn("error", chunk)
                choices += chunk["choices"]
                usage = chunk.get("usage") or usage
        return keep_alives, silence, choices, usage

    def comes_to(self, server, metric, value):
        end = time.monotonic() + harness.WAIT_SECONDS
        while server.metric(metric) != value:
            self.assertLess(time.monotonic(), end, metric)
            time.sleep(0.1)

    def test_a_million_tokens(self):
        with self.serve() as server:
            connection, answer = self.stream(server)
            for _ in range(2):
                while not answer.readline().startswith(KEEP_ALIVE):
                    pass
            # Another client's request goes on beside it.
            status, _ = server.post(COMPLETIONS, {"prompt": "Hello", "max_tokens": 1})
            self.assertEqual(status, 200)
            connection.close()
            answer.close()
            self.comes_to(server, "cachalot_requests_cancelled_total", 1)
            self.comes_to(server, "cachalot_requests_running", 0)

            begun = time.monotonic()
            keep_alives, silence, choices, usage = self.whole(server)
            print(f"whole: {time.monotonic() - begun:.0f} s, {keep_alives} keep-alives, {silence:.1f} s of silence, "
                  f"{usage}", flush=True)
            self.assertEqual(usage["prompt_tokens"], TOKENS)
            # What had run when the first client left is not run again.
            self.assertGreater(usage["prompt_tokens_details"]["cached_tokens"], 0)
            self.assertGreater(keep_alives, 1)
        with self.serve() as server:
            begun = time.monotonic()
            _, _, again, usage = self.whole(server)
            print(f"after a restart: {time.monotonic() - begun:.0f} s, {usage}", flush=True)
            self.assertGreater(usage["prompt_tokens_details"]["cached_tokens"], 0.99 * TOKENS)
            self.assertEqual(again, choices)


if __name__ == "__main__":
    unittest.main()
