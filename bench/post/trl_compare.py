#!/usr/bin/env python3
"""Whole steps of reinforcement learning by trl with transformers and by Cachalot: one model, the
same prompts, as many answers of the same length, in turns.

    P=$(bench/transformers/setup); ninja -C build/release cachalot
    $P bench/post/trl_compare.py
    # another of trl's settings, once
    $P bench/post/trl_compare.py --rounds 1 --steps 1 --dtype bfloat16 --experts grouped_mm

The model is nano's shape without its MTP block with made-up weights (bench/transformers/models.py),
so answers hardly ever end before their window. Both sides sample with transformers' or the engine's
cache, all answers of a step at once, ask a reference for its log-probabilities (beta above 0), and
make one update of all answers. Each side's first step of a round is not timed. A round makes both
sides anew, so a slow machine slows both. Printed: seconds of a step by phase, tokens per second,
the share of the cores' time that no thread of the side used, and the same in processor time, which
other programs on the machine disturb less. update: all but sampling and rewards, the reference too.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "transformers"))
import datasets
import torch
import transformers
import trl

import models

WORK = models.WORK / "trl"
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
PHASES = ("sampling", "rewards", "update")
BOS = "<｜begin▁of▁sentence｜>"


def make_tokenizer():
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(models.ROOT / "models/nano/tokenizer.json"),
        bos_token=BOS,
        eos_token="<｜end▁of▁sentence｜>",
        pad_token="<｜▁pad▁｜>",
    )


def make_prompts(tokenizer, count, length):
    """Pieces of this repository's documents of `length` tokens on both sides, the first BOS."""
    text = "\n".join(f.read_text() for f in sorted((models.ROOT / "docs").glob("*.md")))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    prompts = []
    for first in range(0, len(ids) - length, length):
        prompt = tokenizer.decode(ids[first : first + length - 1])
        if len(tokenizer(BOS + prompt, add_special_tokens=False)["input_ids"]) == length:
            prompts.append(prompt)
        if len(prompts) == count:
            return prompts
    sys.exit(f"trl_compare: expected {count} prompts in the documents, found {len(prompts)}")


class Clock:
    """Seconds, and seconds of all threads' processor time."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def since(self, other):
        return self.wall - other.wall, self.cpu - other.cpu


class TimedTrainer(trl.GRPOTrainer):
    def __init__(self, *args, **kwargs):
        self.spent = {}
        super().__init__(*args, **kwargs)

    def timed(self, phase, call, *args, **kwargs):
        begin = Clock()
        out = call(*args, **kwargs)
        self.spent[phase] = [
            a + b for a, b in zip(Clock().since(begin), self.spent.get(phase, (0, 0)))
        ]
        return out

    def _generate(self, *args, **kwargs):
        return self.timed("sampling", super()._generate, *args, **kwargs)

    def _calculate_rewards(self, *args, **kwargs):
        return self.timed("rewards", super()._calculate_rewards, *args, **kwargs)


class StepTimes(transformers.TrainerCallback):
    def __init__(self):
        self.steps, self.trainer = [], None

    def on_step_begin(self, *args, **kwargs):
        self.trainer.spent, self.begin = {}, Clock()

    def on_step_end(self, *args, **kwargs):
        step = {phase: tuple(spent) for phase, spent in self.trainer.spent.items()}
        whole = Clock().since(self.begin)
        step["update"] = tuple(
            w - s - r for w, s, r in zip(whole, step["sampling"], step["rewards"])
        )
        step["tokens"] = self.trainer.num_tokens
        self.steps.append(step)


def run_trl(args, directory, tokenizer, prompts):
    answers = args.prompts * args.group
    config = trl.GRPOConfig(
        output_dir=str(WORK / "trl"),
        max_steps=args.steps + 1,
        per_device_train_batch_size=answers,
        num_generations=args.group,
        max_completion_length=args.answer,
        generation_kwargs={"min_new_tokens": args.answer},
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        beta=0.001,
        epsilon=10.0,
        loss_type="grpo",
        scale_rewards="none",
        temperature=1.0,
        top_p=1.0,
        router_aux_loss_coef=0.0,
        top_k=0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        torch_compile=args.compile,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        shuffle_dataset=False,
        dataloader_pin_memory=False,
        model_init_kwargs={
            "dtype": args.dtype,
            "attn_implementation": "eager",
            "experts_implementation": args.experts,
        },
    )
    times = StepTimes()
    trainer = TimedTrainer(
        model=str(directory),
        reward_funcs=lambda completions, **_: [len(c) % 7 / 7 for c in completions],
        args=config,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list([{"prompt": BOS + p} for p in prompts]),
        callbacks=[times],
    )
    times.trainer = trainer
    trainer.num_tokens = answers * (args.prompt + args.answer)
    trainer.train()
    return times.steps[1:]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Lines:
    """Of a growing file, read when it has grown: to read often would take time from its writer."""

    def __init__(self, path):
        self.path, self.size, self.lines = path, 0, []

    def now(self):
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self.size:
            self.size, self.lines = size, self.path.read_text().split("\n")[:-1]
        return self.lines


def run_ours(args, directory, prompts):
    run = WORK / "ours"
    shutil.rmtree(run, ignore_errors=True)
    tasks = WORK / "tasks.jsonl"
    tasks.write_text(
        "".join(
            json.dumps({"prompt": p, "check": {"kind": "rules", "rules": [{"max_words": 9}]}})
            + "\n"
            for p in prompts
        )
    )
    config = WORK / "rl.toml"
    config.write_text(f"""run_dir = "{run}"
