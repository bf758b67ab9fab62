"""The store of finished Runs: whole or not there, and no changed byte goes unseen."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from filelock import Timeout
from safetensors.numpy import save_file

from bam_lightning.store.run_store import Store, load_logits
from conftest import umask

RUN, OTHER = "0123456789ab", "ba9876543210"
KEYS = [bytes([number]) * 16 for number in (3, 1, 2)]
LOGITS = np.array([[0.5, -1.5], [2.0, 1e-7], [-3.25, 4.0]], dtype=np.float32)
TEXTS = (["the cat", "a dog", "it is"], ["sleeps", "eats", "good"])


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


MANIFEST = {
    "stage": "teachers",
    "tasks": ["rte"],
    "seed": 0,
    "metrics": {"rte": {"accuracy": 0.5}},
    "teachers": {},
    "spec": {},
    "finished": "2026-01-01T00:00:00+00:00",
    "device": "cpu",
    "versions": {},
}


def build(store: Store, run_id: str = RUN) -> None:
    """Publish a Run of two files."""
    folder = store.staging_dir(run_id)
    (folder / "encoder").mkdir()
    (folder / "model.safetensors").write_bytes(b"weights of a model")
    (folder / "encoder" / "config.json").write_text("{}")
    (folder / "last.ckpt").write_bytes(b"a checkpoint")
    store.commit(run_id, MANIFEST)


def flip(path, place: int, bits: int = 1) -> None:
    """Flip bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(bytes(content))


def refusal(kind, call, *arguments) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments)
    return str(caught.value)


def test_published_run_is_finished_and_holds_its_files_and_manifest(store):
    build(store)
    manifest = store.manifest(RUN)
    assert store.finished(RUN)
    assert (manifest["stage"], manifest["metrics"]) == ("teachers", {"rte": {"accuracy": 0.5}})
    assert sorted(manifest["files"]) == ["encoder/config.json", "model.safetensors"]
    assert store.run(RUN).file("model.safetensors").read_bytes() == b"weights of a model"
    assert store.run(RUN).file("encoder/config.json").read_text() == "{}"
    assert not any((store.root / "building").iterdir())


def test_checkpoints_are_left_out_of_a_finished_run(store):
    build(store)
    assert not list(store.folder(RUN).glob("*.ckpt"))


def test_half_built_run_is_not_finished_but_begun(store):
    (store.staging_dir(RUN) / "model.safetensors").write_bytes(b"half")
    assert not store.has_checkpoint(RUN)
    (store.staging_dir(RUN) / "last.ckpt").write_bytes(b"a checkpoint")
    assert store.has_checkpoint(RUN)
    assert not store.finished(RUN)


def test_publishing_again_replaces_the_run(store):
    build(store)
    (store.staging_dir(RUN) / "model.safetensors").write_bytes(b"other weights")
    store.commit(RUN, MANIFEST)
    assert store.run(RUN).file("model.safetensors").read_bytes() == b"other weights"
    assert sorted(store.manifest(RUN)["files"]) == ["model.safetensors"]


def test_missing_run_is_named(store):
    expected = f"no Run {RUN!r} in {store.root}; train it first, or check paths.store"
    assert refusal(FileNotFoundError, store.manifest, RUN) == expected
    assert refusal(FileNotFoundError, store.run, RUN) == expected


@pytest.mark.parametrize("name", ["no_such_file", "model.safetensors"])
def test_missing_file_of_a_run_is_named(store, name):
    build(store)
    (store.folder(RUN) / "model.safetensors").unlink()
    assert refusal(FileNotFoundError, store.run(RUN).file, name) == (
        f"{store.folder(RUN)} has no file {name!r}; delete {store.folder(RUN)}, and the Run is trained anew"
    )


@pytest.mark.parametrize("place", [0, 9, 17])
def test_flipped_byte_of_a_file_is_seen(store, place):
    build(store)
    path = store.folder(RUN) / "model.safetensors"
    flip(path, place)
    said = refusal(ValueError, store.run(RUN).file, "model.safetensors")
    found = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout[:12]
    kept = "ca61ce52a25a"  # printf "weights of a model" | sha256sum
    assert said == (
        f"{path} is damaged: its hash is {found}, the manifest says {kept}; "
        f"delete {store.folder(RUN)}, and the Run is trained anew"
    )


def test_damaged_manifest_is_named(store):
    build(store)
    path = store.folder(RUN) / "run.json"
    path.write_text('{"stage": ')
    assert refusal(ValueError, store.manifest, RUN) == (
        f"{path} is damaged (Expecting value: line 1 column 11 (char 10)); "
        f"delete {store.folder(RUN)}, and the Run is trained anew"
    )


def test_outputs_come_back_bit_for_bit_under_their_keys(store):
    store.write_predictions(RUN, "rte", "train", KEYS, LOGITS)
    read = store.read_predictions(RUN, "rte", "train")
    assert list(read) == KEYS
    assert np.stack(list(read.values())).tobytes() == LOGITS.tobytes()
    assert store.has_predictions(RUN, "rte", "train", KEYS)
    assert store.has_predictions(RUN, "rte", "train", KEYS[:1])
    assert not store.has_predictions(RUN, "rte", "train", [*KEYS, b"x" * 16])
    assert not store.has_predictions(RUN, "rte", "dev", KEYS)
    assert len(list(store.predictions_path(RUN, "rte", "train").parent.iterdir())) == 1


