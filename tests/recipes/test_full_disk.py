"""A disk that fills up while a job runs: one sentence, nothing half-written, and room is all that the job needs."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.hydra_errors import format_error, is_user_error
from bam_lightning.recipes.runner import run_recipe


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A small file system of one's own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def leave(disk: Path, size: int) -> None:
    """Fill a disk up, but for so many bytes."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while (left := shutil.disk_usage(disk).free - size) > 0:
            file.write(bytes(min(left, 1 << 16)))


def weights(store: Path) -> dict[str, str]:
    """Return a hash of the weights of each finished Run."""
    paths = sorted((store / "runs").glob("*/model.safetensors"))
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.release
def test_a_job_on_a_full_disk_says_so_and_ends_bit_equal_when_there_is_room(disk, tiny_job, tmp_path):
    words = [*tiny_job, "recipe=single", "suite.include=[rte]", "run.checkpoint_steps=1", "logger=csv"]
    words += [f"paths.store={disk / 'store'}", f"paths.cache={disk / 'cache'}"]
    run_recipe(compose(words), disk / "out")
    whole, used = weights(disk / "store"), shutil.disk_usage(disk).used
    assert len(whole) == 1
    for part in (0.0, 0.3, 0.7):
        for folder in disk.iterdir():
            shutil.rmtree(folder)
        leave(disk, int(part * used))
        with pytest.raises(OSError) as caught:
            run_recipe(compose(words), disk / "out")
        assert is_user_error(caught.value)
        assert re.match(r"(paths.store: )?cannot write .*make room", format_error(caught.value))
        assert not list(disk.rglob("*.part"))
        assert weights(disk / "store").items() <= whole.items()
        (disk / "filler").unlink()
        run_recipe(compose(words), disk / "out")
        assert weights(disk / "store") == whole
