"""Made-up reviews for the examples: whether they are good, and how long they are."""

from __future__ import annotations

import random

import bam_lightning as bam

WORDS = "the film was good bad long short and plot actors were not it a in who".split()


def make_tasks(rows: int = 200) -> dict[str, bam.Task]:
    """Return a classification and a regression task over the same texts; 50 rows become the dev split."""
    rng = random.Random(0)
    texts = sorted({" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(rows)})
    good = [{"review": text, "label": "good" if "good" in text.split() else "bad"} for text in texts]
    words = [{"review": text, "label": float(len(text.split()))} for text in texts]
    return {"good": bam.Task.from_list(good, text="review"), "words": bam.Task.from_list(words, text="review")}
