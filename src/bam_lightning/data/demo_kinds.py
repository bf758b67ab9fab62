"""Generated tasks of other kinds, in the language of the demo suite: tags of words, multiple choice, answers."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from bam_lightning.data.demo_grammar import (
    AND,
    ARTICLES,
    CHANGE,
    LEXICON,
    QUANTIFIERS,
    TURN,
    Event,
    draw_event,
    edit,
    other,
    overlap,
    say,
)

NOISE = 0.05  # share of wrong labels, as in ``demo_tasks``
CHOICES = 3
TAGS = ("O", "B-SUBJ", "I-SUBJ", "B-OBJ", "I-OBJ", "B-PLACE")
_MARKERS = {**{word: "SUBJ" for pair in QUANTIFIERS for word in pair}, **dict.fromkeys(ARTICLES, "OBJ")}


def _tags(words: list[str]) -> list[str]:
    """Return who acts, what is acted on and where: a quantifier or an article begins the phrase of its noun."""
    tags = []
    for before, word in zip(["", *words], words, strict=False):
        tag = f"B-{_MARKERS[word]}" if word in _MARKERS else f"I-{_MARKERS[before]}" if before in _MARKERS else "O"
        tags.append("B-PLACE" if word in LEXICON["place"] else tag)
    return tags


def _tagging(rng: random.Random) -> dict[str, Any]:
    words = [*say(draw_event(rng), rng), AND, *say(draw_event(rng), rng)]
    tags = [rng.choice(TAGS) if rng.random() < NOISE else tag for tag in _tags(words)]
    return {"tokens": words, "label": tags}


def _choice(rng: random.Random) -> dict[str, Any]:
    """Return a statement and sentences, of which one says the same."""
    event = draw_event(rng, 0.6, 0.7)
    texts, label = [], rng.randrange(CHOICES)
    for place in range(CHOICES):
        said = event
        while place != label and overlap(event, said) > 0.8:
            said = edit(event, rng.choices(CHANGE + TURN[:2], k=2), rng)
        texts.append(" ".join(say(said, rng)))
    given = other(label, CHOICES, rng) if rng.random() < NOISE else label
    return {"text": " ".join(say(event, rng)), **{f"choice_{n}": text for n, text in enumerate(texts)}, "label": given}


def _answer(rng: random.Random) -> dict[str, Any]:
    """Return a question for who acts or what is acted on, two sentences, and the words that answer it."""
    ask = rng.choice(("subj", "obj"))
    event = draw_event(rng)
    another = event
    while _same_question(event, another, ask):
        another = draw_event(rng)
    clauses = [say(event, rng), say(another, rng)]
    asked = 0 if rng.random() >= NOISE else 1
    tags = _tags(clauses[asked])
    first = tags.index(f"B-{ask.upper()}")
    answer = " ".join(clauses[asked][first : first + 2])
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    texts = [" ".join(clauses[number]) for number in order]
    place = order.index(asked)
    start = texts[place].index(answer) + (len(texts[0]) + 3 if place else 0)
    return {
        "question": " ".join(say(event, rng, ask)),
        "context": " . ".join(texts),
        "label": {"text": [answer], "answer_start": [start]},
    }


def _same_question(event: Event, another: Event, ask: str) -> bool:
    """Return whether the question for a part of one event might be asked of another."""
    part = "obj" if ask == "subj" else "subj"
    return event.verb // 2 == another.verb // 2 or getattr(event, part) == getattr(another, part)


_MAKERS = {"tagging": _tagging, "choice": _choice, "answer": _answer}
DEMO_KINDS = tuple(_MAKERS)


@lru_cache(maxsize=1)  # the splits of a task are read one after the other
def generate_rows(kind: str, train: int, dev: int, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Generate a task: split -> rows. No text occurs twice."""
    rng, rows = random.Random(f"{kind} {seed}"), dict[str, dict[str, Any]]()
    while len(rows) < train + dev:
        row = _MAKERS[kind](rng)
        rows.setdefault(str([value for name, value in row.items() if name != "label"]), row)
    found = list(rows.values())
    return {"train": found[:train], "validation": found[train:]}
