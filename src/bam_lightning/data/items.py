"""Rows of several items as tokens: words to tag, the choices of a question, windows of a long text or context.

Words are those of the raw text, never tokens, so that the columns of a teacher with another tokenizer fit. N rows, S
texts of them, W words in all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.data.collate import Examples
from bam_lightning.data.examples import TaskSplit
from bam_lightning.data.task import Layout
from bam_lightning.data.tokenization import (
    CHUNK_ROWS,
    FORMAT,
    LONGEST_FIRST,
    Tokens,
    encode,
    make_table,
    read_table,
    shorten,
    tokenize,
    tokenizer_fingerprint,
    tokens_of_table,
    write_table,
)
from bam_lightning.data.word_labels import answer_words, words_of
from bam_lightning.metrics.words import Answers
from bam_lightning.store.ragged import Ragged

ITEM_KINDS = ("choice", "tagging", "span")
QUESTION_SHARE, STRIDE_SHARE = 3, 4  # of max_length: the most tokens of a question, and the overlap of two windows


def answers_of(split: TaskSplit) -> list[Answers]:
    """Return what the answers to each question of a split are compared with."""
    contexts, labels = split.texts[1], split.labels
    return [
        Answers(text, words_of(text, "span"), tuple(text[start:end] for start, end in labels.row(row).tolist()))
        for row, text in enumerate(contexts)
    ]


def answer_spans(split: TaskSplit) -> NDArray[np.int64]:
    """Return the first and last word ``[N, 2]`` of the first right answer to each question."""
    spans = [answer_words(split.labels.row(row), words_of(text, "span")) for row, text in enumerate(split.texts[1])]
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def word_counts(split: TaskSplit) -> NDArray[np.int64] | None:
    """Return the words of each row ``[N]``; ``None`` where words do not count."""
    kind = split.layout.kind
    if kind not in ("tagging", "span"):
        return None
    return np.array([len(words_of(text, kind)) for text in split.texts[-1]], dtype=np.int64)


def in_row_order(rows: NDArray[np.int64], logits: NDArray[np.float32], words: Ragged | None) -> Any:
    """Return logits ``[N, K]``, or ``Ragged`` ones of the words of N rows, in the order of the rows.

    Args:
        rows: ``[N]`` their numbers, in the order of the logits.
        logits: ``[N, K]``, or ``[M, K]``.
        words: of the rows, if the logits are those of words.
    """
    order = np.argsort(rows, kind="stable")
    return logits[order] if words is None else Ragged.from_counts(logits, words.counts[rows])[order]


def make_examples(split: TaskSplit, tokens: Tokens, scored: bool = False) -> Examples:
    """Return the rows of a split as examples; ``scored`` ones carry what their answers are compared with."""
    if split.layout.kind != "span":
        return Examples(
            tokens, split.labels, has_gold=split.has_gold, weight=split.weight, gold=None if scored else split.gold
        )
    references = answers_of(split) if scored else None
    return Examples(tokens, answer_spans(split), has_gold=split.has_gold, weight=split.weight, references=references)


def encode_rows(
    rows: TaskSplit, tokenizer: Any, max_length: int, cache: Path, truncation: str = "longest_first"
) -> Tokens:
    """Return the tokens of rows, from the cache where it has them; see ``tokenization.encode``."""
    layout, pooling = rows.layout, _window_pooling(rows.layout, truncation)
    if layout.kind not in ITEM_KINDS and pooling is None:
        return encode(rows, tokenizer, max_length, cache, truncation)
    asked = f"{FORMAT} {layout} {tokenizer_fingerprint(tokenizer)} {max_length} {truncation} ".encode()
    stem = hashlib.sha256(asked + b"".join(rows.keys)).hexdigest()[:20]
    paths = cache / f"tokens-{stem}.arrow", cache / f"items-{stem}.arrow"
    if not all(path.exists() for path in paths):
        for path, table in zip(paths, _tables(layout, rows.texts, tokenizer, max_length, truncation), strict=True):
            write_table(path, table)
    return _with_items(*map(read_table, paths))._replace(window_pooling=pooling)


def _window_pooling(layout: Layout, truncation: str) -> str | None:
    """Return how the vectors of a text's windows become one; ``None`` where it has no windows."""
    windowed = truncation.startswith("windows_") and layout.kind not in ITEM_KINDS
    return truncation.removeprefix("windows_") if windowed else None


