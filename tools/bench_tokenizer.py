#!/usr/bin/env python3
"""Encode speed of our tokenizer beside PyPI tokenizers: same texts, same machine, one run, one thread each.

  python3 tools/bench_tokenizer.py TOKENIZER.json [--bench build/release/tokenizer_bench] [--mb 4] [--json OUT]

Makes its own virtual environment under build/ (tokenizers 0.23.3). Texts come from what a Debian machine has: licences and
documentation (English), headers and the Python library (code), the Chinese manual pages (installed, or unpacked from the
Debian package), and seeded random strings over hard characters (mixed; correctness more than speed). A text is a list of
documents; both sides encode document by document, tokenizers by encode_batch_fast, its fastest call (no offsets), and by
encode. Times are processor times, so that other programs disturb them less. The ids of both must be equal, or the run fails.
"""
import argparse
import glob
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench-tokenizer"
TOKENIZERS = "tokenizers==0.23.3"


def in_venv(script):
    """Runs the script again inside an environment that has tokenizers."""
    env_dir = WORK / "venv"
    python = env_dir / "bin" / "python"
    if not python.exists():
        venv.create(env_dir, with_pip=True)
    if subprocess.run([python, "-c", "import tokenizers"], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "-q", TOKENIZERS], check=True)
    env = dict(os.environ, TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
    os.execve(python, [str(python), script, "--inside", *sys.argv[1:]], env)


def read(path):
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            return file.read().decode("utf-8").replace("\0", "")
    except (OSError, UnicodeDecodeError):
        return ""


def documents(patterns, limit):
    """Files that match, in a fixed order, until `limit` bytes."""
    total = 0
    for pattern in patterns:
        for path in sorted(glob.glob(pattern, recursive=True)):
            text = read(path) if os.path.isfile(path) else ""
            if len(text) < 200:
                continue
            yield text
            total += len(text.encode())
            if total >= limit:
                return


def chinese_manuals():
    if not glob.glob("/usr/share/man/zh_CN/man*/*.gz"):
        unpacked = WORK / "manpages-zh"
        if not unpacked.exists():
            WORK.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", "-q", "manpages-zh"], cwd=WORK, check=True)
            package = next(WORK.glob("manpages-zh_*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        return str(unpacked) + "/usr/share/man/zh_CN/man*/*.gz"
    return "/usr/share/man/zh_CN/man*/*.gz"


def chinese_prose(text):
    """The manual's lines that are mostly Chinese, so that the sample is prose and not markup."""
    lines = [line for line in text.splitlines() if sum("一" <= c <= "龥" for c in line) * 3 > len(line)]
    return "\n".join(lines)


def mixed(limit):
    rng = random.Random(20260924)
    alphabet = (
        list(" \t\n\r\u00a0\u3000\u2028") * 6 + list("aZé0٣½Ⅷ。，！？!\"#'(),-._/<>[]{}|~$€°")
        + list("中文字的是不我ひカー・゠゙\u3040\u3097") + list("한국اللहिन्दीйц\u0301\u200b\u200d\ufeff\u00ad🙂👨🏳️")
        + ["the", " quick", "ing", "==", "\r\n", "    ", "123456", "<｜", "｜>", "<think>", "｜DSML｜", "\U0001e900", "\U000e0041"]
    )
    total = 0
    while total < limit:
        text = "".join(rng.choices(alphabet, k=rng.randint(1, 200)))
        if rng.random() < 0.2:
            text += "".join(chr(c) for c in (rng.randrange(0x110000) for _ in range(40)) if c and not 0xD800 <= c <= 0xDFFF)
        yield text
        total += len(text.encode())


def make_texts(limit):
    stdlib = os.path.dirname(os.__file__)
    english = ["/usr/share/common-licenses/*", "/usr/share/doc/**/README*", "/usr/share/doc/**/*.txt*", "/usr/share/perl/*/pod/*.pod",
               "/usr/share/doc/**/NEWS*", "/usr/share/doc/**/changelog*.gz"]
    yield "english", list(documents(english, limit))
    chinese, total = [], 0
    for text in map(chinese_prose, documents([chinese_manuals()], 1 << 40)):
        if len(text) > 100 and total < limit:
            chinese.append(text)
            total += len(text.encode())
    yield "chinese", chinese
    yield "code", list(documents([stdlib + "/*.py"], limit // 2)) + list(documents(["/usr/include/**/*.h"], limit // 2))
    yield "mixed", list(mixed(limit // 4))


def fnv1a(ids):
    """As tokenizer_bench computes it, over the little-endian bytes of every document's ids."""
    value = 0xCBF29CE484222325
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def measure_theirs(tokenizer, texts, seconds=4):
    size = sum(len(t.encode()) for t in texts)
    calls = {
        "encode_batch_fast": lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False),
        "encode": lambda: [tokenizer.encode(t, add_special_tokens=False) for t in texts],
    }
    medians = {}
    for name, call in calls.items():
        encodings = call()
        speeds, spent = [], 0
        while len(speeds) < 3 or spent < seconds:
            start = time.process_time()
            encodings = call()
            elapsed = time.process_time() - start
            spent += elapsed
            speeds.append(size / elapsed / 1e6)
        medians[name] = statistics.median(speeds)
    return medians, [i for e in encodings for i in e.ids]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("--bench", default=str(ROOT / "build" / "release" / "tokenizer_bench"))
    parser.add_argument("--mb", type=float, default=4, help="size of each text")
    parser.add_argument("--json", help="write the table here too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        in_venv(__file__)

    import tokenizers

    WORK.mkdir(parents=True, exist_ok=True)
    theirs = tokenizers.Tokenizer.from_file(args.tokenizer)
    print(f"tokenizers {tokenizers.__version__}; MB/s, medians; ratio = ours / the faster of theirs")
    print(f"{'text':8} {'MB':>6} {'tokens':>9} {'batch_fast':>11} {'encode':>8} {'ours':>8} {'ratio':>7}  ids")
    rows, equal = [], True
    for name, texts in make_texts(args.mb * 1e6):
        path = WORK / f"{name}.txt"
        path.write_bytes(b"\0".join(t.encode() for t in texts))
        medians, ids = measure_theirs(theirs, texts)
        line = subprocess.run([args.bench, args.tokenizer, path], check=True, capture_output=True, text=True).stdout
        _, size, count, ours, _, digest = line.strip().split("\t")
        same = int(digest, 16) == fnv1a(ids) and int(count) == len(ids)
        equal &= same
        ratio = float(ours) / max(medians.values())
        print(f"{name:8} {int(size) / 1e6:6.2f} {count:>9} {medians['encode_batch_fast']:11.2f} {medians['encode']:8.2f} "
              f"{float(ours):8.2f} {ratio:6.1f}x  {'equal' if same else 'DIFFERENT'}", flush=True)
        rows.append({"text": name, "bytes": int(size), "tokens": int(count), "theirs_mb_s": medians, "ours_mb_s": float(ours),
                     "ratio": ratio, "ids_equal": same})
    if args.json:
        Path(args.json).write_text(json.dumps({"tokenizers": tokenizers.__version__, "rows": rows}, indent=1) + "\n")
    sys.exit(0 if equal else "the ids differ")


if __name__ == "__main__":
    main()
