#!/usr/bin/env python3
"""Vocabularies that we learn beside those of PyPI tokenizers' BpeTrainer: same texts, same splits, same number of merges.

  python3 tools/compare_bpe_training.py [--cachalot build/release/cachalot] [--vocab-size 2000] [FILE..]

Without files it takes this repository's own sources and documents. It needs no network once tools/bench_tokenizer.py's environment
stands. Reported: the first merge that differs, with how often each side's pair stands in the text at that point, and what each
vocabulary makes of the text (bytes per token). Both break ties by the smaller left id, then the smaller right id, and number the
bytes alike, so that all merges must be equal, or the run fails.
"""
import argparse
import collections
import json
import subprocess
import sys

from bench_tokenizer import ROOT, WORK, in_venv, read


def own_texts():
    names = subprocess.run(["git", "ls-files", "*.cpp", "*.h", "*.md", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [str(ROOT / name) for name in names.split()]


def ours(program, files, vocab_size):
    out = WORK / "ours.json"
    subprocess.run([program, "data", "tokenizer", *files, "--vocab-size", str(vocab_size), "--out", out], check=True, capture_output=True)
    return out


def theirs(tokenizers, like, texts):
    """Trained with the splits of `like` for as many merges as it has."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = like.pre_tokenizer
    num_merges = len(json.loads(like.to_str())["model"]["merges"])
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=256 + num_merges, min_frequency=2, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def without_control_tokens(tokenizers, tokenizer):
    """Theirs has none, and texts may spell them."""
    return tokenizers.Tokenizer.from_str(json.dumps(dict(json.loads(tokenizer.to_str()), added_tokens=[], post_processor=None)))


def merges_of(tokenizer):
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def words_after(like, texts, merges):
    """The distinct pieces of the texts with their counts, merged so far."""
    counts = collections.Counter(piece for text in texts for piece, _ in like.pre_tokenizer.pre_tokenize_str(text))
    words = [(list(piece), count) for piece, count in counts.items()]
    for merge in merges:
        for word, _ in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == merge:
                    word[at:at + 2] = [word[at] + word[at + 1]]
                at += 1
    return words


def count_of(words, pair):
    return sum(count for word, count in words for i in range(len(word) - 1) if (word[i], word[i + 1]) == pair)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--cachalot", default=str(ROOT / "build" / "release" / "cachalot"))
    parser.add_argument("--vocab-size", type=int, default=2000, help="of ours, control tokens included")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        in_venv(__file__)

    import tokenizers

    WORK.mkdir(parents=True, exist_ok=True)
    files = args.files or own_texts()
    texts = [text for text in map(read, files) if text]
    plain = [WORK / f"text-{i:05}.txt" for i in range(len(texts))]
    for path, text in zip(plain, texts):
        path.write_bytes(text.encode())
    trained = tokenizers.Tokenizer.from_file(str(ours(args.cachalot, plain, args.vocab_size)))
    our_tokenizer = without_control_tokens(tokenizers, trained)
    their_tokenizer = theirs(tokenizers, our_tokenizer, texts)
    size = sum(len(text.encode()) for text in texts)
    our_merges, their_merges = merges_of(our_tokenizer), merges_of(their_tokenizer)
    print(f"tokenizers {tokenizers.__version__}; {len(texts)} texts, {size / 1e6:.2f} MB; merges: ours {len(our_merges)}, theirs {len(their_merges)}")
    for name, tokenizer in ("ours", our_tokenizer), ("theirs", their_tokenizer):
        count = sum(len(e.ids) for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        print(f"{name}: {count} tokens, {size / count:.3f} bytes per token")
    if our_merges == their_merges:
        print("merges: equal")
        return
    first = next((i for i, (a, b) in enumerate(zip(our_merges, their_merges)) if a != b), min(len(our_merges), len(their_merges)))
    words = words_after(our_tokenizer, texts, our_merges[:first])
    for name, merges in ("ours", our_merges), ("theirs", their_merges):
        pair = merges[first] if first < len(merges) else None
        print(f"first merge that differs, {first}: {name} {pair}, which stands there {count_of(words, pair)} times")
    sys.exit("the merges differ")


if __name__ == "__main__":
    main()
