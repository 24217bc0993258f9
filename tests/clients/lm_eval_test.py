"""EleutherAI's evaluation harness: its scores are the server's own log-probabilities."""

import json
import os
import shutil
import tempfile
import unittest

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

import harness
from harness import MODEL

PROMPTS = ["In the beginning", "Sort these numbers: 9, 3, 6", "zuzu ->", "The"]


class LmEvalTest(harness.ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        os.environ["OPENAI_API_KEY"] = "none"
        cls.folder = tempfile.TemporaryDirectory()
        shutil.copy(os.path.join(harness.NANO, "tokenizer.json"), cls.folder.name)
        with open(os.path.join(cls.folder.name, "tokenizer_config.json"), "w") as file:
            json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<｜end▁of▁sentence｜>"}, file)
        cls.models = [LocalCompletionsAPI(base_url=f"{cls.server.url}/v1/completions", model=MODEL,
                                          tokenizer=cls.folder.name, tokenizer_backend="huggingface", batch_size=size,
                                          num_concurrent=concurrent) for size, concurrent in [(1, 1), (4, 1), (1, 4)]]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()
        super().tearDownClass()

    def generated(self, prompt):
        """(text, log-probability) of what follows the prompt's tokens."""
        ids = self.models[0].tok_encode(prompt)
        _, answer = self.server.post("/v1/completions", {"prompt": ids, "max_tokens": 6, "temperature": 0, "logprobs": 1})
        choice = answer["choices"][0]
        text = choice["text"]
        # Its tokens alone are those of prompt and text together: nothing merges across.
        self.assertEqual(self.models[0].tok_encode(prompt + text)[:len(ids)], ids)
        self.assertEqual(len(self.models[0].tok_encode(prompt + text)), len(ids) + len(choice["logprobs"]["tokens"]))
        return text, sum(choice["logprobs"]["token_logprobs"])

    def test_scores_are_the_generated_log_probabilities(self):
        pairs = [(prompt, *self.generated(prompt)) for prompt in PROMPTS]
        requests = [Instance("loglikelihood", {}, (prompt, text), i) for i, (prompt, text, _) in enumerate(pairs)]
        for model in self.models:
            scores = model.loglikelihood(requests)
            self.assertEqual(scores, [(logprob, True) for _, _, logprob in pairs])

    def test_another_continuation_is_less_likely(self):
        prompt, (text, logprob) = PROMPTS[0], self.generated(PROMPTS[0])
        scores = self.models[0].loglikelihood([Instance("loglikelihood", {}, (prompt, " xylophone quux"), 0)])
        self.assertFalse(scores[0][1])
        self.assertLess(scores[0][0], logprob)

    def test_rolling(self):
        text = "In the beginning was the word."
        value = self.models[0].loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])[0]
        ids = [self.models[0].prefix_token_id, *self.models[0].tok_encode(text)]
        _, answer = self.server.post("/v1/completions", {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1})
        self.assertEqual(value, sum(answer["choices"][0]["logprobs"]["token_logprobs"][1:]))

    def test_generation(self):
        arguments = {"until": ["\n"], "max_gen_toks": 12}
        texts = self.models[0].generate_until([Instance("generate_until", {}, (prompt, dict(arguments)), i)
                                               for i, prompt in enumerate(PROMPTS)])
        for prompt, text in zip(PROMPTS, texts):
            ids = self.models[0].tok_encode(prompt)
            _, answer = self.server.post("/v1/completions", {"prompt": ids, "max_tokens": 12, "temperature": 0,
                                                             "stop": ["\n"]})
            self.assertEqual(text, answer["choices"][0]["text"])

    def test_chat(self):
        model = LocalChatCompletion(base_url=f"{self.server.url}/v1/chat/completions", model=MODEL)
        prompt = model.apply_chat_template([{"role": "user", "content": "Hello"}])
        texts = model.generate_until([Instance("generate_until", {}, (prompt, {"until": [], "max_gen_toks": 8}), 0)])
        self.assertIsInstance(texts[0], str)


if __name__ == "__main__":
    unittest.main()
