#!/usr/bin/env python3
"""Makes this folder's data from the golden vectors; see README.md. Needs the zstd program.

  python3 tests/tokenizer/make_data.py GOLDEN ENCODING_CASES
"""
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def pack(name, content):
    path = HERE / name
    path.write_bytes(content)
    subprocess.run(["zstd", "-q", "--ultra", "-22", "-f", "--rm", path], check=True)  # a file, so that the frame says its size


def write_cases(name, cases):
    rows = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    pack(name, f"[\n{rows}\n]\n".encode("ascii"))


def trimmed(path):
    cases = json.loads(path.read_text(encoding="utf-8"))
    for case in cases:
        assert case["decoded"] == case["text"], case["text"]  # so one text serves both directions
    return [[case["text"], case["ids"]] for case in cases]


def merges(path):
    """The merges as six planes of bytes: low, middle, high byte of every left id, then of every right id."""
    document = json.loads(path.read_text(encoding="utf-8"))
    vocab, rules = document["model"]["vocab"], [m.split(" ") for m in document["model"]["merges"]]
    assert list(vocab.values()) == list(range(len(vocab))) and len(vocab) == 259 + len(rules)
    for rank, (left, right) in enumerate(rules):
        assert vocab[left + right] == 259 + rank
    assert [vocab[c] for c in sorted(t for t in vocab if len(t) == 1)] == list(range(3, 259))
    return b"".join(bytes(vocab[rule[side]] >> shift & 255 for rule in rules) for side in (0, 1) for shift in (0, 8, 16))


def main():
    golden, encoding_cases = Path(sys.argv[1]), Path(sys.argv[2])
    write_cases("v3-cases.json", trimmed(golden / "tokenizer" / "v3-cases.json"))
    write_cases("peer-cases.json", trimmed(golden / "tokenizer" / "peer-cases.json"))
    vectors = json.loads((encoding_cases / "token-vectors.json").read_text(encoding="utf-8"))["vectors"]
    text = lambda v: v["text"] if "text" in v else (encoding_cases / v["file"]).read_bytes().decode()
    write_cases("v4-cases.json", [[text(v), v["ids"]] for v in vectors])
    peer = json.loads((golden / "peer" / "tokenizer.json").read_text(encoding="utf-8"))
    (HERE / "peer-tokenizer.json").write_text(json.dumps(peer, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    pack("v3-merges.bin", merges(golden / "tokenizer" / "v3-tokenizer.json"))


if __name__ == "__main__":
    main()
