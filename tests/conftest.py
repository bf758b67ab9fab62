"""What all tests share: one seed, a folder of their own, no network, a tiny random BERT and tiny tasks."""

from __future__ import annotations

import os

os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import json
import logging
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

RAM = "/dev/shm"  # the store syncs each file to its disk, which costs milliseconds; in a container this may be tiny


def pytest_addoption(parser):
    parser.addoption("--golden", action="store_true", help="rewrite tests/golden instead of comparing with it")
    parser.addoption("--processes", type=int, default=2, help="processes that work on one store at once")


def pytest_configure(config):
    import forked_python

    if "WARM_HYDRA" not in os.environ:  # the first process; its workers have it from there
        folder = tempfile.TemporaryDirectory()
        os.environ["WARM_HYDRA"] = folder.name
        config.add_cleanup(folder.cleanup)
        if config.option.numprocesses:  # one server for all workers, warm by the time they have imported torch
            forked_python.python()
    if not config.option.numprocesses or hasattr(config, "workerinput"):  # a process that runs tests
        _make_cheaper()
    if os.path.isdir(RAM) and shutil.disk_usage(RAM).free > 8 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", RAM)


def _make_cheaper():
    """Keep, in this process, what libraries would read or compose again for each test."""
    from lightning_fabric.utilities import registry

    import warm_hydra

    registry.entry_points = cache(registry.entry_points)  # each Trainer reads the metadata of all packages
    warm_hydra.install()


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Mark as slow whatever may train a recipe."""
    for item in items:
        if {"tiny_job", "trained", "served"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Leave what imports and collection made to no garbage collection: a tenth of the time of all tests."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _short_reports(request, monkeypatch):
    """Leave out ``results.png`` and most draws of intervals, half the time of a tiny job, where a test is not marked
    ``whole_report``."""
    if "whole_report" not in request.keywords:
        monkeypatch.setenv("FORKED_PYTHON_REPORTS", "short")
        monkeypatch.setattr("bam_lightning.analysis.job_report.plot", lambda *_: None)
        monkeypatch.setattr("bam_lightning.recipes.predictions.DRAWS", 20)


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Seed everything and work in an empty folder, in which no log is written to once the test is over."""
    import torch

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    for handler in [one for one in logging.root.handlers if isinstance(one, logging.FileHandler)]:
        logging.root.removeHandler(handler)
        handler.close()


