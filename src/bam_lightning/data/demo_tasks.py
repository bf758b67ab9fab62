"""The demo suite: eight generated tasks of the same kinds as GLUE's, all in one artificial language.

Labels follow from the meaning of the sentences (``demo_grammar.Event``) by rules that the tasks share, so that a small
task can profit from a large one. A share of wrong labels keeps every score below 100. Scores on these tasks say nothing
about GLUE."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from bam_lightning.data.demo_grammar import (
    ADD,
    AND,
    ARTICLES,
    ASK,
    AUXILIARIES,
    BE,
    BUT,
    CHANGE,
    MEMBERS,
    QUANTIFIERS,
    TURN,
    UP,
    VALUE_PAIRS,
    VERY,
    Event,
    draw_event,
    edit,
    other,
    overlap,
    relation,
    say,
    say_noun,
    say_one,
)

LABELS: dict[str, list[str] | tuple[float, float]] = {
    "acceptability": ["unacceptable", "acceptable"],
    "sentiment": ["negative", "positive"],
    "paraphrase": ["not_equivalent", "equivalent"],
    "similarity": (0.0, 5.0),
    "question_paraphrase": ["not_duplicate", "duplicate"],
    "entailment": ["entailment", "neutral", "contradiction"],
    "answer_entailment": ["entailment", "not_entailment"],
    "small_entailment": ["entailment", "not_entailment"],
}
DEMO_TASKS: tuple[str, ...] = tuple(LABELS)
NOISE = 0.05  # share of wrong labels: no model can reach 100 %
Row = tuple[str, str, float]


def _hypothesis(premise: Event, label: int, rng: random.Random) -> Event:
    """Return a hypothesis in the wanted relation: draw edits until the rule agrees."""
    while True:
        # Entailed hypotheses say less, as those of annotators do: a cue that even the smallest task can learn.
        names = rng.sample(UP, rng.randrange(2) if label else rng.randrange(1, 4))
        names += rng.choices(CHANGE + ADD, k=label == 1)
        names += rng.choices(TURN, k=label == 2 or (label == 1 and rng.random() < 0.15))
        if relation(premise, event := edit(premise, names, rng)) == label:
            return event


def _acceptability(rng: random.Random) -> Row:
    words = say(event := draw_event(rng), rng)
    if rng.random() < 0.6:
        return " ".join(words), "", 1
    fault, at = rng.random(), rng.randrange(len(words) - 1)
    if fault < 0.2:  # things do not act
        words = say(replace(event, subj=event.obj, obj=event.subj), rng)
    elif fault < 0.5:  # gender or number agreement
        forms = {a: b for pair in (*QUANTIFIERS, ARTICLES, *AUXILIARIES) for a, b in (pair, pair[::-1])}
        at = rng.choice([i for i, word in enumerate(words) if word in forms])
        words[at] = forms[words[at]]
    elif fault < 0.8:
        words[at : at + 2] = words[at + 1], words[at]
    else:
        del words[rng.randrange(6)]  # a place or an evaluation might be left out
    return " ".join(words), "", 0


def _opinion(rng: random.Random, praise: bool | None = None) -> tuple[list[str], int]:
    """Return the words of an evaluating clause, and its score: positive for praise."""
    value = rng.randrange(2 * VALUE_PAIRS)
    noun, quant = (2 * rng.randrange(2) + rng.randrange(2), rng.randrange(MEMBERS)), rng.randrange(3)
    very, neg = rng.random() < 0.3, rng.random() < 0.15
    if praise is not None:
        value = value // 2 * 2 + (praise != neg)
    score = (1 if (value % 2 == 1) != neg else -1) * (1 + (value // 2 >= VALUE_PAIRS // 2)) * (1 + very)
    words = [*say_noun(QUANTIFIERS[quant], noun, rng), AUXILIARIES[neg][quant > 0], BE]
    return words + [VERY] * very + say_one("value", value, rng), score


def _sentiment(rng: random.Random) -> Row:
    while True:
        (first, a), (second, b) = _opinion(rng), _opinion(rng)
        but = rng.random() < 0.5
        if score := a + (2 * b if but else b):  # what comes after "but" counts more; a draw has no label
            return " ".join([*first, BUT if but else AND, *second]), "", float(score > 0)


def _visible(event: Event, ask: str) -> Event:
    """Return the event without the part that a question asks for."""
    hidden: dict[str, Any] = {"subj": {"subj": (0, 0), "quant": 0}, "obj": {"obj": (2, 0)}, "place": {"place": None}}
    return replace(event, **hidden[ask]) if ask else event


def _paraphrase(rng: random.Random, ask: bool = False) -> Row:
    """Return two statements, or two questions, and whether they mean the same."""
    same, part = rng.random() < (0.38 if ask else 0.5), rng.choice(("subj", "obj")) if ask else ""
    event = other = draw_event(rng) if ask else draw_event(rng, 0.6, 0.7)
    while not same and overlap(_visible(event, part), _visible(other, part)) == overlap(event, event):
        other = edit(other, rng.choices(CHANGE + TURN[:2] + UP[:2], k=1 if rng.random() < 0.3 else 3), rng)
    return " ".join(say(event, rng, part)), " ".join(say(other, rng, part)), float(same)


def _similarity(rng: random.Random) -> Row:
    event, names = draw_event(rng, 0.6, 0.7), CHANGE + CHANGE + TURN[:2] + UP[:2] + UP[:2]
    other = edit(event, rng.choices(names, k=rng.randrange(6)), rng)
    return " ".join(say(event, rng)), " ".join(say(other, rng)), 5 * overlap(event, other)


def _entailment(rng: random.Random, small: bool = False) -> Row:
    label = rng.choice((0, 0, 1, 2)) if small else rng.randrange(3)
    premise = draw_event(rng, 0.5, 0.7) if small else draw_event(rng)
    texts = " ".join(say(premise, rng)), " ".join(say(_hypothesis(premise, label, rng), rng))
    return *texts, min(label, 1) if small else label


def _answer_entailment(rng: random.Random) -> Row:
    """Return a question and a sentence that answers it (label 0) or does not (label 1)."""
    label, ask = rng.randrange(2), rng.choice(list(ASK))
    while True:
        sentence = draw_event(rng, place=0.8 if ask == "place" else 0.5)
        mute = label == 1 and ask == "place" and rng.random() < 0.4
        names = rng.sample(UP, rng.randrange(2)) + rng.choices(CHANGE + TURN[:2], k=label == 1 and not mute)
        question, sentence = edit(sentence, names, rng), replace(sentence, place=None) if mute else sentence
        silent = ask == "place" and sentence.place is None
        if (silent or relation(_visible(sentence, ask), _visible(question, ask)) > 0) == bool(label):
            return " ".join(say(question, rng, ask)), " ".join(say(sentence, rng)), label


_MAKERS: dict[str, Callable[[random.Random], Row]] = {
    "acceptability": _acceptability,
    "sentiment": _sentiment,
    "paraphrase": _paraphrase,
    "similarity": _similarity,
    "question_paraphrase": lambda rng: _paraphrase(rng, ask=True),
    "entailment": _entailment,
    "answer_entailment": _answer_entailment,
    "small_entailment": lambda rng: _entailment(rng, small=True),
}


@lru_cache(maxsize=16)  # read split by split, and again by the next job of a sweep
def generate_splits(kind: str, train: int, dev: int, seed: int = 0) -> dict[str, dict[str, list]]:
    """Generate a task: split -> column -> values. No text, or pair of texts, occurs twice."""
    rng = random.Random(f"{kind} {seed}")  # a string seed does not depend on hash randomization
    rows: dict[tuple[str, str], int | float] = {}
    while len(rows) < train + dev:
        first, second, label = _MAKERS[kind](rng)
        faulty = (
            round(min(5.0, max(0.0, rng.gauss(label, 0.3))), 2)
            if kind == "similarity"
            else (other(int(label), len(LABELS[kind]), rng) if rng.random() < NOISE else int(label))
        )
        rows.setdefault((first, second), faulty)  # scores are noisy, as annotators' are
    data: dict[str, dict[str, list]] = {}
    for split, part in (("train", list(rows.items())[:train]), ("validation", list(rows.items())[train:])):
        pairs = {"text_b": [texts[1] for texts, _ in part]} if kind not in ("acceptability", "sentiment") else {}
        data[split] = {
            "idx": list(range(len(part))),
            "text_a": [texts[0] for texts, _ in part],
            **pairs,
            "label": [label for _, label in part],
        }
    return data


@lru_cache(maxsize=2)
def generate_sentences(sentences: int, seed: int = 0) -> list[str]:
    """Generate unlabelled documents of two related clauses: one helps to predict a masked word of the other."""
    rng, documents = random.Random(f"corpus {seed}"), []
    for _ in range(sentences):
        form, event = rng.random(), draw_event(rng)
        first, second = say(event, rng), say(event, rng)  # mostly a paraphrase
        if form < 0.15:  # opinions that agree
            first, second = (_opinion(rng, form < 0.075)[0] for _ in range(2))
        elif form < 0.25:
            first = say(event, rng, rng.choice(list(ASK)[: 2 if event.place is None else 3]))
        elif form < 0.35:  # a weaker statement
            second = say(_hypothesis(event, 0, rng), rng)
        documents.append(" ".join([*first, AND if form < 0.15 else ".", *second]))
    return documents
