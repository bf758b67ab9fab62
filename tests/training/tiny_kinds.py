"""Tiny tasks of all kinds in memory: a class, a score, tags of words, a choice and an answer."""

from __future__ import annotations

import numpy as np

import bam_lightning as bam
from conftest import WORDS, sentences

NOUNS = ("cat", "dog", "man", "woman")
KINDS = ("mood", "size", "tags", "choice", "answer")


def _say(rng: np.random.Generator, longest: int) -> list[str]:
    return list(rng.choice(WORDS, int(rng.integers(2, longest))))


def _tags(rng: np.random.Generator) -> dict:
    words = _say(rng, 14)
    return {"tokens": words, "tags": ["B-N" if word in NOUNS else "O" for word in words]}


def _choice(rng: np.random.Generator) -> dict:
    count = int(rng.integers(2, 4))
    right = int(rng.integers(0, count))
    options = [" ".join(["the", "dog" if n != right else "cat", *_say(rng, 5)]) for n in range(count)]
    return {"question": "who sleeps", "options": options, "label": right}


def _answer(rng: np.random.Generator) -> dict:
    words = [word for word in _say(rng, 40) if word != "cat"] or ["it"]
    place = int(rng.integers(0, len(words)))
    start = len(" ".join([*words[:place], ""]))
    context = " ".join([*words[:place], "cat", *words[place:]])
    return {"question": "who is it", "context": context, "answers": {"text": ["cat"], "answer_start": [start]}}


def kinds(rows: int = 40, dev: int = 20, names: tuple[str, ...] = KINDS, **options) -> dict[str, bam.Task]:
    """Return tasks of the given names, without dropout."""
    tasks = {}
    for number, name in enumerate(KINDS):
        rng = np.random.default_rng(number)
        texts = sentences(rows + dev, number)
        every = {
            "mood": lambda i, texts=texts: {"text": texts[i], "label": "good" if "good" in texts[i] else "bad"},
            "size": lambda i, texts=texts: {"text": texts[i], "label": float(len(texts[i].split()))},
            "tags": lambda i, rng=rng: _tags(rng),
            "choice": lambda i, rng=rng: _choice(rng),
            "answer": lambda i, rng=rng: _answer(rng),
        }[name]
        columns = {
            "mood": {"text": "text"},
            "size": {"text": "text", "range": (1.0, 12.0)},
            "tags": {"text": "tokens", "label": "tags"},
            "choice": {"text": "question", "choices": "options"},
            "answer": {"text": ["question", "context"], "label": "answers"},
        }[name]
        table = [every(i) for i in range(rows + dev)]
        if name in names:
            splits = {"train": table[:rows], "dev": table[rows:]}
            tasks[name] = bam.Task.from_list(splits, dropout=0.0, **columns, **options)
    return tasks
