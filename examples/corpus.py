"""The generated corpus of the examples: documents of hashed words, each with the topics that they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WORDS, LABELS = 600, 100


def documents(count: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the words and labels of each document. A label adds 3 of its own 6 words; some random words are noise."""
    own = np.random.default_rng(0).integers(WORDS, size=(LABELS, 6))
    draw = np.random.default_rng(seed)
    words, labels = [], []
    for _ in range(count):
        # Label frequencies are uneven, like those of real corpora.
        topics = np.unique((LABELS * draw.random(draw.integers(1, 6)) ** 2).astype(int))
        text = [draw.choice(own[topic], 3, replace=False) for topic in topics]
        text.append(draw.integers(WORDS, size=max(1, len(topics) // 2)))
        words.append(np.unique(np.concatenate(text)).tolist())
        labels.append(topics.tolist())
    return words, labels


def write_xmc(path: Path, count: int, seed: int) -> Path:
    """Write the documents as a file of the Extreme Classification Repository: a header, then ``l1,l2 f1:v1 f2:v2``."""
    lines = [f"{count} {WORDS} {LABELS}"]
    for words, labels in zip(*documents(count, seed), strict=True):
        lines.append(",".join(map(str, labels)) + " " + " ".join(f"{word}:1" for word in words))
    path.write_text("\n".join(lines) + "\n")
    return path


def padded(words: list[int], length: int = 24) -> list[int]:
    """Return ``length`` token ids; the first is 1, and 0 is padding."""
    ids = [1, *(word + 2 for word in words)][:length]
    return ids + [0] * (length - len(ids))
