"""A small artificial language whose sentences have a defined meaning: lexicon, grammar and entailment.

A clause has a subject (quantifier, noun), an auxiliary (affirming or negating), a verb and an object (article, noun).
It may have a place and an evaluative adverb: "mulno fazok ases liben ta bokik zosoum topili". Quantifiers and articles
agree with the gender of their noun, auxiliaries with the number of the quantifier. Only beings can be subjects and only
things objects, so the object may come first. Every content word has a rarer synonym, every noun a hypernym. Verbs and
evaluative words come in antonym pairs. "All" implies "many", which implies "one". A negation turns a verb into its
antonym."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

RARE = 0.3  # probability of the rarer synonym
MEMBERS, VERB_PAIRS, VALUE_PAIRS, PLACES = (3, 3, 4, 4)  # few words, so that a tiny model learns them in seconds
QUANTIFIERS = (("ona", "ono"), ("mulna", "mulno"), ("alna", "alno"))  # one, many, all; by gender
ARTICLES, AUXILIARIES = (("ta", "to"), (("as", "ases"), ("nas", "nases")))  # by gender; affirming, negating by number
ASK, BE, VERY, AND, BUT = {"subj": "kwi", "obj": "kwo", "place": "kwe"}, "es", "vey", "ed", "mas"
UP, TURN = (("drop_value", "drop_place", "subj_class", "obj_class", "fewer"), ("negate", "antonym", "value_antonym"))
CHANGE, ADD = ("subj", "obj", "verb", "place"), ("value", "place", "more")
Noun = tuple[int, int]  # (class, member): classes 0 and 1 are beings, 2 and 3 things; member -1 is the class noun
_rng = random.Random(1)  # the same words for every seed, so that corpora and tasks fit together
_STEMS = ["".join(letters) for letters in product("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou")]
LEXICON = {
    name: [stem + ending for stem in _rng.sample(_STEMS, count)]
    for name, count, ending in (
        ("noun", 8 * MEMBERS, "k"),
        ("class", 4, "kor"),
        ("verb", 4 * VERB_PAIRS, "n"),
        ("value", 4 * VALUE_PAIRS, "li"),
        ("place", 2 * PLACES, "um"),
    )
}


@dataclass(frozen=True)
class Event:
    """The meaning of one clause."""

    quant: int  # 0 one, 1 many, 2 all
    subj: Noun
    neg: bool
    verb: int  # 2 * pair + side
    obj: Noun
    place: int | None
    value: int | None  # 2 * pair + (1 if praise); the upper half of the pairs is strong

    @property
    def side(self) -> int:
        """Which of two antonyms is meant. A negation turns a verb into its antonym, and two turns cancel."""
        return self.verb & 1 ^ self.neg


def draw_event(rng: random.Random, value: float = 0.4, place: float = 0.5) -> Event:
    """Draw an event. ``value`` and ``place`` are the probabilities of an evaluation and a place."""
    return Event(
        rng.randrange(3),
        (rng.randrange(2), rng.randrange(MEMBERS)),
        rng.random() < 0.12,
        rng.randrange(2 * VERB_PAIRS),
        (2 + rng.randrange(2), rng.randrange(MEMBERS)),
        rng.randrange(PLACES) if rng.random() < place else None,
        rng.randrange(2 * VALUE_PAIRS) if rng.random() < value else None,
    )


def say_one(name: str, concept: int | None, rng: random.Random) -> list[str]:
    """Return a word for a concept, one of its two synonyms; no word for ``None``."""
    return [] if concept is None else [LEXICON[name][2 * concept + (rng.random() < RARE)]]


def say_noun(marker: tuple[str, ...], noun: Noun, rng: random.Random) -> list[str]:
    """Return a noun after the quantifier or article that agrees with it."""
    word = say_one("noun", noun[0] * MEMBERS + noun[1], rng) if noun[1] >= 0 else [LEXICON["class"][noun[0]]]
    return [marker[noun[0] % 2], *word]


def say(event: Event, rng: random.Random, ask: str = "") -> list[str]:
    """Return the words of an event; synonyms and order are random. ``ask`` replaces one part by a question word."""
    subj = [] if ask == "subj" else say_noun(QUANTIFIERS[event.quant], event.subj, rng)
    verb = [AUXILIARIES[event.neg][ask != "subj" and event.quant > 0], *say_one("verb", event.verb, rng)]
    obj = [] if ask == "obj" else say_noun(ARTICLES, event.obj, rng)
    end = say_one("place", None if ask == "place" else event.place, rng) + say_one("value", event.value, rng)
    if ask:
        return [ASK[ask], *subj, *verb, *obj, *end, "?"]
    return obj + verb + subj + end if rng.random() < 0.1 else subj + verb + obj + end


def other(value: int, size: int, rng: random.Random) -> int:
    """Draw a value below ``size`` that differs from ``value``."""
    return (value + rng.randrange(1, size)) % size


def edit(e: Event, names: Sequence[str], rng: random.Random) -> Event:
    """Apply changes of meaning in order; one that does not apply leaves the event as it is."""

    def noun(kind: int, member: int) -> Noun:  # a sibling (same gender and class noun) or of the neighbouring class
        return (kind, other(member, MEMBERS, rng)) if rng.random() < 0.5 else (kind ^ 1, rng.randrange(MEMBERS))

    edits: dict[str, Callable[[], dict[str, Any]]] = {
        "drop_value": lambda: {"value": None},
        "drop_place": lambda: {"place": None},
        "subj_class": lambda: {"subj": (e.subj[0], -1)},
        "obj_class": lambda: {"obj": (e.obj[0], -1)},
        "fewer": lambda: {"quant": max(0, e.quant - 1)},
        "more": lambda: {"quant": min(2, e.quant + 1)},
        "negate": lambda: {"neg": not e.neg},
        "antonym": lambda: {"verb": e.verb ^ 1},
        "value_antonym": lambda: {"value": None if e.value is None else e.value ^ 1},
        "subj": lambda: {"subj": noun(*e.subj)},
        "obj": lambda: {"obj": noun(*e.obj)},
        "verb": lambda: {"verb": other(e.verb // 2, VERB_PAIRS, rng) * 2 + rng.randrange(2)},
        "place": lambda: {"place": rng.randrange(PLACES) if e.place is None else other(e.place, PLACES, rng)},
        "value": lambda: {"value": rng.randrange(2 * VALUE_PAIRS)},
    }
    for name in names:  # each edit sees the event that the ones before it have changed
        e = replace(e, **edits[name]())
    return e


def relation(p: Event, h: Event) -> int:
    """Return the relation of premise ``p`` to hypothesis ``h``: 0 entailment, 1 neutral, 2 contradiction."""
    nouns = all(low == high or high == (low[0], -1) for low, high in ((p.subj, h.subj), (p.obj, h.obj)))
    opposite = p.value is not None and h.value is not None and p.value ^ 1 == h.value
    known = (
        nouns
        and p.verb // 2 == h.verb // 2
        and h.quant <= p.quant
        and h.place in (None, p.place)
        and (opposite or h.value in (None, p.value))
    )
    return (2 if opposite or p.side != h.side else 0) if known else 1


def overlap(a: Event, b: Event) -> float:
    """Return the share of meaning that two events have in common, from 0 to 1."""
    verb = 0.0 if a.verb // 2 != b.verb // 2 else 0.3 if a.side != b.side else 1.0
    noun = sum(1.0 if x == y else 0.4 * (x[0] == y[0]) for x, y in ((a.subj, b.subj), (a.obj, b.obj)))
    return (
        0.3 * verb + 0.2 * noun + 0.15 * (a.place == b.place) + 0.1 * (a.value == b.value) + 0.05 * (a.quant == b.quant)
    )
