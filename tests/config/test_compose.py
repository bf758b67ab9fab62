"""`make_config` works wherever Hydra is in use already, and leaves Hydra as it was."""

from __future__ import annotations

import sys
import threading

import hydra
import pytest
from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

import bam_lightning as bam


@pytest.fixture
def app_folder(tmp_path):
    (tmp_path / "app.yaml").write_text("defaults: [schema, task: mine, _self_]\ncolour: red\n")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("size: 3\n")
    ConfigStore.instance().store(name="schema", node={"colour": "blue", "shape": "round"})
    yield str(tmp_path)
    del ConfigStore.instance().repo["schema.yaml"]


def test_inside_a_hydra_application(app_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app", f"hydra.run.dir={app_folder}", "hydra/job_logging=none"])
    seeds = []

    @hydra.main(config_path=app_folder, config_name="app", version_base="1.3")
    def main(tree):
        seeds.append((bam.make_config(["seed=3"]).seed, tree.colour, tree.shape))

    main()
    assert seeds == [(3, "red", "round")]


def test_after_hydra_initialize(app_folder):
    with hydra.initialize_config_dir(app_folder, version_base="1.2"):
        assert bam.make_config(["seed=3"]).seed == 3
        assert version.getbase() == version.Version("1.2")
        assert hydra.compose("app") == {"colour": "red", "shape": "round", "task": {"size": 3}}
    assert not GlobalHydra.instance().is_initialized()


def test_in_several_threads():
    seeds = {}

    def compose(seed: int) -> None:
        seeds[seed] = bam.make_config([f"seed={seed}", "scale=paper"]).seed

    threads = [threading.Thread(target=compose, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seeds == {seed: seed for seed in range(4)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=x"], "Error merging override seed=x: Value 'x' of type 'str' could not be converted to Integer"),
        (["scale=papr"], "no scale 'papr'; choices: base, demo, paper, small; did you mean 'paper'?"),
        (["suite=[null]"], "suite takes the name of a file, as --help lists them, got a list of others; "),
        (["seed=1,2"], "Ambiguous value for argument 'seed=1,2'"),
        (["seed=${nothing}"], "seed: Interpolation key 'nothing' not found"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_a_config_error(overrides, message):
    with pytest.raises(bam.ConfigError) as caught:
        bam.make_config(overrides)
    assert str(caught.value).startswith(message)
