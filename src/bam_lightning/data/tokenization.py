"""Texts as token ids, encoded once and kept in memory-mapped Arrow files under a fingerprint.

The fingerprint covers the texts, the tokenizer and the length, so a change of any of them is encoded anew.
N rows, M tokens in all of them together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bam_lightning.config.data_config import TRUNCATIONS
from bam_lightning.config.exceptions import ConfigError, StoreError
from bam_lightning.config.validation import check_choice
from bam_lightning.data.examples import TaskSplit
from bam_lightning.store.atomic_io import atomic_write
from bam_lightning.store.ragged import Ragged

CHUNK_ROWS = 10_000
FORMAT = 5  # of the cached files; one of another format is not found
LONG_TEXT = 32  # characters per token of max_length, from which on a text is cut before it is tokenized
LONGEST_FIRST = TRUNCATIONS[0]
DIGEST_BYTES = hashlib.sha256().digest_size


class Tokens(NamedTuple):
    """The tokens of N rows, of one text each unless ``rows`` says otherwise. S texts.

    Attributes:
        ids: int32 ``[M]``; text i has ``ids[offsets[i]:offsets[i + 1]]``.
        offsets: int32 ``[S + 1]``.
        types: Segment ids ``[M]``, or ``None`` if the model takes none.
        n_truncated: Number of rows that were longer than ``max_length`` and lost tokens.
        rows: int32 ``[N + 1]``; row i has the texts ``rows[i]`` to ``rows[i + 1]``; ``None`` where each has one.
        words: Of each word the place of its first token, counted from the row's first; -1 for a word that was cut.
            ``None`` where words do not count.
        second: int32 ``[S]`` where the second text begins among the tokens of a pair, 0 if it is not known; ``None``
            of single texts.
        window_pooling: ``mean`` or ``max`` of the vectors of a row's texts, which are windows of a long one.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    types: NDArray[np.uint8] | None
    n_truncated: int = 0
    rows: NDArray[np.int32] | None = None
    words: Ragged | None = None
    second: NDArray[np.int32] | None = None
    window_pooling: str | None = None

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each row, special tokens included: ``[N]``."""
        return np.diff(self.offsets if self.rows is None else self.offsets[self.rows])


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a hash of everything the tokenizer does to a text."""
    if tokenizer.is_fast:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        # these two are what the last call asked for, not what the tokenizer is
        inner = json.dumps({name: part for name, part in parts.items() if name not in ("truncation", "padding")})
    else:
        inner = repr(sorted(tokenizer.get_vocab().items()))
    text = f"{type(tokenizer).__name__} {tokenizer.model_input_names} {inner}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def encode(rows: TaskSplit, tokenizer: Any, max_length: int, cache: Path, truncation: str = "longest_first") -> Tokens:
    """Return the rows' tokens, from the cache where it has them.

    Args:
        rows: N rows of one or more texts.
        tokenizer: A tokenizer of transformers.
        max_length: Most tokens of a row, special tokens included.
        cache: Folder of the cached tokens.
        truncation: ``longest_first`` cuts pairs from the longer text and single texts at the end; ``head_tail`` keeps
            the beginning and the end of a text that is too long (Sun et al. 2019, section 5.3.1).
    """
    text = f"{FORMAT} {b''.join(rows.keys).hex()} {tokenizer_fingerprint(tokenizer)} {max_length} {truncation}"
    path = cache / f"tokens-{hashlib.sha256(text.encode()).hexdigest()[:20]}.arrow"
    if not path.exists():
        write_table(path, make_table(rows.texts, tokenizer, max_length, truncation))
    return tokens_of_table(read_table(path))


def tokenize(
    texts: tuple[Sequence[str], ...], tokenizer: Any, max_length: int, truncation: str = "longest_first"
) -> Tokens:
    """Return the tokens of one or more columns of N texts, cut as ``encode`` does, without a cache."""
    return tokens_of_table(make_table(texts, tokenizer, max_length, truncation))


