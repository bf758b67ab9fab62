"""Gold labels that count words or characters of a text: tags of words, answers as spans of a context.

N rows, M words in all of them, G answers in all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bam_lightning.config.exceptions import DataError
from bam_lightning.store.ragged import Ragged

NO_TAG = -1
_WORDS = {"tagging": re.compile(r"\S+"), "span": re.compile(r"\w+|[^\w\s]")}
Numbered = Callable[[Iterable[tuple[int, Any]]], Iterator[tuple[int, Any, int]]]


def words_of(text: str, kind: str) -> NDArray[np.int64]:
    """Return where the words of a text begin and end: ``[w, 2]`` characters.

    Words to tag are separated by white space; those of a context are runs of letters and digits, or one other sign.

    >>> words_of("Paris, 1990", "tagging").tolist(), words_of("Paris, 1990", "span").tolist()
    ([[0, 6], [7, 11]], [[0, 5], [5, 6], [7, 11]])
    """
    return np.array([match.span() for match in _WORDS[kind].finditer(text)], dtype=np.int64).reshape(-1, 2)


def join_words(where: str, title: str, column: pa.ChunkedArray) -> list[str | None]:
    """Return lists of words as texts: the words with a space between them.

    Raises:
        DataError: For a word that is no text, is empty or holds white space.
    """
    texts: list[str | None] = []
    for row, words in enumerate(column.to_pylist()):
        for word in words or ():
            if not isinstance(word, str) or len(word.split()) != 1 or word.strip() != word:
                raise DataError(
                    f"{where}, row {row}: {word!r} in column {title!r} is not a word; words are texts without white "
                    "space, and not empty"
                )
        texts.append(None if words is None else " ".join(words))
    return texts


def read_tags(where: str, label: str, column: pa.ChunkedArray, texts: Sequence[str], number: Numbered) -> Ragged:
    """Return the tags of N texts: int64 class ids, -1 for a word without a tag.

    Args:
        where: What error messages begin with.
        label: Name of the column.
        column: Lists of tags, or texts with white space between them; ``None`` for a row without any.
        texts: N texts.
        number: Turns pairs of row and tag into triples of row, tag and class id.

    Raises:
        DataError: Unless each word has one tag.
    """
    rows = []
    for row, (tags, text) in enumerate(zip(column.to_pylist(), texts, strict=True)):
        count = len(text.split())
        tags = [None] * count if tags is None else tags.split() if isinstance(tags, str) else tags
        if not isinstance(tags, list):
            raise DataError(f"{where}: column {label!r} holds {column.type}; tags are lists, or texts with white space")
        if len(tags) != count:
            raise DataError(
                f"{where}, row {row}: {len(tags)} tags in column {label!r}, but {count} words; give each one"
            )
        rows.append(tags)
    flat = [tag for tags in rows for tag in tags]
    values = np.full(len(flat), NO_TAG, dtype=np.int64)
    places = [place for place, tag in enumerate(flat) if tag not in (None, NO_TAG, -100)]  # -100: as for torch's losses
    row_of = np.repeat(np.arange(len(rows)), [len(tags) for tags in rows])
    for place, (_, _, class_id) in zip(places, number((int(row_of[p]), flat[p]) for p in places), strict=True):
        values[place] = class_id
    return Ragged.from_counts(values, [len(tags) for tags in rows])


def read_answers(where: str, label: str, column: pa.ChunkedArray, contexts: Sequence[str]) -> Ragged:
    """Return where the answers of N rows stand in their contexts: ``[G, 2]`` characters; none for a missing answer.

    Args:
        where: What error messages begin with.
        label: Name of the column.
        column: SQuAD's ``{"text": [...], "answer_start": [...]}``, or a text, or a list of texts, which are looked for.
        contexts: N texts.

    Raises:
        DataError: For an answer that is not in its context, or an empty list: a question that has no answer.
    """
    rows: list[list[tuple[int, int]]] = []
    for row, (value, context) in enumerate(zip(column.to_pylist(), contexts, strict=True)):
        if value is None:
            rows.append([])
            continue
        texts = value["text"] if isinstance(value, dict) and "text" in value else value
        starts = value.get("answer_start") if isinstance(value, dict) else None
        texts, starts = [texts] if isinstance(texts, str) else texts, [starts] if isinstance(starts, int) else starts
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(
                f"{where}, row {row}: {value!r} in column {label!r} is no answer; give text from the context"
            )
        if not texts:
            raise DataError(f"{where}, row {row}: the question has no answer; questions without one are not supported")
        spans = []
        for number, text in enumerate(texts):
            start = starts[number] if starts and starts[number] is not None else context.find(text)
            if start < 0 or context[start : start + len(text)] != text:
                raise DataError(f"{where}, row {row}: answer {text!r} does not stand in the context; mend the file")
            spans.append((start, start + len(text)))
        rows.append(spans)
    return Ragged.from_rows(rows, np.int64, (2,))


def blank_labels(kind: str, texts: tuple[Sequence[str], ...]) -> Ragged:
    """Return the labels of rows that have none: no tag for any word, or no answer."""
    if kind == "tagging":
        counts = [len(text.split()) for text in texts[0]]
        return Ragged.from_counts(np.full(sum(counts), NO_TAG, dtype=np.int64), counts)
    return Ragged.from_rows([[]] * len(texts[0]), np.int64, (2,))


def answer_words(spans: NDArray[np.int64], words: NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and last word that the first of some answers touches; two zeros where there is none.

    >>> answer_words(np.array([[7, 9]]), words_of("in the Paris", "span"))
    (2, 2)
    """
    if not len(spans):
        return 0, 0
    start, end = spans[0]
    first = int(np.searchsorted(words[:, 1], start, side="right"))
    return first, max(first, int(np.searchsorted(words[:, 0], end, side="left")) - 1)
