"""What is chosen by what the machine has: arithmetic, and how the C library frees memory."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch

from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.models import hardware

FAULTS = """
import resource, sys, torch
from bam_lightning.models import hardware
if sys.argv[1] == "prepared":
    hardware.prepare()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(16):
    if turn == 6:
        before = faults()
    blocks = [torch.ones(10 << 20) for _ in range(3)]
    del blocks
print(faults() - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")


@pytest.mark.parametrize(("bf16", "amx", "word"), [(0, 0, "32-true"), (1, 0, "bf16-mixed"), (0, 1, "bf16-mixed")])
def test_bfloat16_is_chosen_where_the_cpu_has_it(bf16, amx, word, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(bf16))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    assert hardware.precision(TrainerConfig()) == word
    for asked in ("32-true", "bf16-mixed", "64-true"):
        assert hardware.precision(TrainerConfig(precision=asked)) == asked


@pytest.mark.parametrize(("generation", "word"), [(7, "32-true"), (8, "bf16-mixed"), (9, "bf16-mixed")])
def test_bfloat16_is_chosen_where_the_gpu_has_it(generation, word, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (generation, 0))
    assert hardware.precision(TrainerConfig()) == word


@glibc
@pytest.mark.release
def test_freed_memory_is_kept_for_the_next_step():
    """Blocks of 40 MiB, which glibc hands back at once by itself, have 10,240 pages each."""
    if not ctypes.CDLL(None).mallopt(hardware.M_MMAP_THRESHOLD, 1 << 30):
        pytest.skip("this version of glibc maps blocks of more than 32 MiB whatever it is told")
    found = {}
    others = {name: value for name, value in os.environ.items()
              if not name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}  # fmt: skip
    for way in ("prepared", "as it is"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True, env=others
        )
        found[way] = int(done.stdout)
    assert found["prepared"] < found["as it is"] / 4


@glibc
def test_an_older_c_library_is_asked_for_what_it_takes(monkeypatch):
    asked = []

    class Old:
        def mallopt(self, name, value):
            asked.append((name, value))
            return int(name != hardware.M_MMAP_THRESHOLD or value <= 1 << 25)

    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: Old())
    hardware.prepare()
    assert asked == [
        (hardware.M_MMAP_THRESHOLD, 1 << 30),
        (hardware.M_MMAP_THRESHOLD, 1 << 25),
        (hardware.M_TRIM_THRESHOLD, (1 << 31) - 1),
    ]