def join(parts: Sequence[Tokens]) -> Tokens:
    """Return the rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])
    types = [part.types for part in parts if part.types is not None]
    rows = [np.diff(part.rows) for part in parts if part.rows is not None]
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.cumsum(lengths, dtype=np.int32),
        np.concatenate(types) if types else None,
        sum(part.n_truncated for part in parts),
        np.concatenate([[0], np.cumsum(np.concatenate(rows))]).astype(np.int32) if rows else None,
        window_pooling=parts[0].window_pooling,
    )


def make_table(texts: tuple[Sequence[str], ...], tokenizer: Any, max_length: int, truncation: str) -> pa.Table:
    """Return a table of the token ids and segment ids of each row, and whether it was cut."""
    check_choice("data.truncation", truncation, TRUNCATIONS)
    wants_types = "token_type_ids" in tokenizer.model_input_names
    parts = []
    for first in range(0, len(texts[0]), CHUNK_ROWS):
        columns = [list(column[first : first + CHUNK_ROWS]) for column in texts]
        ids, types, cut, second = _encoded(columns, tokenizer, max_length)
        if truncation == "head_tail" and any(cut):
            rows = [row for row, was_cut in enumerate(cut) if was_cut]
            pairs = [_keep_head_and_tail([column[row] for column in columns], tokenizer, max_length) for row in rows]
            new = _encoded([list(column) for column in zip(*pairs, strict=True)], tokenizer, max_length)
            for place, row in enumerate(rows):
                ids[row], types[row] = new[0][place], new[1][place]
                if second:
                    second[row] = new[3][place]
        part = {"ids": pa.array(ids, pa.list_(pa.int32())), "cut": pa.array(cut, pa.bool_())}
        if wants_types:
            part["types"] = pa.array(types, pa.list_(pa.uint8()))
        if second:
            part["second"] = pa.array(second, pa.int32())
        parts.append(pa.table(part))
    return pa.concat_tables(parts).combine_chunks()


EncodedTexts = tuple[list[list[int]], list[list[int]], list[bool], list[int]]


def _encoded(columns: list[list[str]], tokenizer: Any, max_length: int) -> EncodedTexts:
    """Return the token ids and segment ids of each row, whether it was cut, and of pairs where the second text begins.

    More than two texts are joined by the special tokens that stand between the two of a pair, and cut longest first.

    A fast tokenizer is called for a short row, which sets its backend to the length, and the backend for all rows:
    what transformers does with each row after that takes as long as the backend.
    """
    if len(columns) > 2:
        return _joined(columns, tokenizer, max_length)
    options = {"truncation": True, "max_length": max_length, "return_token_type_ids": True}
    if not tokenizer.is_fast:
        encoded = tokenizer(*columns, return_attention_mask=False, **options)
        ids, types = encoded["input_ids"], encoded["token_type_ids"]
        full = [row for row, tokens in enumerate(ids) if len(tokens) >= max_length]
        longer = {row for row in full if len(tokenizer(*(column[row] for column in columns))["input_ids"]) > max_length}
        second = [row.index(1) if 1 in row else 0 for row in types] if len(columns) == 2 else []
        return ids, types, [row in longer for row in range(len(ids))], second
    tokenizer(*(["a"] for _ in columns), **options)
    backend = tokenizer.backend_tokenizer
    shorter, was_cut = [], [False] * len(columns[0])
    for column in columns:
        texts = shorten(column, backend, max_length)
        was_cut = [cut or new is not old for cut, new, old in zip(was_cut, texts, column, strict=True)]
        shorter.append(texts)
    rows = shorter[0] if len(shorter) == 1 else list(zip(*shorter, strict=True))
    found = backend.encode_batch_fast(rows)
    cut = [old or bool(len(row) == max_length and row.overflowing) for old, row in zip(was_cut, found, strict=True)]
    second = [_second_text(row) for row in found] if len(columns) == 2 else []
    return [row.ids for row in found], [row.type_ids for row in found], cut, second


def _second_text(row: Any) -> int:
    """Return where the second text begins among a row's tokens, 0 if it has none left."""
    segments = row.sequence_ids
    return segments.index(1) if 1 in segments else 0


def _joined(columns: list[list[str]], tokenizer: Any, max_length: int) -> EncodedTexts:
    """Return what ``_encoded`` does, of three texts or more: ``tokenizer(a, b, c)`` leaves out c without a word."""
    pair = tokenizer("a", "a", return_token_type_ids=True, return_special_tokens_mask=True)
    special, types = pair["special_tokens_mask"], pair["token_type_ids"]
    first, last = special.index(0), len(special) - special[::-1].index(0) - 1
    second = next(place for place in range(first + 1, last + 1) if not special[place] and special[place - 1])
    middle = slice(next(place for place in range(first, second) if special[place]), second)
    before, between, after = pair["input_ids"][:first], pair["input_ids"][middle], pair["input_ids"][last + 1 :]
    budget = max_length - len(before) - len(after) - (len(columns) - 1) * len(between)
    if budget < len(columns):
        raise ConfigError(f"max_length {max_length} leaves no token for each of {len(columns)} texts; raise it")
    backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    cut, pieces = [False] * len(columns[0]), []
    for column in columns:
        texts = shorten(column, backend, max_length) if backend else column
        cut = [was or new is not old for was, new, old in zip(cut, texts, column, strict=True)]
        pieces.append(tokenizer(texts, add_special_tokens=False, truncation=True, max_length=max_length)["input_ids"])
    ids, segments = [], []
    for row, parts in enumerate(zip(*pieces, strict=True)):
        shares = _shares([len(part) for part in parts], budget)
        cut[row] = cut[row] or any(share < len(part) for share, part in zip(shares, parts, strict=True))
        tokens, kinds = [*before, *parts[0][: shares[0]]], [types[0]] * (len(before) + shares[0])
        kind = types[middle]
        for part, share in zip(parts[1:], shares[1:], strict=True):
            tokens += [*between, *part[:share]]
            kinds += [*kind, *[types[second]] * share]
            kind = [types[second]] * len(between)
        ids.append([*tokens, *after])
        segments.append([*kinds, *types[last + 1 :]])
    return ids, segments, cut, []


