"""Rows of large files that are kept: the same rows, with no look at the file until a byte of it or its task changes."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.config.data_config import DataConfig, HeadConfig, Metric, TaskConfig
from bam_lightning.data import examples, row_cache, sources
from bam_lightning.data.examples import load_split
from bam_lightning.data.lazy_texts import LateTexts
from bam_lightning.data.row_cache import load
from bam_lightning.data.task import task_from_config
from conftest import umask

PAIR = {"a": ["one", "two", "three"], "b": ["x", "y", "z"], "label": [0, 1, 1]}
KINDS = {
    "classes": (PAIR, {"head": HeadConfig(label_names=["no", "yes"])}),
    "one text": (PAIR, {"text": ["a"], "head": HeadConfig(label_names=["no", "yes"])}),
    "scores": ({**PAIR, "label": [0.5, 4.0, 2.5]}, {"head": HeadConfig(label_range=[0.0, 5.0]), "metric": "spearman"}),
    "sets": (
        {**PAIR, "label": ["no", "yes|no", ""]},
        {"head": HeadConfig(label_names=["no", "yes"]), "metric": "micro_f1"},
    ),
}


@pytest.fixture(autouse=True)
def _small_files_too(monkeypatch):
    monkeypatch.setattr(row_cache, "WORTH", 0)


def task(folder, columns=PAIR, **fields) -> TaskConfig:
    for split in ("train", "validation"):
        parquet.write_table(pa.table(columns), folder / f"{split}.parquet")
    fields = {"text": ["a", "b"], **KINDS["classes"][1], **fields}
    if "metric" in fields:
        fields["metric"] = Metric(fields["metric"])
    return TaskConfig(path=str(folder), **fields)


def load_examples(name, config, data):
    return examples.load_examples(name, task_from_config(name, config, data))


def look(folder, config, data=None):
    return load("mine", config, data or DataConfig(), folder / "cache")


def same(one, two):
    """Return whether the rows of two looks are equal, their texts last, for these are read late."""
    assert one.fingerprint == two.fingerprint
    for ours, theirs in zip(one[:2], two[:2], strict=True):
        assert ours.keys == theirs.keys
        assert (ours.labels.dtype, ours.labels.tolist()) == (theirs.labels.dtype, theirs.labels.tolist())
        assert [list(column) for column in ours.texts] == [list(column) for column in theirs.texts]
        assert [len(column) for column in ours.texts] == [len(ours.keys)] * len(theirs.texts)
    return True


@pytest.fixture
def blind(monkeypatch):
    """Return a function after whose call no file of rows can be read."""

    def refuse(*_):
        raise AssertionError("a file of rows was read")

    return lambda: monkeypatch.setattr(sources, "read_columns", refuse)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_look_finds_the_rows_of_the_first(kind, tmp_path):
    columns, fields = KINDS[kind]
    config = task(tmp_path, columns, **fields)
    plain = load_examples("mine", config, DataConfig())
    assert same(look(tmp_path, config), plain)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    found = look(tmp_path, config)
    assert all(isinstance(column, LateTexts) for rows in found[:2] for column in rows.texts)
    assert same(found, plain)


def test_a_second_look_reads_no_file_and_one_text_reads_it(tmp_path, blind):
    config = task(tmp_path)
    first = look(tmp_path, config)
    blind()
    found = look(tmp_path, config)
    assert found.fingerprint == first.fingerprint
    turned = found.train.take(np.array([2, 0]))
    assert turned.keys == [first.train.keys[2], first.train.keys[0]]
    assert len(turned.texts[1]) == 2
    with pytest.raises(AssertionError, match="was read"):
        turned.texts[1][0]


def test_taken_rows_have_their_own_texts(tmp_path):
    config = task(tmp_path)
    first = look(tmp_path, config)
    turned = look(tmp_path, config).train.take(np.array([2, 0]))
    assert turned.texts[0][:] == [first.train.texts[0][2], first.train.texts[0][0]]
    assert turned.texts[1][1] == first.train.texts[1][0]


def test_another_process_gets_places_not_texts(tmp_path):
    config = task(tmp_path)
    look(tmp_path, config)
    found = look(tmp_path, config)
    texts = list(found.train.texts[0])  # read by now
    sent = pickle.dumps(found)
    assert b"three" not in sent
    assert list(pickle.loads(sent).train.texts[0]) == texts


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_file_of_other_bytes_is_looked_at_anew(split, tmp_path):
    config = task(tmp_path)
    before = look(tmp_path, config)
    parquet.write_table(pa.table({**PAIR, "label": [1, 1, 1]}), tmp_path / f"{split}.parquet")
    after = look(tmp_path, config)
    assert after.fingerprint != before.fingerprint
    assert same(after, load_examples("mine", config, DataConfig()))


@pytest.mark.parametrize(
    "fields",
    [{"text": ["b", "a"]}, {"train_rows": 2}, {"dev_rows": 2}, {"head": HeadConfig(label_names=["yes", "no"])}],
)
def test_a_task_that_asks_otherwise_is_looked_at_anew(fields, tmp_path):
    before = look(tmp_path, task(tmp_path))
    config = task(tmp_path, **fields)
    after = look(tmp_path, config)
    assert after.fingerprint != before.fingerprint
    assert same(after, load_examples("mine", config, DataConfig()))


@pytest.mark.parametrize("byte", range(0, 700, 23))
def test_what_is_damaged_is_looked_at_anew(byte, tmp_path):
    config = task(tmp_path)
    plain = look(tmp_path, config)
    (kept,) = (tmp_path / "cache").iterdir()
    content = bytearray(kept.read_bytes())
    content[byte % len(content)] ^= 0x20
    kept.write_bytes(content)
    assert same(look(tmp_path, config), plain)


def test_what_was_cut_off_is_looked_at_anew_and_kept_again(tmp_path, blind):
    config = task(tmp_path)
    plain = look(tmp_path, config)
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-5])
    assert same(look(tmp_path, config), plain)
    assert kept.read_bytes() == whole
    blind()
    look(tmp_path, config)


def test_texts_of_a_file_that_has_changed_since_are_refused(tmp_path):
    config = task(tmp_path)
    look(tmp_path, config)
    found = look(tmp_path, config)
    parquet.write_table(pa.table({**PAIR, "a": ["one", "two", "four"]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError) as caught:
        list(found.train.texts[0])
    assert str(caught.value) == (f"{tmp_path}/train.parquet has changed since this job began; start the job again")


def test_a_file_that_is_gone_is_refused_in_the_same_words(tmp_path):
    config = task(tmp_path)
    look(tmp_path, config)
    found = look(tmp_path, config)
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(ValueError, match=r"train\.parquet has changed since this job began; start the job again$"):
        list(found.train.texts[0])


def test_both_columns_of_a_split_are_one_look_at_its_file(tmp_path, monkeypatch):
    config, looks = task(tmp_path), []
    look(tmp_path, config)
    found = look(tmp_path, config)
    monkeypatch.setattr(row_cache, "load_split", lambda *words: looks.append(words) or load_split(*words))
    assert [list(column) for column in found.train.texts] == [list(column) for column in found.train.texts]
    assert len(looks) == 1


def test_a_file_that_is_replaced_while_it_is_looked_at_is_not_kept(tmp_path, monkeypatch):
    config = task(tmp_path)
    old = (tmp_path / "train.parquet").read_bytes()

    def replaced(*words):
        parquet.write_table(pa.table({**PAIR, "label": [1, 0, 0]}), tmp_path / "train.parquet")
        return load_split(*words)

    monkeypatch.setattr(row_cache, "load_split", replaced)
    look(tmp_path, config)
    monkeypatch.undo()
    monkeypatch.setattr(row_cache, "WORTH", 0)
    (tmp_path / "train.parquet").write_bytes(old)
    assert same(look(tmp_path, config), load_examples("mine", config, DataConfig()))


def test_two_tasks_on_one_file_have_their_own_rows(tmp_path):
    config = task(tmp_path)
    both = [load(name, config, DataConfig(), tmp_path / "cache") for name in ("mine", "yours")]
    again = [load(name, config, DataConfig(), tmp_path / "cache") for name in ("mine", "yours")]
    assert [rows.fingerprint for rows in again] == [rows.fingerprint for rows in both]
    assert both[0].train.keys != both[1].train.keys


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    config = task(tmp_path)
    (tmp_path / "cache").write_text("a file where a folder should be")
    for _ in range(2):
        assert same(look(tmp_path, config), load_examples("mine", config, DataConfig()))


def test_others_may_read_what_is_kept(tmp_path):
    with umask(0o022):
        look(tmp_path, task(tmp_path))
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o644


def test_rows_that_cannot_be_learned_from_are_not_kept(tmp_path):
    config = task(tmp_path, {**PAIR, "label": [0, 1, 2]})
    for _ in range(2):
        with pytest.raises(ValueError, match="label 2 is neither"):
            look(tmp_path, config)
    assert not (tmp_path / "cache").exists()


def test_small_files_and_pairs_in_both_orders_are_not_kept(tmp_path, monkeypatch):
    config = task(tmp_path, symmetric=True)
    assert same(
        look(tmp_path, config, DataConfig(double_symmetric=True)),
        load_examples("mine", config, DataConfig(double_symmetric=True)),
    )
    monkeypatch.setattr(row_cache, "WORTH", 1 << 22)
    look(tmp_path, config)
    assert not (tmp_path / "cache").exists()
