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
from numpy.typing import NDArray

from bam_lightning.config.exceptions import StoreError
from bam_lightning.data.examples import TaskSplit
from bam_lightning.store.atomic_io import atomic_write

CHUNK_ROWS = 10_000
FORMAT = 3  # of the cached files; one of another format is not found
DIGEST_BYTES = hashlib.sha256().digest_size


class Tokens(NamedTuple):
    """``ids``: int32 ``[M]``; row i has ``ids[offsets[i]:offsets[i + 1]]``; ``types``: segment ids ``[M]`` or none."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    types: NDArray[np.uint8] | None

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each row, special tokens included: ``[N]``."""
        return np.diff(self.offsets)


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


def encode(rows: TaskSplit, tokenizer: Any, max_length: int, cache: Path) -> Tokens:
    """Return the rows' tokens, from the cache where it has them.

    Pairs are cut from the longer side, single texts at the end, to ``max_length`` tokens with the special ones.
    """
    text = f"{FORMAT} {b''.join(rows.keys).hex()} {tokenizer_fingerprint(tokenizer)} {max_length}"
    path = cache / f"tokens-{hashlib.sha256(text.encode()).hexdigest()[:20]}.arrow"
    if not path.exists():
        _write(path, _table(rows.texts, tokenizer, max_length))
    return _read(path)


def tokenise(texts: tuple[Sequence[str], ...], tokenizer: Any, max_length: int) -> Tokens:
    """Return the tokens of one or two columns of N texts, cut as ``encode`` does; nothing is kept."""
    return _tokens(_table(texts, tokenizer, max_length))


def join(parts: Sequence[Tokens]) -> Tokens:
    """Return the rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([[0], *(part.lengths for part in parts)])
    types = [part.types for part in parts if part.types is not None]
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.cumsum(lengths, dtype=np.int32),
        np.concatenate(types) if types else None,
    )


def _table(texts: tuple[Sequence[str], ...], tokenizer: Any, max_length: int) -> pa.Table:
    wants_types = "token_type_ids" in tokenizer.model_input_names
    parts = []
    for first in range(0, len(texts[0]), CHUNK_ROWS):
        columns = [list(column[first : first + CHUNK_ROWS]) for column in texts]
        ids, types = _encoded(columns, tokenizer, max_length)
        part = {"ids": pa.array(ids, pa.list_(pa.int32()))}
        if wants_types:
            part["types"] = pa.array(types, pa.list_(pa.uint8()))
        parts.append(pa.table(part))
    return pa.concat_tables(parts).combine_chunks()


def _encoded(columns: list[list[str]], tokenizer: Any, max_length: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids and segment ids of each row.

    A fast tokenizer is asked for one row, which leaves its backend set to the length, and the backend for all: what
    transformers does with each row after that takes as long as the backend.
    """
    words = {"truncation": True, "max_length": max_length, "return_token_type_ids": True}
    if not tokenizer.is_fast:
        encoded = tokenizer(*columns, return_attention_mask=False, **words)
        return encoded["input_ids"], encoded["token_type_ids"]
    tokenizer(*(column[:1] for column in columns), **words)
    rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    found = tokenizer.backend_tokenizer.encode_batch_fast(rows)
    return [one.ids for one in found], [one.type_ids for one in found]


def _write(path: Path, table: pa.Table) -> None:
    """Write an Arrow file, and after it the hash of its bytes."""
    with atomic_write(path) as beside:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        digest = hashlib.sha256(pa.memory_map(str(beside)).read_buffer()).digest()
        with beside.open("ab") as sink:
            sink.write(digest)


def _read(path: Path) -> Tokens:
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
    return _tokens(pa.ipc.open_file(pa.BufferReader(content)).read_all())


def _tokens(table: pa.Table) -> Tokens:
    ids = table.column("ids").chunk(0)
    types = table.column("types").chunk(0).values.to_numpy() if "types" in table.column_names else None
    return Tokens(ids.values.to_numpy(), ids.offsets.to_numpy(), types)
