"""A file is whole or not there, whatever stops its writer; and the error says why, where, and what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch

from bam_lightning.store.atomic_io import (
    WriteError,
    apply_umask,
    atomic_write,
    check_zip,
    explain,
    translate_os_errors,
    write_text,
)
from conftest import umask

END = ". What was finished is kept, and the same command goes on"
LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a disk that is full: the call fails, the process lives
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
import numpy as np, torch
from safetensors.numpy import save_file
from bam_lightning.store.atomic_io import WriteError, atomic_write
path = Path(sys.argv[1])
try:
    with atomic_write(path) as beside:
        if sys.argv[2] == "torch":
            torch.save({"weights": torch.zeros(100_000)}, beside)
        elif sys.argv[2] == "safetensors":
            save_file({"weights": np.zeros(100_000)}, beside)
        else:
            beside.write_bytes(bytes(200_000))
except WriteError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "writer", ["torch", *(pytest.param(name, marks=pytest.mark.release) for name in ("bytes", "safetensors"))]
)
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(writer, tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_text("the last good one")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path, writer], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.startswith(f"cannot write {path} ("), done.stdout + done.stderr
    assert done.stdout.endswith(f"{END}\n")
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]
    assert path.read_text() == "the last good one"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "the file system may only be read; give another folder"),
        (errno.EACCES, "this user may not write there; give another folder, or the right to"),
        (errno.ENOTDIR, "a file lies where a folder should; give another folder"),
        (errno.ENOENT, "its folder has gone; put it back, or give another"),
        (errno.EIO, "give another folder"),
    ],
)
def test_each_reason_has_its_advice(number, advice, tmp_path):
    error = OSError(number, os.strerror(number))
    assert explain(tmp_path / "x", error) == f"cannot write {tmp_path}/x ({os.strerror(number)}): {advice}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_much_is_free(number, tmp_path):
    said = explain(tmp_path / "x", OSError(number, os.strerror(number)))
    assert said.startswith(f"cannot write {tmp_path}/x ({os.strerror(number)}): ")
    assert said.endswith(" MiB are free there; make room")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_said():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(WriteError) as caught:
                write_text(Path(folder) / "x", "text")
        finally:
            os.seteuid(0)
    assert str(caught.value) == (
        f"cannot write {folder}/x (Permission denied): this user may not write there; give another folder, "
        f"or the right to{END}"
    )


def test_a_folder_that_has_gone_is_said(tmp_path):
    with pytest.raises(WriteError) as caught:
        write_text(tmp_path / "gone" / "x", "text")
    assert str(caught.value) == (
        f"cannot write {tmp_path}/gone/x (No such file or directory): its folder has gone; put it back, "
        f"or give another{END}"
    )


def test_what_is_no_matter_of_writing_is_left_alone(tmp_path):
    with pytest.raises(RuntimeError, match="shapes do not fit"), translate_os_errors(tmp_path / "x"):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "x") as beside:  # noqa: PT012
        beside.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_every_flipped_byte_of_a_checkpoint_that_matters_is_seen(tmp_path):
    """torch reads weights with changed bits without a word, so the check is ours."""
    path = tmp_path / "last.ckpt"
    torch.manual_seed(0)
    state = {"weights": torch.randn(300, 40), "history": [{"step": 1.0}] * 30, "seconds": 2.5}
    torch.save(state, path)
    check_zip(path, "delete it")
    whole, seen, unseen = path.read_bytes(), 0, 0
    for place in range(7, len(whole), 211):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            check_zip(path, "delete it")
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged (")  # noqa: PT017
            assert str(error).endswith("); delete it")  # noqa: PT017
            seen += 1
        else:
            unseen += 1
            try:
                found = torch.load(path, weights_only=True)
            except RuntimeError:  # what makes it no file of torch's is seen when it is opened
                continue
            assert found["weights"].equal(state["weights"])  # padding between the parts
            assert (found["history"], found["seconds"]) == (state["history"], state["seconds"])
    assert seen > 20 * unseen


@pytest.mark.parametrize("left", [0, 10, 5000])
def test_a_checkpoint_that_was_cut_off_is_seen(left, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"weights": torch.randn(3000)}, path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged \(.*\); delete it"):
        check_zip(path, "delete it")


def test_a_zip_of_something_else_passes_here_and_is_left_to_its_reader(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        opened.writestr("a", "b")
    check_zip(tmp_path / "x.zip", "delete it")


def test_files_for_their_owner_alone_get_the_rights_of_new_ones_and_no_others_are_touched(tmp_path):
    ours, known, outside, link = (tmp_path / name for name in ("ours", "known", "outside", "link"))
    for path, mode in ((ours, 0o600), (known, 0o640), (outside, 0o600)):
        path.touch()
        path.chmod(mode)
    link.symlink_to(outside)
    with umask(0o002):
        apply_umask(ours, known, link)
    assert [path.stat().st_mode & 0o777 for path in (ours, known, outside)] == [0o664, 0o640, 0o600]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["known", "link", "ours", "outside"]
