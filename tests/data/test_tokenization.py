"""Texts as token ids: what the tokenizer says of each row, kept in a file that is read the second time."""

from __future__ import annotations

import hashlib
import itertools
import time

import numpy as np
import pytest

from bam_lightning.data import tokenization
from bam_lightning.data.examples import TaskSplit
from bam_lightning.data.tokenization import encode, join, tokenize, tokenizer_fingerprint
from bam_lightning.models.encoder import load_tokenizer
from bam_lightning.training.masked_lm import make_tokenizer
from conftest import sentences


@pytest.fixture
def tokenizer(tiny_bert):
    """A tokenizer that no test before has called."""
    return load_tokenizer(tiny_bert)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def rows_of(*columns: list[str]) -> TaskSplit:
    keys = [hashlib.md5(repr(row).encode()).digest() for row in zip(*columns, strict=True)]
    return TaskSplit(columns, np.zeros(len(keys), dtype=np.int64), keys)


SINGLES = rows_of(sentences(25, 1))
PAIRS = rows_of(sentences(25, 2), sentences(25, 3))


def row(encoded, number: int) -> tuple[list[int], list[int]]:
    """Return ids and segment ids of one row."""
    span = slice(encoded.offsets[number], encoded.offsets[number + 1])
    return encoded.ids[span].tolist(), encoded.types[span].tolist()


@pytest.mark.parametrize("rows", [SINGLES, PAIRS], ids=["singles", "pairs"])
@pytest.mark.parametrize("max_length", [8, 64])
@pytest.mark.parametrize("chunk", [7, 10_000])
def test_encode_equals_the_tokenizer_called_on_each_row(tiny_bert, cache, monkeypatch, rows, max_length, chunk):
    monkeypatch.setattr(tokenization, "CHUNK_ROWS", chunk)
    encoded = encode(rows, load_tokenizer(tiny_bert), max_length, cache)
    alone = load_tokenizer(tiny_bert)
    assert len(encoded.lengths) == 25
    for number, texts in enumerate(zip(*rows.texts, strict=True)):
        expected = alone(*texts, truncation=True, max_length=max_length)
        assert row(encoded, number) == (expected["input_ids"], expected["token_type_ids"])
        assert encoded.lengths[number] == len(expected["input_ids"]) <= max_length


def words(tokenizer, ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def test_a_single_text_is_cut_at_its_end(tokenizer, cache):
    encoded = encode(rows_of(["the cat sleeps on a good man in it"]), tokenizer, 8, cache)
    ids, types = row(encoded, 0)
    assert words(tokenizer, ids) == "[CLS] the cat sleeps on a good [SEP]"
    assert types == [0] * 8


def test_a_pair_is_cut_from_its_longer_side_and_the_second_text_is_segment_1(tokenizer, cache):
    encoded = encode(rows_of(["the cat sleeps on a good man"], ["it eats"]), tokenizer, 8, cache)
    ids, types = row(encoded, 0)
    assert words(tokenizer, ids) == "[CLS] the cat sleeps [SEP] it eats [SEP]"
    assert types == [0, 0, 0, 0, 0, 1, 1, 1]


def test_an_encoder_without_segments_gets_none(tokenizer, cache):
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert encode(PAIRS, tokenizer, 64, cache).types is None


def test_second_call_reads_the_file(tiny_bert, cache, monkeypatch):
    first = encode(PAIRS, load_tokenizer(tiny_bert), 64, cache)
    (path,) = cache.iterdir()
    written = path.stat().st_mtime_ns
    monkeypatch.setattr(tokenization, "make_table", None)  # cannot be called
    second = encode(PAIRS, load_tokenizer(tiny_bert), 64, cache)
    for one, two in zip(first[:3], second[:3], strict=True):
        np.testing.assert_array_equal(one, two)
    assert [(path, path.stat().st_mtime_ns) for path in cache.iterdir()] == [(path, written)]


def test_a_tokenizer_that_has_been_used_finds_the_file_again(tokenizer, cache):
    encode(PAIRS, tokenizer, 64, cache)
    encode(SINGLES, tokenizer, 8, cache)
    encode(PAIRS, tokenizer, 64, cache)
    assert len(list(cache.iterdir())) == 2


def test_a_use_of_the_tokenizer_does_not_change_its_fingerprint(tokenizer):
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["the cat", "a"], truncation=True, max_length=16, padding=True)
    assert tokenizer_fingerprint(tokenizer) == before


def test_text_tokenizer_and_length_each_have_a_file_of_their_own(tiny_bert, cache):
    encode(SINGLES, load_tokenizer(tiny_bert), 64, cache)
    encode(SINGLES, load_tokenizer(tiny_bert), 32, cache)
    encode(rows_of([*SINGLES.texts[0][:-1], "something else"]), load_tokenizer(tiny_bert), 64, cache)
    encode(SINGLES, make_tokenizer(["the cat sleeps"], 200), 64, cache)
    assert len({path.name for path in cache.glob("tokens-*.arrow")}) == 4
    assert len(list(cache.iterdir())) == 4  # and nothing half-written beside them


def test_tokenizers_of_different_words_differ_and_equal_ones_agree():
    one, two = make_tokenizer(["the cat sleeps"], 200), make_tokenizer(["the cat sleeps"], 200)
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(two)
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(make_tokenizer(["the cat slept"], 200))


