"""Eight GLUE-like tasks over one small artificial language, drawn afresh from a seed.

A clause is a subject (quantifier, noun), an auxiliary (affirming or negating), a verb, an object (article, noun),
maybe a place and an evaluative adverb: "mulno fazok ases liben ta bokik zosoum topili".  Quantifier and article
agree with their noun's gender, the auxiliary with the quantifier's number; only beings can be subjects and only
things objects, so the object may come first.  Content words have a rarer synonym, nouns a class noun above them;
verbs and evaluative words come in antonym pairs; "all" implies "many" implies "one"; a negation turns a verb into
its antonym.  Labels follow from the meanings (`Event`) by rules that the tasks share, so a small task profits from
its large relative; a little label noise keeps every score below its ceiling.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

LABELS: dict[str, list[str] | tuple[float, float]] = {
    "acceptability": ["unacceptable", "acceptable"], "sentiment": ["negative", "positive"],
    "paraphrase": ["not_equivalent", "equivalent"], "similarity": (0.0, 5.0),
    "question_paraphrase": ["not_duplicate", "duplicate"], "entailment": ["entailment", "neutral", "contradiction"],
    "answer_entailment": ["entailment", "not_entailment"], "small_entailment": ["entailment", "not_entailment"],
}
KINDS: tuple[str, ...] = tuple(LABELS)
NOISE, RARE = 0.05, 0.3  # shares of wrong labels (no model can reach 100 %) and of the rarer of two synonyms
MEMBERS, VERB_PAIRS, VALUE_PAIRS, PLACES = 3, 3, 4, 4  # few words, so that a tiny model learns them in seconds
QUANTIFIERS = (("ona", "ono"), ("mulna", "mulno"), ("alna", "alno"))  # one, many, all; by gender
ARTICLES, AUXILIARIES = ("ta", "to"), (("as", "ases"), ("nas", "nases"))  # by gender; affirming, negating by number
ASK, BE, VERY, AND, BUT = {"subj": "kwi", "obj": "kwo", "place": "kwe"}, "es", "vey", "ed", "mas"
UP, TURN = ("drop_value", "drop_place", "subj_class", "obj_class", "fewer"), ("negate", "antonym", "value_antonym")
CHANGE, ADD = ("subj", "obj", "verb", "place"), ("value", "place", "more")
Noun = tuple[int, int]  # (class, member): classes 0 and 1 are beings, 2 and 3 things; member -1 is the class noun
Row = tuple[str, str, float]
_rng = random.Random(1)  # the same words for every seed, so that corpora and tasks fit together
_STEMS = ["".join(letters) for letters in product("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou")]
LEXICON = {name: [stem + ending for stem in _rng.sample(_STEMS, count)] for name, count, ending in (
    ("noun", 8 * MEMBERS, "k"), ("class", 4, "kor"), ("verb", 4 * VERB_PAIRS, "n"), ("value", 4 * VALUE_PAIRS, "li"),
    ("place", 2 * PLACES, "um"))}


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
    def side(self) -> int:  # a negation equals the antonym, and two turns cancel
        return self.verb & 1 ^ self.neg


def _event(rng: random.Random, value: float = 0.4, place: float = 0.5) -> Event:
    return Event(rng.randrange(3), (rng.randrange(2), rng.randrange(MEMBERS)), rng.random() < 0.12,
                 rng.randrange(2 * VERB_PAIRS), (2 + rng.randrange(2), rng.randrange(MEMBERS)),
                 rng.randrange(PLACES) if rng.random() < place else None,
                 rng.randrange(2 * VALUE_PAIRS) if rng.random() < value else None)


def _say_one(name: str, concept: int | None, rng: random.Random) -> list[str]:
    return [] if concept is None else [LEXICON[name][2 * concept + (rng.random() < RARE)]]


def _say_noun(marker: tuple[str, ...], noun: Noun, rng: random.Random) -> list[str]:
    word = _say_one("noun", noun[0] * MEMBERS + noun[1], rng) if noun[1] >= 0 else [LEXICON["class"][noun[0]]]
    return [marker[noun[0] % 2], *word]


def _say(event: Event, rng: random.Random, ask: str = "") -> list[str]:
    """The words of an event, synonyms and order drawn at random; `ask` replaces one part by a question word."""
    subj = [] if ask == "subj" else _say_noun(QUANTIFIERS[event.quant], event.subj, rng)
    verb = [AUXILIARIES[event.neg][ask != "subj" and event.quant > 0], *_say_one("verb", event.verb, rng)]
    obj = [] if ask == "obj" else _say_noun(ARTICLES, event.obj, rng)
    end = _say_one("place", None if ask == "place" else event.place, rng) + _say_one("value", event.value, rng)
    if ask:
        return [ASK[ask], *subj, *verb, *obj, *end, "?"]
    return obj + verb + subj + end if rng.random() < 0.1 else subj + verb + obj + end


def _other(value: int, size: int, rng: random.Random) -> int:
    return (value + rng.randrange(1, size)) % size


def _edit(e: Event, names: Sequence[str], rng: random.Random) -> Event:
    """Changes of meaning, one after the other; one that does not apply leaves the event as it is."""
    def noun(kind: int, member: int) -> Noun:  # a sibling (same gender and class noun) or of the neighbouring class
        return (kind, _other(member, MEMBERS, rng)) if rng.random() < 0.5 else (kind ^ 1, rng.randrange(MEMBERS))
    edits: dict[str, Callable[[], dict[str, Any]]] = {
        "drop_value": lambda: {"value": None}, "drop_place": lambda: {"place": None},
        "subj_class": lambda: {"subj": (e.subj[0], -1)}, "obj_class": lambda: {"obj": (e.obj[0], -1)},
        "fewer": lambda: {"quant": max(0, e.quant - 1)}, "more": lambda: {"quant": min(2, e.quant + 1)},
        "negate": lambda: {"neg": not e.neg}, "antonym": lambda: {"verb": e.verb ^ 1},
        "value_antonym": lambda: {"value": None if e.value is None else e.value ^ 1},
        "subj": lambda: {"subj": noun(*e.subj)}, "obj": lambda: {"obj": noun(*e.obj)},
        "verb": lambda: {"verb": _other(e.verb // 2, VERB_PAIRS, rng) * 2 + rng.randrange(2)},
        "place": lambda: {"place": rng.randrange(PLACES) if e.place is None else _other(e.place, PLACES, rng)},
        "value": lambda: {"value": rng.randrange(2 * VALUE_PAIRS)}}
    for name in names:  # each edit sees the event that the ones before it have changed
        e = replace(e, **edits[name]())
    return e


def relation(p: Event, h: Event) -> int:
    """Of a premise to a hypothesis: 0 entailment, 1 neutral, 2 contradiction; both speak of one situation."""
    nouns = all(low == high or high == (low[0], -1) for low, high in ((p.subj, h.subj), (p.obj, h.obj)))
    opposite = p.value is not None and h.value is not None and p.value ^ 1 == h.value
    known = (nouns and p.verb // 2 == h.verb // 2 and h.quant <= p.quant and h.place in (None, p.place)
             and (opposite or h.value in (None, p.value)))
    return (2 if opposite or p.side != h.side else 0) if known else 1


def _overlap(a: Event, b: Event) -> float:
    """Share of the meaning that two events have in common."""
    verb = 0.0 if a.verb // 2 != b.verb // 2 else 0.3 if a.side != b.side else 1.0
    noun = sum(1.0 if x == y else 0.4 * (x[0] == y[0]) for x, y in ((a.subj, b.subj), (a.obj, b.obj)))
    return (0.3 * verb + 0.2 * noun + 0.15 * (a.place == b.place) + 0.1 * (a.value == b.value)
            + 0.05 * (a.quant == b.quant))


def _hypothesis(premise: Event, label: int, rng: random.Random) -> Event:
    """A hypothesis in the wanted relation, by edits that are drawn until the rule agrees."""
    while True:
        # Entailed hypotheses say less, as those of annotators do: a cue that even the smallest task can learn.
        names = rng.sample(UP, rng.randrange(2) if label else rng.randrange(1, 4))
        names += rng.choices(CHANGE + ADD, k=label == 1)
        names += rng.choices(TURN, k=label == 2 or (label == 1 and rng.random() < 0.15))
        if relation(premise, event := _edit(premise, names, rng)) == label:
            return event


def _acceptability(rng: random.Random) -> Row:
    words = _say(event := _event(rng), rng)
    if rng.random() < 0.6:
        return " ".join(words), "", 1
    fault, at = rng.random(), rng.randrange(len(words) - 1)
    if fault < 0.2:  # things do not act
        words = _say(replace(event, subj=event.obj, obj=event.subj), rng)
    elif fault < 0.5:  # gender or number agreement
        forms = {a: b for pair in (*QUANTIFIERS, ARTICLES, *AUXILIARIES) for a, b in (pair, pair[::-1])}
        at = rng.choice([i for i, word in enumerate(words) if word in forms])
        words[at] = forms[words[at]]
    elif fault < 0.8:
        words[at:at + 2] = words[at + 1], words[at]
    else:
        del words[rng.randrange(6)]  # a place or an evaluation might be left out
    return " ".join(words), "", 0


def _opinion(rng: random.Random, praise: bool | None = None) -> tuple[list[str], int]:
    """An evaluating clause and how much it praises."""
    value = rng.randrange(2 * VALUE_PAIRS)
    noun, quant = (2 * rng.randrange(2) + rng.randrange(2), rng.randrange(MEMBERS)), rng.randrange(3)
    very, neg = rng.random() < 0.3, rng.random() < 0.15
    if praise is not None:
        value = value // 2 * 2 + (praise != neg)
    score = (1 if (value % 2 == 1) != neg else -1) * (1 + (value // 2 >= VALUE_PAIRS // 2)) * (1 + very)
    words = [*_say_noun(QUANTIFIERS[quant], noun, rng), AUXILIARIES[neg][quant > 0], BE]
    return words + [VERY] * very + _say_one("value", value, rng), score


def _sentiment(rng: random.Random) -> Row:
    while True:
        (first, a), (second, b) = _opinion(rng), _opinion(rng)
        but = rng.random() < 0.5
        if score := a + (2 * b if but else b):  # what comes after "but" counts more; a draw has no label
            return " ".join([*first, BUT if but else AND, *second]), "", float(score > 0)


def _visible(event: Event, ask: str) -> Event:
    """The event without what a question for one part leaves open."""
    hidden: dict[str, Any] = {"subj": {"subj": (0, 0), "quant": 0}, "obj": {"obj": (2, 0)}, "place": {"place": None}}
    return replace(event, **hidden[ask]) if ask else event


def _paraphrase(rng: random.Random, ask: bool = False) -> Row:
    """Two statements, or two questions: do they say (ask) the same?"""
    same, part = rng.random() < (0.38 if ask else 0.5), rng.choice(("subj", "obj")) if ask else ""
    event = other = _event(rng) if ask else _event(rng, 0.6, 0.7)
    while not same and _overlap(_visible(event, part), _visible(other, part)) == _overlap(event, event):
        other = _edit(other, rng.choices(CHANGE + TURN[:2] + UP[:2], k=1 if rng.random() < 0.3 else 3), rng)
    return " ".join(_say(event, rng, part)), " ".join(_say(other, rng, part)), float(same)


def _similarity(rng: random.Random) -> Row:
    event, names = _event(rng, 0.6, 0.7), CHANGE + CHANGE + TURN[:2] + UP[:2] + UP[:2]
    other = _edit(event, rng.choices(names, k=rng.randrange(6)), rng)
    return " ".join(_say(event, rng)), " ".join(_say(other, rng)), 5 * _overlap(event, other)


def _entailment(rng: random.Random, small: bool = False) -> Row:
    label = rng.choice((0, 0, 1, 2)) if small else rng.randrange(3)
    premise = _event(rng, 0.5, 0.7) if small else _event(rng)
    texts = " ".join(_say(premise, rng)), " ".join(_say(_hypothesis(premise, label, rng), rng))
    return *texts, min(label, 1) if small else label


def _answer_entailment(rng: random.Random) -> Row:
    """A question and a sentence that answers it (0) or does not (1)."""
    label, ask = rng.randrange(2), rng.choice(list(ASK))
    while True:
        sentence = _event(rng, place=0.8 if ask == "place" else 0.5)
        mute = label == 1 and ask == "place" and rng.random() < 0.4
        names = rng.sample(UP, rng.randrange(2)) + rng.choices(CHANGE + TURN[:2], k=label == 1 and not mute)
        question, sentence = _edit(sentence, names, rng), replace(sentence, place=None) if mute else sentence
        silent = ask == "place" and sentence.place is None
        if (silent or relation(_visible(sentence, ask), _visible(question, ask)) > 0) == bool(label):
            return " ".join(_say(question, rng, ask)), " ".join(_say(sentence, rng)), label


_MAKERS: dict[str, Callable[[random.Random], Row]] = {
    "acceptability": _acceptability, "sentiment": _sentiment, "paraphrase": _paraphrase, "similarity": _similarity,
    "question_paraphrase": lambda rng: _paraphrase(rng, ask=True), "entailment": _entailment,
    "answer_entailment": _answer_entailment, "small_entailment": lambda rng: _entailment(rng, small=True)}


def generate(kind: str, train: int, dev: int, seed: int = 0) -> dict[str, dict[str, list]]:
    """Rows of one task as columns by split; no text (or pair of texts) occurs twice."""
    rng = random.Random(f"{kind} {seed}")  # a text as seed does not depend on hash randomisation
    rows: dict[tuple[str, str], int | float] = {}
    while len(rows) < train + dev:
        first, second, label = _MAKERS[kind](rng)
        faulty = round(min(5.0, max(0.0, rng.gauss(label, 0.3))), 2) if kind == "similarity" else (
            _other(int(label), len(LABELS[kind]), rng) if rng.random() < NOISE else int(label))
        rows.setdefault((first, second), faulty)  # annotators make small faults
    data: dict[str, dict[str, list]] = {}
    for split, part in (("train", list(rows.items())[:train]), ("validation", list(rows.items())[train:])):
        pairs = {"text_b": [texts[1] for texts, _ in part]} if kind not in ("acceptability", "sentiment") else {}
        data[split] = {"idx": list(range(len(part))), "text_a": [texts[0] for texts, _ in part], **pairs,
                       "label": [label for _, label in part]}
    return data


def corpus(sentences: int, seed: int = 0) -> list[str]:
    """Unlabelled documents of two related clauses, so that a masked word can be found by its like in the other."""
    rng, documents = random.Random(f"corpus {seed}"), []
    for _ in range(sentences):
        form, event = rng.random(), _event(rng)
        first, second = _say(event, rng), _say(event, rng)  # mostly the same once more in other words
        if form < 0.15:  # opinions that agree
            first, second = (_opinion(rng, form < 0.075)[0] for _ in range(2))
        elif form < 0.25:
            first = _say(event, rng, rng.choice(list(ASK)[:2 if event.place is None else 3]))
        elif form < 0.35:  # a weaker statement
            second = _say(_hypothesis(event, 0, rng), rng)
        documents.append(" ".join([*first, AND if form < 0.15 else ".", *second]))
    return documents
