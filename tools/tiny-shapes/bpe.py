"""The tokenizer: CLIP's byte-level BPE with merges learned from the scenes' captions.

Writes `vocab.json` and `merges.txt` (the form of checkpoints on the hub) and
`tokenizer.json` (the form that transformers 5 saves).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import CLIPTokenizer

import scenes

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77
# Words a caption may hold beside those of the training captions, so that they too are one token.
MORE_WORDS = (
    "the and with of in photo painting image shape shapes color colour coloured bright dark light simple "
    "plain grey gray brown cyan rectangle oval diamond moon sun cross arrow medium left right top bottom "
    "centre center middle two three round solid flat clean sharp soft blurry noise ugly bad good quality"
).split()


def byte_symbols() -> list[str]:
    """The printable stand-ins for the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Merges the most frequent pair (ties: alphabetical) until every word is one symbol."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in pieces.items():
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            pieces[word] = merged


def caption_words(seed: int, captions: int = 4000) -> Counter[str]:
    rng = np.random.default_rng([seed, 1])
    words: Counter[str] = Counter()
    for _ in range(captions):
        caption, _, _ = scenes.random_caption(scenes.random_scene(rng), rng)
        words.update(word for word in caption.replace(",", " ").split())
    words.update(MORE_WORDS)
    return words


def train_tokenizer(folder: Path, seed: int) -> CLIPTokenizer:
    """Learns the merges, saves every form of the tokenizer in `folder`, and gives it back."""
    merges = learn_merges(caption_words(seed))
    symbols = byte_symbols()
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens)) + [START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tokenizer


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """`[batch, 77]` token numbers, padded and cut as the pipeline does it."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