@pytest.mark.parametrize("left", [0, 20, 0.5, -1])
def test_a_truncated_file_is_refused_and_named(tokenizer, cache, left):
    encode(PAIRS, tokenizer, 64, cache)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    with pytest.raises(ValueError) as caught:
        tokenization.read_table(path)
    assert str(caught.value) == f"{path} is damaged: its bytes have changed; delete it, and it is written anew"


def test_every_flipped_byte_of_a_cached_file_is_refused(tokenizer, cache):
    encode(PAIRS, tokenizer, 64, cache)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged: its bytes have changed"):
            tokenization.read_table(path)


def test_tokens_are_mapped_from_the_file_and_not_copied(tokenizer, cache):
    encoded = encode(PAIRS, tokenizer, 64, cache)
    assert [array.dtype for array in encoded[:3]] == [np.int32, np.int32, np.uint8]
    assert [array.flags.owndata or array.flags.writeable for array in encoded[:3]] == [False] * 3
    assert encoded.ids[0] == tokenizer.cls_token_id
    (path,) = cache.iterdir()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))  # what is mapped changes with its file
    assert not encoded.ids.any()


def test_joined_tokens_have_the_rows_of_their_parts_in_order(tokenizer):
    parts = [tokenize((["the cat sleeps", "it"],), tokenizer, 64), tokenize((["a dog"], ["it eats"]), tokenizer, 64)]
    whole = join(parts)
    rows = [whole.ids[start:end] for start, end in itertools.pairwise(whole.offsets)]
    assert [words(tokenizer, row) for row in rows] == [
        "[CLS] the cat sleeps [SEP]",
        "[CLS] it [SEP]",
        "[CLS] a dog [SEP] it eats [SEP]",
    ]
    assert whole.types.tolist() == [0] * 8 + [0] * 4 + [1] * 3
    assert (whole.ids.dtype, whole.offsets.dtype, whole.types.dtype) == (np.int32, np.int32, np.uint8)


def test_rows_that_lose_tokens_are_counted_also_from_the_cache(tokenizer, cache):
    rows = rows_of(["the cat", "the cat sleeps on a good", "the cat sleeps on a good man", "the cat sleeps " * 99])
    assert encode(rows, tokenizer, 8, cache).n_truncated == 2
    assert encode(rows, tokenizer, 8, cache).n_truncated == 2
    assert encode(rows, tokenizer, 512, cache).n_truncated == 0
    assert join([encode(rows, tokenizer, 8, cache)] * 2).n_truncated == 4


WORDS = "the cat sleeps on a good man in it eats dog runs was not bad"


def long_text(seed: int, words: int, between: str = " ") -> str:
    return between.join(np.random.default_rng(seed).choice(WORDS.split(), words))


@pytest.mark.parametrize(("first", "second"), [(1000, 1000), (2000, 3), (3, 2000), (1000, 40), (60, 1000)])
@pytest.mark.parametrize("between", [" ", "\n", " " * 200, ""])
def test_long_texts_have_the_tokens_they_would_have_whole(tiny_bert, first, second, between):
    texts = ([long_text(1, first, between)], [long_text(2, second, between)])
    found = tokenize(texts, load_tokenizer(tiny_bert), 64)
    whole = load_tokenizer(tiny_bert)(*(column[0] for column in texts), truncation=True, max_length=64)
    assert row(found, 0) == (whole["input_ids"], whole["token_type_ids"])
    alone = load_tokenizer(tiny_bert)(*(column[0] for column in texts))
    assert found.n_truncated == (len(alone["input_ids"]) > 64)


def test_two_texts_of_forty_thousand_characters_are_tokenized_at_once(tiny_bert):
    """The backend keeps every combination of the pieces it cuts off: 15 s and 3 GB if it sees the whole texts."""
    texts = ([long_text(1, 10_000)], [long_text(2, 10_000)])
    assert min(len(column[0]) for column in texts) > 35_000
    start = time.process_time()
    assert tokenize(texts, load_tokenizer(tiny_bert), 64).lengths.tolist() == [64]
    assert time.process_time() - start < 2


def test_head_and_tail_are_kept_where_that_is_asked_for(tokenizer):
    texts = (["the cat sleeps on a good man in it", "the cat"],)
    found = tokenize(texts, tokenizer, 8, "head_tail")
    assert words(tokenizer, row(found, 0)[0]) == "[CLS] the cat sleeps man in it [SEP]"
    assert words(tokenizer, row(found, 1)[0]) == "[CLS] the cat [SEP]"
    assert found.n_truncated == 1
    pair = tokenize((["the cat sleeps on a good man"], ["it eats"]), tokenizer, 9, "head_tail")
    assert words(tokenizer, row(pair, 0)[0]) == "[CLS] the cat good man [SEP] it eats [SEP]"


def test_rows_that_differ_in_their_last_word_differ_with_head_tail_alone(tokenizer):
    texts = ([f"{'the cat sleeps ' * 100}{last}" for last in ("good", "bad")],)
    for truncation, same in (("longest_first", True), ("head_tail", False)):
        found = tokenize(texts, tokenizer, 64, truncation)
        assert (row(found, 0) == row(found, 1)) is same
        assert found.lengths.tolist() == [64, 64]


def test_an_unknown_truncation_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"^data.truncation names 'tail'; choices: longest_first, head_tail"):
        tokenize((["a"],), tokenizer, 8, "tail")