precision = "{PRECISIONS[args.dtype]}"
tokenizer = "{models.ROOT}/models/nano/tokenizer.json"
[model]
init_from = "{directory}"
[schedule]
micro_batch_tokens = {args.micro_batch_tokens}
[checkpoint]
every_steps = 1000
[log]
tensorboard = false
[rl]
steps = {args.steps + 1}
prompts_per_step = {args.prompts}
group_size = {args.group}
max_new_tokens = {args.answer}
max_sequences = {args.prompts * args.group}
prompt_format = "raw"
[[rl.tasks]]
path = "{tasks}"
""")
    process = subprocess.Popen(
        [str(args.binary), "rl", str(config), f"--threads={args.threads}"],
        stdout=subprocess.DEVNULL,
    )
    # A step's samples are written when it has its rewards, its metrics when it is over.
    judged, over, rows = [], [], []
    samples, metrics = Lines(run / "samples.jsonl"), Lines(run / "metrics.jsonl")
    while process.poll() is None and len(over) < args.steps + 1:
        time.sleep(0.01)
        num_judged = len(samples.now())
        num_over = sum('"event"' not in row for row in metrics.now())
        if num_judged == len(judged) and num_over == len(over):
            continue
        now = cpu_seconds(process.pid)
        judged += [now] * (num_judged - len(judged))
        over += [now] * (num_over - len(over))
    if process.wait() != 0:
        sys.exit("trl_compare: cachalot rl failed")
    rows = [row for row in map(json.loads, metrics.now()) if "event" not in row]
    return [
        {
            "sampling": (rows[i]["time/rollouts"], judged[i] - over[i - 1]),
            "rewards": (rows[i]["time/rewards"], 0),
            "update": (rows[i]["time/updates"], over[i] - judged[i]),
            "tokens": args.prompts * args.group * args.prompt
            + rows[i]["throughput/sampled_tokens"],
        }
        for i in range(1, len(rows))
    ]


def summary(steps, threads):
    """Medians over steps."""
    wall, cpu = ({p: statistics.median(s[p][of] for s in steps) for p in PHASES} for of in (0, 1))
    tokens = statistics.median(s["tokens"] for s in steps)
    step, step_cpu = (
        statistics.median(sum(s[p][of] for p in PHASES) for s in steps) for of in (0, 1)
    )
    return {
        "wall": wall,
        "cpu": cpu,
        "step": step,
        "step_cpu": step_cpu,
        "tokens": tokens,
        "idle": max(0.0, 1 - step_cpu / (step * threads)),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--binary", type=pathlib.Path, default=models.ROOT / "build/release/cachalot"
    )
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a round, each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--dtype", choices=PRECISIONS, default="float32", help="of both sides' arithmetic"
    )
    parser.add_argument("--experts", default="eager", help="transformers' experts_implementation")
    parser.add_argument("--compile", action="store_true", help="torch.compile in trl")
    parser.add_argument("--micro-batch-tokens", type=int, default=8192, help="ours")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    directory = models.make("nano", torch.float32)
    tokenizer = make_tokenizer()
    prompts = make_prompts(tokenizer, args.prompts * (args.steps + 1), args.prompt)
    sides = {"trl": [], "cachalot": []}
    for _ in range(args.rounds):
        sides["trl"] += run_trl(args, directory, tokenizer, prompts)
        sides["cachalot"] += run_ours(args, directory, prompts)
    found = {side: summary(steps, args.threads) for side, steps in sides.items()}
    print(
        f"nano without MTP, {args.threads} threads, {args.prompts} prompts of {args.prompt} tokens, {args.group} answers of {args.answer} to each; "
        f"trl {trl.__version__}, transformers {transformers.__version__} ({args.dtype}, {args.experts} experts); medians of {len(sides['trl'])} steps"
    )
    for side, of in found.items():
        phases = ", ".join(f"{p} {of['wall'][p]:.2f} s ({of['cpu'][p]:.2f})" for p in PHASES)
        print(
            f"{side}: a step {of['step']:.2f} s ({of['step_cpu']:.2f} of processor time): {phases}; {of['tokens'] / of['step']:.0f} tokens/s, "
            f"update {of['tokens'] / of['wall']['update']:.0f} tokens/s, idle {100 * of['idle']:.0f} %"
        )
    theirs, ours = found["trl"], found["cachalot"]
    share = ours["tokens"] / theirs["tokens"]
    step, step_cpu = (share * theirs[of] / ours[of] for of in ("step", "step_cpu"))
    update, update_cpu = (
        share * theirs[of]["update"] / ours[of]["update"] for of in ("wall", "cpu")
    )
    print(
        f"ratios: step {step:.2f} (wanted 5), update {update:.2f} (wanted 2.5); of processor time {step_cpu:.2f} and {update_cpu:.2f}"
    )


if __name__ == "__main__":
    main()
