"""The benchmarks' table: what was found beside what was predicted; and what their sides train on."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PROVENANCE = {"commit": "abc1234", "finished": "2026-11-24T12:00:00+00:00", "machine": "a CPU", "precision": "32-true",
              "data": "generated rows",
              "versions": {"python": "3.11", "torch": "2.13", "transformers": "5"}}  # fmt: skip


@pytest.fixture
def module(monkeypatch):
    """Return a function that imports a file of benchmarks/."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("bench", "benches", "workload", "sides", "run_side", "gpu", "predict", "attack"):
        sys.modules.pop(name, None)


def test_every_claim_is_of_sides_that_run(module):
    for name, bench in module("bench").BENCHES.items():
        for claim in bench.claims:
            assert {claim.side, *filter(None, [claim.other])} <= set(bench.sides), name


def test_the_table_has_the_median_of_the_ratios_of_rounds(module, monkeypatch, tmp_path):
    bench = module("bench")
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    rounds = [
        {"ours": {"rate": ours, "peak_mib": 1000 + ours}, "group_by_length": {"rate": 100, "peak_mib": 3000}}
        for ours in (150, 130, 140)
    ]
    (tmp_path / "cola.json").write_text(json.dumps({**PROVENANCE, "rounds": rounds}))
    lines = bench._table().splitlines()
    (line,) = [line for line in lines if line.startswith("| CoLA alone")]
    assert [cell.strip() for cell in line.split("|")[2:7]] == [
        "1.4", "3: 1.3 to 1.5", "1.35", "at least 1.3", "1,150, 3,000",
    ]  # fmt: skip
    assert "| cola | abc1234 | 2026-11-24 | a CPU, 32-true where not said; generated rows |" in "\n".join(lines)
    assert sum("not run" in line for line in lines) == sum(len(one.claims) for one in bench.BENCHES.values()) - 1


def test_an_unknown_benchmark_is_refused_with_the_names_there_are(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "colla"])
    with pytest.raises(SystemExit):
        module("bench").main()
    assert "no benchmark colla; there are mixed_128, limit, mixed_32" in capsys.readouterr().err


def test_generated_rows_have_glues_lengths_and_the_stream_its_proportions(module):
    workload = module("workload")
    work = workload.make(["cola", "rte"], batch=64, steps=50, data="", encoder="", cache="")
    assert work.lengths.shape == (50, 64)
    sizes = {name: len(one.labels) for name, one in work.examples.items()}
    assert sizes == {"cola": 8551, "rte": 2490}
    share = (work.stream.rows < 8551).mean()
    assert share == pytest.approx(8551**0.75 / (8551**0.75 + 2490**0.75), abs=0.02)
    for name, shape in workload.SHAPES.items():
        if name in work.examples:
            assert np.log(work.examples[name].tokens.lengths).mean() == pytest.approx(shape.mean, abs=0.05)


def test_a_share_of_the_rows_is_drawn_row_by_row(module):
    work = module("workload").make(["cola", "rte"], batch=32, steps=86, data="", encoder="", cache="", share=4)
    assert {name: len(one.labels) for name, one in work.examples.items()} == {"cola": 2137, "rte": 622}
    assert np.unique(work.stream.rows).size > 0.99 * work.stream.rows.size  # 2,752 of 2,759 rows


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("side", ["packed", pytest.param("padded", marks=pytest.mark.release)])
def test_what_is_measured_on_a_gpu_runs(side, module, monkeypatch):
    """On a CPU, a tiny encoder and few rows; what is CUDA's own is stood in for."""
    gpu, workload = module("gpu"), module("workload")
    for name, shape in workload.SHAPES.items():
        monkeypatch.setitem(workload.SHAPES, name, shape._replace(rows=200))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    monkeypatch.setattr(gpu, "LARGE", {**gpu.LARGE, **sizes})
    monkeypatch.setattr(gpu, "STEPS", 11)
    cuda = {"synchronize": None, "reset_peak_memory_stats": None, "max_memory_allocated": 2 << 20,
            "get_device_name": "NVIDIA H200"}  # fmt: skip
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    for name, answer in cuda.items():
        monkeypatch.setattr(gpu.torch.cuda, name, lambda answer=answer: answer)
    found = gpu.run(side)
    assert found["steps"] == 3
    assert found["peak_mib"] == 2
    lengths = workload.make(list(workload.SHAPES), 128, 11, "", "", "").lengths[8:].astype(float)
    assert found["mfu"] == pytest.approx(gpu.operations(lengths) / found["seconds"] / 989e12)
    assert found["student_hours"] == pytest.approx(found["seconds"] / 3 * (8 * 200 * 6 / 128) / 3600)


def test_operations_are_six_a_weight_and_token_and_twelve_a_pair_of_tokens_and_unit(module, monkeypatch):
    """One layer of width 2 and 4: 4 * 4 + 2 * 8 = 32 weights. Texts of 3 and 1 tokens: 4 tokens, 10 pairs."""
    gpu = module("gpu")
    monkeypatch.setattr(gpu, "LARGE", {"hidden_size": 2, "intermediate_size": 4, "num_hidden_layers": 1})
    assert gpu.operations(np.asarray([[3.0, 1.0]])) == 6 * 32 * 4 + 12 * 2 * 10