WORDS = "a the cat dog man woman sleeps rests eats runs good bad not is it was who what where in on".split()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A folder with a random two-layer BERT, its tokenizer and nothing from outside."""
    import torch
    from transformers import BertConfig, BertModel

    from bam_lightning.training.masked_lm import make_tokenizer

    folder = tmp_path_factory.mktemp("tiny_bert")
    tokenizer = make_tokenizer([" ".join(WORDS)], 200)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def still_bert(tiny_bert, tmp_path_factory) -> Path:
    """The tiny BERT without dropout."""
    from transformers import AutoTokenizer, BertModel

    folder = tmp_path_factory.mktemp("still_bert")
    BertModel.from_pretrained(tiny_bert, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


def sentences(count: int, seed: int, longest: int = 12) -> list[str]:
    """Return different texts of the tiny vocabulary."""
    rng = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(rng.choice(WORDS, rng.integers(2, longest)))] = None
    return list(texts)


def write_data(root: Path) -> Path:
    """Write three local tasks in GLUE's columns: ``rte`` (Parquet), ``stsb`` (CSV) and ``sst2`` (JSON lines)."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    for number, (split, size) in enumerate({"train": 40, "validation": 24}.items()):
        first, second = sentences(size, number), sentences(size, 10 + number)
        rng = np.random.default_rng(number)
        rte = {"sentence1": first, "sentence2": second, "label": rng.integers(0, 2, size), "idx": np.arange(size)}
        stsb = {**rte, "label": rng.random(size).astype(np.float32) * 5}
        for name in ("rte", "stsb", "sst2"):
            (root / name).mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(rte), root / "rte" / f"{split}.parquet")
        csv.write_csv(pa.table(stsb), root / "stsb" / f"{split}.csv")
        rows = zip(first, rte["label"].tolist(), range(size), strict=True)
        lines = [json.dumps({"sentence": text, "label": label, "idx": idx}) for text, label, idx in rows]
        (root / "sst2" / f"{split}.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture
def tiny_data(tmp_path) -> Path:
    """A data root of one's own, to change at will."""
    return write_data(tmp_path / "data")


def job_words(encoder: Path, data: Path, store: Path) -> list[str]:
    """Return the command line of a whole Single->Multi that takes a second: tiny tasks, the tiny BERT."""
    return [
        "scale=small",
        "suite.include=[rte,stsb]",
        f"data.root={data}",
        f"encoder.path={encoder}",
        "logger=none",
        "trainer.precision=32-true",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=2",
        "data.max_length=32",
        "optimization.single.batch_size=8",  # 5 steps of 40 rows
        "optimization.single.epochs=1",
        "optimization.multi.batch_size=16",  # 10 steps of 80 rows
        "optimization.multi.epochs=2",
        "optimization.learning_rate=1e-3",
        "distillation.teacher_margin=null",  # labels are random: nobody learns them
        f"paths.store={store}",
    ]


@pytest.fixture
def tiny_job(tiny_bert, tiny_data, tmp_path) -> list[str]:
    """The words of a job in a store of its own."""
    return job_words(tiny_bert, tiny_data, tmp_path / "store")


class Trained(NamedTuple):
    """A student of three tiny tasks, trained once for all tests: its Run, its store, its words, config, results."""

    id: str
    store: Path
    words: list[str]
    config: Any
    results: dict


@pytest.fixture(scope="session")
def trained(tiny_bert, tmp_path_factory) -> Trained:
    """For tests that only read it; they give ``store=`` its path."""
    from bam_lightning.config.compose import compose
    from bam_lightning.recipes.runner import run_recipe

    folder = tmp_path_factory.mktemp("trained")
    words = job_words(tiny_bert, write_data(folder / "data"), folder / "store")
    words = [word for word in words if not word.startswith(("data.root", "paths.store", "suite.include"))]
    words += ["suite.include=[rte,stsb,sst2]", f"paths.cache={folder}/cache"]
    places = [f"data.root={folder}/data", f"paths.store={folder}/store"]
    config = compose(["+experiment=single_multi", *words, *places])
    results = run_recipe(config, folder / "out")
    return Trained(results["runs"][-1]["id"], folder / "store", words, config, results)


@contextmanager
def little_memory(megabytes: int) -> Iterator[None]:
    """Let the process take no more than so much memory beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (megabytes << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Served(NamedTuple):
    """A model behind HTTP on a port of this machine: its address, the model, its application."""

    url: str
    model: Any
    app: Any


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Have new files made with these rights taken away."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def serving(model, answers=None, limits=None, batch=64, queue=1024, **options) -> Iterator[Served]:
    """Serve a model in a thread; ``answers`` takes the place of its own."""
    from bam_lightning.inference.serving.app import App, listen, make_server, url_of
    from bam_lightning.inference.serving.batcher import Batcher, predict_batch
    from bam_lightning.inference.serving.schemas import Limits

    predict = answers or partial(predict_batch, model)
    with listen("127.0.0.1", 0) as listener, Batcher(predict, batch, queue) as batcher:
        app = App(model, batcher, limits or Limits())
        server = make_server(app, **options)
        thread = threading.Thread(target=server.run, args=([listener],))
        listener.listen(100)
        thread.start()
        try:
            yield Served(url_of(listener), model, app)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def served(trained) -> Iterator[Served]:
    """The student of three tiny tasks behind HTTP, for tests that only ask it."""
    import bam_lightning

    with serving(bam_lightning.load(trained.id, store=trained.store)) as found:
        yield found


@pytest.fixture(autouse=True)
def _no_hydra_left():
    """Let no test leave Hydra initialised for the next."""
    yield
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