def test_others_may_read_a_run_and_its_outputs(store):
    building = store.staging_dir("a")
    save_file({"weight": np.zeros(2)}, building / "model.safetensors")  # with rights for its owner alone
    with umask(0o022):
        store.commit("a", {"stage": "single"})
        store.write_predictions("a", "rte", "dev", KEYS, LOGITS)
    there = [store.folder("a") / "model.safetensors", store.predictions_path("a", "rte", "dev")]
    assert [path.stat().st_mode & 0o777 for path in there] == [0o644, 0o644]


def test_missing_outputs_are_named(store):
    path = store.predictions_path(RUN, "rte", "train")
    assert refusal(FileNotFoundError, store.read_predictions, RUN, "rte", "train") == (
        f"no predictions of Run {RUN} on 'rte' (train) at {path}; train it first"
    )


@pytest.mark.parametrize("bits", [1, 0x0F, 0x20, 0x80])
def test_no_flipped_byte_of_outputs_changes_what_is_read(store, bits):
    store.write_predictions(RUN, "rte", "train", KEYS, LOGITS)
    path = store.predictions_path(RUN, "rte", "train")
    whole, refused, unseen = path.read_bytes(), 0, []
    for place in range(len(whole)):
        flip(path, place, bits)
        try:
            read = store.read_predictions(RUN, "rte", "train")
            if list(read) != KEYS or np.stack(list(read.values())).tolist() != LOGITS.tolist():
                unseen.append((place, whole[max(0, place - 9) : place + 9]))
        except ValueError as error:
            refused += str(error).startswith(f"{path} is damaged")
        path.write_bytes(whole)
    assert unseen == []
    assert refused > len(whole) - 24  # all but the blanks that fill up the header


@pytest.mark.parametrize("place", [-1, -24, -40])
def test_flipped_byte_of_logits_or_keys_is_refused(store, place):
    store.write_predictions(RUN, "rte", "train", KEYS, LOGITS)
    path = store.predictions_path(RUN, "rte", "train")
    flip(path, place)
    assert refusal(ValueError, store.read_predictions, RUN, "rte", "train") == (
        f"{path} is damaged or belongs to another Run; delete it, and it is written anew"
    )


def test_truncated_outputs_are_refused(store):
    store.write_predictions(RUN, "rte", "train", KEYS, LOGITS)
    path = store.predictions_path(RUN, "rte", "train")
    path.write_bytes(path.read_bytes()[:-1])
    said = refusal(ValueError, store.read_predictions, RUN, "rte", "train")
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("); delete it, and it is written anew")


@pytest.mark.parametrize(("run_id", "task"), [(OTHER, "rte"), (RUN, "mrpc")])
def test_outputs_under_another_name_are_refused(store, run_id, task):
    store.write_predictions(run_id, task, "train", KEYS, LOGITS)
    path = store.predictions_path(RUN, "rte", "train")
    path.parent.mkdir(exist_ok=True)
    store.predictions_path(run_id, task, "train").rename(path)
    assert refusal(ValueError, store.read_predictions, RUN, "rte", "train") == (
        f"{path} is damaged or belongs to another Run; delete it, and it is written anew"
    )


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 0], [2]])
def test_column_of_outputs_finds_its_rows_whatever_their_order(store, order):
    store.write_predictions(RUN, "rte", "train", KEYS, LOGITS)
    texts = tuple([column[i] for i in order] for column in TEXTS)
    column = load_logits(store, RUN, "rte", "train", [KEYS[i] for i in order], texts)
    assert column.dtype == np.float32
    np.testing.assert_array_equal(column, LOGITS[order])


@pytest.mark.parametrize("split", ["train", "dev"])
def test_row_that_the_run_has_not_predicted_is_named(store, split):
    store.write_predictions(RUN, "rte", split, KEYS[:2], LOGITS[:2])
    assert refusal(ValueError, load_logits, store, RUN, "rte", split, KEYS, TEXTS) == (
        f"Run {RUN} has no prediction of task 'rte', {split} row 2 ('it is / good'); "
        "it predicted other rows, texts or labels"
    )


HOLD = """
import sys, time
from bam_lightning.store.run_store import Store
with Store(sys.argv[1]).lock(sys.argv[2]).acquire():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_one_process_holds_a_lock_and_its_death_frees_it(store):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, store.root, RUN], stdout=subprocess.PIPE, text=True)
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with store.lock(OTHER).acquire():
                pass  # another Run's lock is free
            with pytest.raises(Timeout):
                store.lock(RUN).acquire()
        finally:
            holder.kill()  # SIGKILL: it cannot tidy up
    with store.lock(RUN).acquire():
        assert store.locked(RUN)
    assert not store.locked(RUN)


def test_store_where_a_file_lies_is_refused(tmp_path):
    (tmp_path / "taken").write_text("not a folder")
    assert refusal(OSError, Store, tmp_path / "taken") == (
        f"paths.store: cannot write {tmp_path}/taken (File exists): "
        "a file lies where a folder should; give another folder"
    )


def test_store_finds_its_runs_again(store):
    build(store)
    assert Store(str(store.root)).finished(RUN)
    assert not Store(store.root).finished(OTHER)