def tokenize_rows(
    layout: Layout, texts: tuple[Sequence[str], ...], tokenizer: Any, max_length: int, truncation: str = "longest_first"
) -> Tokens:
    """Return the tokens of rows, without a cache."""
    pooling = _window_pooling(layout, truncation)
    if layout.kind not in ITEM_KINDS and pooling is None:
        return tokenize(texts, tokenizer, max_length, truncation)
    return _with_items(*_tables(layout, texts, tokenizer, max_length, truncation))._replace(window_pooling=pooling)


def _with_items(tokens: pa.Table, items: pa.Table) -> Tokens:
    found = tokens_of_table(tokens)
    counts = items.column("texts").to_numpy()
    rows = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    cut = tokens.column("cut").to_numpy()
    found = found._replace(n_truncated=len(np.unique(np.repeat(np.arange(len(counts)), counts)[cut])))
    words = items.column("words").combine_chunks()
    if words.null_count:
        return found._replace(rows=rows)
    values = words.values.to_numpy()
    return found._replace(rows=rows, words=Ragged(values, words.offsets.to_numpy().astype(np.int64)))


def _tables(
    layout: Layout, texts: tuple[Sequence[str], ...], tokenizer: Any, max_length: int, truncation: str
) -> tuple[pa.Table, pa.Table]:
    """Return a table of S texts (tokens) and one of N rows: number of texts, and the token of each word."""
    if layout.kind == "choice":
        columns, counts = _pairs(texts, layout.n_texts)
        words = pa.nulls(len(counts), pa.list_(pa.int32()))
        items = pa.table({"texts": pa.array(counts, pa.int32()), "words": words})
        if truncation.startswith("windows_"):
            truncation = LONGEST_FIRST  # choices have no windows
        return make_table(columns, tokenizer, max_length, truncation), items
    if not tokenizer.is_fast:
        what = f"a {layout.kind} task" if layout.kind in ITEM_KINDS else f"data.truncation={truncation}"
        raise ConfigError(
            f"{what} needs a fast tokenizer, which says where its tokens lie in the text; "
            f"{type(tokenizer).__name__} is not one"
        )
    wants_types = "token_type_ids" in tokenizer.model_input_names
    make = {"tagging": _tagged, "span": _windows}.get(str(layout.kind), _documents)
    parts: list[tuple[pa.Table, pa.Table]] = []
    for first in range(0, len(texts[0]), CHUNK_ROWS):
        ids, types, cut, counts, words = make(
            [list(column[first : first + CHUNK_ROWS]) for column in texts], tokenizer, max_length
        )
        part = {"ids": pa.array(ids, pa.list_(pa.int32())), "cut": pa.array(cut, pa.bool_())}
        if wants_types:
            part["types"] = pa.array(types, pa.list_(pa.uint8()))
        items = pa.table({"texts": pa.array(counts, pa.int32()), "words": pa.array(words, pa.list_(pa.int32()))})
        parts.append((pa.table(part), items))
    tokens, rows = zip(*parts, strict=True)
    return pa.concat_tables(tokens).combine_chunks(), pa.concat_tables(rows).combine_chunks()


def _pairs(texts: tuple[Sequence[str], ...], n_texts: int) -> tuple[tuple[list[str], list[str]], list[int]]:
    """Return a pair of texts for each choice, the row's text and the choice, and the number of choices of each row.

    A second text of the row stands before the choice. A choice without text is none.
    """
    firsts, seconds, counts = [], [], []
    for row in zip(*texts, strict=True):
        stem = "".join(f"{text} " for text in row[1:n_texts])
        choices = [stem + choice for choice in row[n_texts:] if choice]
        firsts += [row[0]] * len(choices)
        seconds += choices
        counts.append(len(choices))
    return (firsts, seconds), counts


Encoded = tuple[list[Any], list[Any], list[bool], list[int], list[Any]]


