"""Coding agents at a task of several steps: the model's calls are fixed, the agents, their tools and the server are real."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import unittest

from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ResultMessage, TextBlock, query

import harness
from recorder import Recorder

TASK = "Sort the words three, one and two into sorted.txt."
END = "The words are sorted: one, three, two."
WORDS = "three\none\ntwo\n"
SORT = "sort words.txt > sorted.txt && cat sorted.txt"
COUNT = "wc -l < sorted.txt"
TIMEOUT_SECONDS = 300
# Agents begin with what all their tools are told by.
CONTEXT = ("--context", "65536")


class CodingTest(unittest.TestCase):
    """An agent in a folder of its own, before a server whose answers are `lines`."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home, self.work = os.path.join(folder.name, "home"), os.path.join(folder.name, "work")
        os.mkdir(self.home)
        os.mkdir(self.work)
        self.forced = os.path.join(folder.name, "forced.jsonl")

    def begin(self, lines):
        with open(self.forced, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        self.server = harness.Server(*CONTEXT, "--force-calls", self.forced)
        self.addCleanup(self.server.stop)
        self.recorder = Recorder(self.server.address)
        self.addCleanup(self.recorder.__exit__)

    def environment(self, **variables):
        # Nothing of the machine's own agents.
        return {"PATH": os.environ["PATH"], "HOME": self.home, "LANG": "C.UTF-8", **variables}

    def assert_is_done(self, path, tool, steps):
        with open(os.path.join(self.work, "sorted.txt"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "one\nthree\ntwo\n")
        asked = [one for one in self.recorder.exchanges if one.path.split("?")[0] == path]
        self.assertEqual([one.status for one in asked], [200] * len(asked), [one.text for one in asked])
        said = [one for one in asked if tool in one.tools()]
        shares = [cached / tokens for tokens, cached in (one.usage for one in said)]
        print(f"{self.id()}: {[one.usage for one in said]}, {len(asked) - len(said)} requests beside", flush=True)
        self.assertEqual(len(said), steps)
        for share in shares[1:]:
            self.assertGreater(share, 0.9)


class Codex(CodingTest):
    def test_a_task_of_several_steps(self):
        def run(command):
            return {"calls": [{"name": "exec_command", "arguments": {"cmd": command, "login": False}}]}

        self.begin([run("printf 'three\\none\\ntwo\\n' > words.txt"), run(SORT), run(COUNT), {"text": END}])
        provider = f'{{name="c",base_url="{self.recorder.url}/v1",wire_api="responses"}}'
        done = subprocess.run(
            [os.path.join(os.path.dirname(sys.executable), "codex"), "exec", "--json", "--skip-git-repo-check",
             "--dangerously-bypass-approvals-and-sandbox", "-C", self.work, "-c", f"model={harness.MODEL}",
             "-c", "model_provider=c", "-c", f"model_providers.c={provider}", TASK],
            env=self.environment(CODEX_HOME=self.home), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_SECONDS, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        commands = [item for item in items if item["type"] == "command_execution"]
        self.assertEqual([item["exit_code"] for item in commands], [0, 0, 0], done.stdout)
        self.assertEqual(commands[1]["aggregated_output"], "one\nthree\ntwo\n")
        self.assertEqual([item["text"] for item in items if item["type"] == "agent_message"], [END])
        self.assert_is_done("/v1/responses", "exec_command", 4)


class ClaudeAgent(CodingTest):
    def test_a_task_of_several_steps(self):
        words = os.path.join(self.work, "words.txt")
        self.begin([
            {"text": "I write them down.",
             "calls": [{"name": "Write", "arguments": {"file_path": words, "content": WORDS}}]},
            {"calls": [{"name": "Bash", "arguments": {"command": SORT, "description": "Sorts the words"}},
                       {"name": "Read", "arguments": {"file_path": words}}]},
            {"calls": [{"name": "Bash", "arguments": {"command": COUNT, "description": "Counts them"}}]},
            {"text": END}])
        options = ClaudeAgentOptions(
            cwd=self.work, model="claude-sonnet-4-5", allowed_tools=["Bash", "Read", "Write"],
            permission_mode="acceptEdits", setting_sources=[],
            env={**dict.fromkeys(os.environ, ""),
                 **self.environment(ANTHROPIC_BASE_URL=self.recorder.url, ANTHROPIC_API_KEY="none",
                                    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1")})

        async def run():
            return [message async for message in query(prompt=TASK, options=options)]

        messages = asyncio.run(asyncio.wait_for(run(), TIMEOUT_SECONDS))
        result = messages[-1]
        self.assertIsInstance(result, ResultMessage)
        self.assertEqual((result.is_error, result.result), (False, END), messages)
        texts = [block.text for message in messages if isinstance(message, AssistantMessage)
                 for block in message.content if isinstance(block, TextBlock)]
        self.assertEqual(texts, ["I write them down.", END])
        self.assert_is_done("/v1/messages", "Bash", 4)


if __name__ == "__main__":
    unittest.main()