def _shares(lengths: list[int], budget: int) -> list[int]:
    """Return how many tokens each of several texts keeps if the longest one is cut first, the last of equals.

    >>> _shares([9, 2, 7], 12), _shares([5, 5, 5], 10), _shares([1, 2, 3], 12)
    ([5, 2, 5], [4, 3, 3], [1, 2, 3])
    """
    if sum(lengths) <= budget:
        return list(lengths)
    left, shares = budget, [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], -place))
    for number, place in enumerate(order):
        shares[place] = min(lengths[place], left // (len(order) - number))
        left -= shares[place]
    return shares


def shorten(texts: list[str], backend: Any, max_length: int) -> list[str]:
    """Return the texts without what lies far behind their first ``max_length`` tokens.

    The backend keeps all pieces of a text that it cuts, and of a pair every combination: two texts of 40,000
    characters take seconds and gigabytes. A text is only shortened if what is left has ``max_length`` tokens or more,
    so that the row's tokens stay the same.
    """
    limit, result = LONG_TEXT * max_length, list(texts)
    waiting = [place for place, text in enumerate(texts) if len(text) > limit]
    while waiting:
        heads = [_head(texts[place], limit) for place in waiting]
        lengths = [len(row) for row in backend.encode_batch_fast(heads, add_special_tokens=False)]
        left = []
        for place, head, length in zip(waiting, heads, lengths, strict=True):
            if length >= max_length:
                result[place] = head
            elif len(texts[place]) > 2 * limit:
                left.append(place)
        waiting, limit = left, 2 * limit
    return result


def _head(text: str, limit: int) -> str:
    """Return the first ``limit`` characters of a text or fewer, up to the end of a word if there is one."""
    end = text.rfind(" ", limit // 2, limit)
    return text[: limit if end < 0 else end]


def _keep_head_and_tail(texts: list[str], tokenizer: Any, max_length: int) -> list[str]:
    """Return the texts of a row that is too long without their middles, so that about ``max_length`` tokens remain."""
    if len(texts) > 2:
        raise ConfigError(f"truncation=head_tail is for one or two texts, got {len(texts)}; use longest_first")
    if not tokenizer.is_fast:
        raise ConfigError("data.truncation=head_tail needs a fast tokenizer; use longest_first")
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    spans = [tokenizer(text, **options)["offset_mapping"] for text in texts]
    budget = max_length - tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    shares = _longest_first([len(one) for one in spans], budget)
    result = []
    for text, offsets, share in zip(texts, spans, shares, strict=True):
        if share >= len(offsets):
            result.append(text)
            continue
        head, tail = share - share // 2, share // 2
        end = offsets[head - 1][1] if head else 0
        start = offsets[len(offsets) - tail][0] if tail else len(text)
        result.append(f"{text[:end]} {text[start:]}")
    return result


def _longest_first(lengths: list[int], budget: int) -> list[int]:
    """Return how many tokens each text of a row keeps if the longer one is cut first.

    >>> _longest_first([7, 2], 5), _longest_first([9, 9], 5), _longest_first([3], 5)
    ([3, 2], [3, 2], [3])
    """
    if len(lengths) == 1:
        return [min(lengths[0], budget)]
    first, second = lengths
    if first + second <= budget:
        return lengths
    if second <= budget // 2:
        return [budget - second, second]
    if first <= budget - budget // 2:
        return [first, budget - first]
    return [budget - budget // 2, budget // 2]


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow file, and after it the hash of its bytes."""
    with atomic_write(path) as beside:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        digest = hashlib.sha256(pa.memory_map(str(beside)).read_buffer()).digest()
        with beside.open("ab") as sink:
            sink.write(digest)


def read_table(path: Path) -> pa.Table:
    """Map the file into memory, once its bytes are known to be those that were written: pyarrow trusts a file so far
    that a damaged one can end the process."""
    try:
        whole = pa.memory_map(str(path)).read_buffer()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read ({error}); delete it, and it is written anew") from error
    size = max(0, whole.size - DIGEST_BYTES)
    content, digest = whole.slice(0, size), whole.slice(size).to_pybytes()
    if hashlib.sha256(content).digest() != digest:
        raise StoreError(f"{path} is damaged: its bytes have changed; delete it, and it is written anew")
    return pa.ipc.open_file(pa.BufferReader(content)).read_all()


def tokens_of_table(table: pa.Table) -> Tokens:
    """Return the tokens of a table that ``make_table`` made."""
    ids = table.column("ids").chunk(0)
    types = table.column("types").chunk(0).values.to_numpy() if "types" in table.column_names else None
    n_truncated = int(pc.sum(table.column("cut")).as_py() or 0)
    second = table.column("second").to_numpy() if "second" in table.column_names else None
    return Tokens(ids.values.to_numpy(), ids.offsets.to_numpy(), types, n_truncated, second=second)