def _tagged(columns: list[list[str]], tokenizer: Any, max_length: int) -> Encoded:
    tokenizer("a", truncation=True, max_length=max_length)  # sets the backend to the length
    backend = tokenizer.backend_tokenizer
    texts = shorten(columns[0], backend, max_length)
    ids, types, cut, words = [], [], [], []
    for whole, text, row in zip(columns[0], texts, backend.encode_batch(texts), strict=True):
        ids.append(row.ids)
        types.append(row.type_ids)
        cut.append(text is not whole or bool(row.overflowing))
        own = np.flatnonzero(~np.array(row.special_tokens_mask, dtype=bool))
        words.append(_first_tokens(words_of(whole, "tagging"), np.array(row.offsets).reshape(-1, 2)[own], own))
    return ids, types, cut, [1] * len(ids), words


def _first_tokens(words: NDArray[np.int64], spans: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of the first token of each word ``[w]``, -1 without one.

    Args:
        words: ``[w, 2]`` characters.
        spans: ``[t, 2]`` characters of the tokens.
        places: ``[t]`` of the tokens among all tokens.

    >>> _first_tokens(np.array([[0, 3], [4, 9], [10, 11]]), np.array([[0, 3], [3, 6], [6, 9]]), np.array([1, 2, 3]))
    array([ 1,  2, -1])
    """
    if not len(spans):
        return np.full(len(words), -1)
    first = np.searchsorted(spans[:, 1], words[:, 0], side="right")
    within = np.minimum(first, len(spans) - 1)
    return np.where((first < len(spans)) & (spans[within, 0] < words[:, 1]), places[within], -1)


def _overlapping(
    columns: list[list[str]], tokenizer: Any, max_length: int
) -> tuple[Any, NDArray[np.int64], list[bool]]:
    """Encode each row as windows that overlap by a quarter; return them, the row of each, and which rows lost tokens.

    A first text stands before each window of the second, shortened to a third of the length.
    """
    cut = [False] * len(columns[0])
    if len(columns) == 2:
        limit = max(1, max_length // QUESTION_SHARE)
        spans = tokenizer(columns[0], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        cut = [len(span) > limit for span in spans]
        firsts = [
            text[: span[limit - 1][1]] if long else text
            for text, span, long in zip(columns[0], spans, cut, strict=True)
        ]
        columns = [firsts, columns[1]]
    encoded = tokenizer(
        *columns,
        truncation="only_second" if len(columns) == 2 else True,
        max_length=max_length,
        stride=max_length // STRIDE_SHARE,
        return_overflowing_tokens=True,
        return_attention_mask=False,
    )
    return encoded, np.array(encoded["overflow_to_sample_mapping"], dtype=np.int64), cut


def _documents(columns: list[list[str]], tokenizer: Any, max_length: int) -> Encoded:
    """Encode a text, or the second of two beside the first, as windows; no word counts."""
    if len(columns) > 2:
        raise ConfigError(f"data.truncation=windows_... is for one or two texts, got {len(columns)}; use longest_first")
    encoded, owners, cut = _overlapping(columns, tokenizer, max_length)
    counts = np.bincount(owners, minlength=len(columns[0])).tolist()
    windows = encoded.encodings
    lost = [cut[row] for row in owners]
    ids, types = [window.ids for window in windows], [window.type_ids for window in windows]
    return ids, types, lost, counts, [None] * len(counts)


def _windows(columns: list[list[str]], tokenizer: Any, max_length: int) -> Encoded:
    """Encode a question with each window of its context; a word is read where it has most context on both sides."""
    contexts = columns[1]
    encoded, owners, _ = _overlapping(columns, tokenizer, max_length)
    ids, types, counts, words = [], [], [], []
    for number, context in enumerate(contexts):
        windows = [encoded.encodings[place] for place in np.flatnonzero(owners == number)]
        spans_of_words = words_of(context, "span")
        best, token, passed = np.full(len(spans_of_words), -1), np.full(len(spans_of_words), -1), 0
        for window in windows:
            ids.append(window.ids)
            types.append(window.type_ids)
            own = np.flatnonzero(np.array([text == 1 for text in window.sequence_ids]))
            first = _first_tokens(spans_of_words, np.array(window.offsets).reshape(-1, 2)[own], own)
            room = np.where(
                first < 0, -1, np.minimum(first - own.min(initial=len(window.ids)), own.max(initial=0) - first)
            )
            better = room > best
            best, token = np.where(better, room, best), np.where(better, first + passed, token)
            passed += len(window.ids)
        counts.append(len(windows))
        words.append(token)
    return ids, types, [False] * len(ids), counts, words
