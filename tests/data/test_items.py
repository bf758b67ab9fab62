"""Rows of several items as tokens: words find their first tokens, windows cover a context, choices become pairs."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from bam_lightning.config.exceptions import DataError
from bam_lightning.data.collate import Examples, collate, empty_batch
from bam_lightning.data.examples import load_examples
from bam_lightning.data.items import tokenize_rows
from bam_lightning.data.labels import read_labels
from bam_lightning.data.task import Layout, Task
from bam_lightning.data.tokenization import tokenize
from bam_lightning.data.word_labels import answer_words, read_answers, words_of
from conftest import WORDS

TAGGING, SPAN = Layout("tagging"), Layout("span", 2)


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return AutoTokenizer.from_pretrained(tiny_bert)


def texts(rows: int, longest: int, seed: int = 0) -> list[str]:
    """Return texts of words that the tokenizer knows, and of some that it cuts into pieces or signs."""
    rng, words = np.random.default_rng(seed), [*WORDS, "catdog", "it's", "man-eats", "runsgood"]
    return [" ".join(rng.choice(words, int(rng.integers(1, longest)))) for _ in range(rows)]


@pytest.mark.parametrize("max_length", [64, 12])
def test_words_are_read_at_the_first_piece_that_transformers_finds(tokenizer, max_length):
    rows = texts(50, 20)
    found = tokenize_rows(TAGGING, (rows,), tokenizer, max_length)
    assert found.ids.tolist() == tokenize((rows,), tokenizer, max_length).ids.tolist()
    for row, text in enumerate(rows):
        theirs = tokenizer(text.split(), is_split_into_words=True, truncation=True, max_length=max_length)
        numbers = theirs.word_ids()
        expected = [numbers.index(word) if word in numbers else -1 for word in range(len(text.split()))]
        assert found.words.row(row).tolist() == expected
    assert (found.words.values < 0).any() == (max_length == 12)


def test_a_sentence_of_byte_pairs_and_one_of_sentence_pieces_align_too():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    rows = texts(20, 8, seed=3)
    alphabet = sorted(set(" ".join(rows)) - {" "})
    for space, before in (("Ġ", pre_tokenizers.ByteLevel(add_prefix_space=False)), ("▁", pre_tokenizers.Metaspace())):
        vocabulary = {letter: n for n, letter in enumerate([space, *alphabet, "?"])}
        backend = Tokenizer(models.BPE(vocabulary, [], unk_token="?"))
        backend.pre_tokenizer = before
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
        found = tokenize_rows(TAGGING, (rows,), tokenizer, 200)
        for row, text in enumerate(rows):
            pieces = tokenizer.convert_ids_to_tokens(found.ids[found.offsets[row] : found.offsets[row + 1]].tolist())
            starts = [pieces[place].strip(space) or pieces[place + 1] for place in found.words.row(row)]
            assert [piece[0] for piece in starts] == [word[0] for word in text.split()]


def test_every_word_of_a_long_context_is_read_where_it_has_most_context(tokenizer):
    rng = np.random.default_rng(0)
    questions = ["who is it", "what eats " * 20, "where"]
    contexts = [" ".join(rng.choice(WORDS, 100)), " ".join(rng.choice(WORDS, 70)), "a cat"]
    found = tokenize_rows(SPAN, (questions, contexts), tokenizer, 24)
    assert found.rows[-1] == len(found.offsets) - 1
    assert (np.diff(found.offsets) <= 24).all()
    assert np.diff(found.rows).tolist()[2] == 1
    assert not (found.words.values < 0).any()
    for row, context in enumerate(contexts):
        first = found.offsets[found.rows[row]]
        ids = found.ids[first + found.words.row(row)]
        assert tokenizer.convert_ids_to_tokens(ids.tolist()) == context.split()  # each of these words is one token
        lengths = np.diff(found.offsets[found.rows[row] : found.rows[row + 1] + 1])
        place = found.words.row(row) - np.repeat(0, len(ids))
        window = np.searchsorted(np.cumsum(lengths), place, side="right")
        assert (np.diff(window) >= 0).all()  # one change from window to window: in the middle of their overlap
        if row == 0:
            inner = [place[i] - np.cumsum([0, *lengths])[window[i]] for i in np.flatnonzero(np.diff(window))]
            assert min(lengths[0] - 1 - at for at in inner) > 1  # not read at a window's very end
            starts, room = np.cumsum([0, *lengths]), 2 + len(questions[0].split())  # [CLS], the question and [SEP]
            at = place - starts[window]
            least = np.minimum(at - room, lengths[window] - 2 - at)  # words beside it in its window
            offset = np.arange(len(ids)) - (at - room)  # of each window's first word in the context
            for other in range(len(lengths)):
                there = np.arange(len(ids)) - offset[window == other][0] + room
                inside = (there >= room) & (there < lengths[other] - 1)
                assert (np.minimum(there - room, lengths[other] - 2 - there)[inside] <= least[inside]).all()


def test_choices_become_pairs_and_empty_ones_none(tokenizer):
    columns = (["a cat", "the dog"], ["who", "what"], ["runs", "eats"], ["sleeps", ""], ["is it", "not"])
    found = tokenize_rows(Layout("choice", 2), columns, tokenizer, 32)
    firsts = ["a cat"] * 3 + ["the dog"] * 2
    seconds = ["who runs", "who sleeps", "who is it", "what eats", "what not"]
    assert found.ids.tolist() == tokenize((firsts, seconds), tokenizer, 32).ids.tolist()
    assert (found.rows.tolist(), found.words) == ([0, 3, 5], None)


def test_an_empty_choice_stands_behind_the_others():
    row = {"q": "who", "a": "cat", "b": "dog", "c": "man", "label": "1"}
    for wrong in ({"a": ""}, {"b": "", "c": ""}):
        rows = [{**row, "label": "0"}, {**row, **wrong}, {**row, "label": "2"}]
        task = Task.from_list(
            {"train": rows, "dev": rows[:1]}, text="q", choices=["a", "b", "c"], allow_empty_text=True
        )
        with pytest.raises(DataError, match=r"row 1: choices .*; give at least 2, and empty ones last"):
            load_examples("t", task)


def test_a_batch_points_at_each_words_token_and_each_choices_text(tokenizer):
    """Whatever stands beside them, the ids at the positions are those of the words; texts are sorted by length."""
    rows = texts(12, 30)
    contexts = [" ".join(np.random.default_rng(n).choice(WORDS, 10 + 9 * n)) for n in range(6)]
    spans = tokenize_rows(SPAN, (["who is it"] * 6, contexts), tokenizer, 24)
    columns = (["a"] * 4, ["b", "cat dog", "c", "e"], ["is", "it", "", "a b c"])
    choices = tokenize_rows(Layout("choice"), columns, tokenizer, 24)
    tasks = {
        "plain": Examples(tokenize((rows,), tokenizer, 24), np.arange(12)),
        "tags": Examples(tokenize_rows(TAGGING, (rows,), tokenizer, 24), np.arange(12)),
        "spans": Examples(spans, np.zeros((6, 2), dtype=np.int64)),
        "choices": Examples(choices, np.arange(4)),
    }  # fmt: skip
    names = np.array([name for name, part in tasks.items() for _ in range(len(part.labels))], dtype=object)
    numbers = np.concatenate([np.arange(len(part.labels)) for part in tasks.values()])
    order = np.random.default_rng(1).permutation(len(names))
    batch = collate(tasks, names[order], numbers[order])
    assert list(batch.lengths) == sorted(batch.lengths)
    assert batch.size == len(names)
    for name in ("tags", "spans"):
        part, tokens = batch.tasks[name], tasks[name].tokens
        for place, row in enumerate(part.row_ids.tolist()):
            items = slice(part.offsets[place], part.offsets[place + 1])
            known = tokens.words.row(row)
            assert part.cut[items].tolist() == (known < 0).tolist()
            first = tokens.offsets[row if tokens.rows is None else tokens.rows[row]]
            seen = np.flatnonzero(known >= 0)
            assert batch.input_ids[part.positions[items]][seen].tolist() == tokens.ids[first + known[seen]].tolist()
    part, starts = batch.tasks["choices"], np.cumsum([0, *batch.lengths])
    for place, row in enumerate(part.row_ids.tolist()):
        for item, text in zip(part.positions[part.offsets[place] : part.offsets[place + 1]].tolist(),
                              range(*choices.rows[row : row + 2].tolist()), strict=True):  # fmt: skip
            theirs = choices.ids[choices.offsets[text] : choices.offsets[text + 1]]
            assert batch.input_ids[starts[item] : starts[item + 1]].tolist() == theirs.tolist()
    plain = batch.tasks["plain"]
    assert plain.offsets is None
    assert plain.positions.tolist() == sorted(plain.positions.tolist())
    blank = empty_batch(tasks)
    assert [len(blank.tasks[name].offsets) for name in ("tags", "spans", "choices")] == [1, 1, 1]


def test_answers_are_found_in_their_context_and_become_words():
    import pyarrow as pa

    context = "In 1990, Zoe's cat ran."
    column = pa.chunked_array(
        [[{"text": ["Zoe", "1990"], "answer_start": [9, 3]}, {"text": ["cat"], "answer_start": [15]}]]
    )
    found = read_answers("rows", "answers", column, [context, context])
    assert [found.row(row).tolist() for row in (0, 1)] == [[[9, 12], [3, 7]], [[15, 18]]]
    words = words_of(context, "span")
    assert [context[a:b] for a, b in words.tolist()] == ["In", "1990", ",", "Zoe", "'", "s", "cat", "ran", "."]
    assert [answer_words(found.row(row), words) for row in (0, 1)] == [(3, 3), (6, 6)]
    assert answer_words(np.array([[3, 5]]), words) == (1, 1)  # part of a word: all of it
    for value, message in (("dog", "does not stand in the context"), (" ", "is no answer"), ([], "has no answer")):
        with pytest.raises(DataError, match=message):
            read_answers("rows", "a", pa.chunked_array([pa.array([value])]), [context])
    wrong = pa.chunked_array([[{"text": ["cat"], "answer_start": [3]}]])
    with pytest.raises(DataError, match="row 0: answer 'cat' does not stand in the context"):
        read_answers("rows", "a", wrong, [context])


def test_each_word_needs_its_tag():
    import pyarrow as pa

    task = Task.from_list([], text="words", kind="tagging", labels=["O", "B-X"])
    table = pa.table({"words": [["a", "b"], ["c"]], "label": [["O", "B-X"], [None]]})
    found = read_labels("rows", "t", task, table, texts=(["a b", "c"],))
    assert (found.values.tolist(), found.offsets.tolist()) == ([0, 1, -1], [0, 2, 3])
    with pytest.raises(DataError, match="row 1: 1 tags in column 'label', but 2 words"):
        read_labels("rows", "t", task, table, texts=(["a b", "c d"],))
    with pytest.raises(DataError, match="row 0: label 'B-Y' is neither one of O, B-X"):
        read_labels("rows", "t", task, pa.table({"label": [["B-Y"]]}), texts=(["a"],))


def test_a_row_is_cut_once_however_many_of_its_choices_are(tokenizer):
    short, long = "a cat", " ".join(WORDS[:20])
    choices = [(short, short, short), (long, short, long), (long, short, "")]  # cut are none, two, and one of two
    columns = (["who is it"] * 3, *map(list, zip(*choices, strict=True)))
    found = tokenize_rows(Layout("choice"), columns, tokenizer, 12)
    assert np.diff(found.rows).tolist() == [3, 3, 2]
    assert found.n_truncated == 2
