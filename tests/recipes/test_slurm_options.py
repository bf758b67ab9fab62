"""Options of the SLURM launcher: the YAML's are all there and allowed, bad ones are named, sbatch gets its own."""

from __future__ import annotations

import subprocess

import pytest
from hydra import compose, initialize_config_dir

from bam_lightning.config.compose import conf_dir, register
from bam_lightning.recipes.slurm.options import Options, parse_options, python_command


def of_yaml(*words: str) -> dict:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        tree = compose("train", ["hydra/launcher=slurm", *words], return_hydra_config=True)
    node = tree.hydra.launcher
    return {name: node[name] for name in node if name != "_target_"}


def test_the_yaml_and_the_class_agree():
    assert parse_options(of_yaml()) == Options()


def test_a_job_is_started_again_unless_one_says_otherwise():
    assert Options().max_requeues == 20
    assert parse_options(of_yaml("hydra.launcher.max_requeues=0")).max_requeues == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timeout_min": 0}, "hydra.launcher.timeout_min must be at least 1, got 0"),
        ({"nodes": 0}, "hydra.launcher.nodes must be at least 1, got 0"),
        ({"max_requeues": -1}, "hydra.launcher.max_requeues must be at least 0, got -1"),
        ({"mem_gb": 0}, "hydra.launcher.mem_gb must be above 0, got 0.0"),
        ({"partitoin": "gpu"}, "no option 'hydra.launcher.partitoin'; did you mean 'partition'?"),
        (
            {"timeout_min": "2h"},
            "hydra.launcher.timeout_min: Value '2h' of type 'str' could not be converted to Integer",
        ),
        (
            {"setup": "module load"},
            "hydra.launcher.setup: Invalid value assigned: AnyNode is not a ListConfig, list or tuple.",
        ),
    ],
)
def test_a_bad_option_is_named(options, expected):
    with pytest.raises(ValueError) as caught:
        parse_options(options)
    assert str(caught.value) == expected


def test_sbatch_gets_what_the_yaml_says(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    words = ["partition=gpu", "account=me", "qos=long", "constraint=a100", "timeout_min=90", "nodes=2"]
    words += ["tasks_per_node=4", "cpus_per_task=8", "gpus_per_node=4", "mem_gb=1.5", "signal_delay_s=60"]
    words += ["array_parallelism=3", "setup=[module load cuda]"]
    words = [f"hydra.launcher.{word}" for word in words]
    settings = parse_options(of_yaml(*words, "+hydra.launcher.additional.exclude=n7"))
    executor = submitit.SlurmExecutor(tmp_path)
    executor.update_parameters(**settings.parameters("bam-1"))
    executor.parameters["map_count"] = 12
    text = executor._make_submission_file_text("python job", "x").splitlines()
    wanted = """account=me array=0-11%3 constraint=a100 cpus-per-task=8 exclude=n7 gpus-per-node=4 job-name=bam-1
        mem=1536M nodes=2 ntasks-per-node=4 open-mode=append partition=gpu qos=long requeue signal=USR2@60 time=90"""
    given = [line.removeprefix("#SBATCH --") for line in text if line.startswith("#SBATCH")]
    assert [word for word in given if not word.startswith(("output=", "error="))] == wanted.split()
    assert "module load cuda" in text
    assert "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}" in text
    assert " --kill-on-bad-exit=1 python job" in text[-1]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_job_that_is_still_starting_hears_no_signal(number):
    ours = "import os, signal; signal.raise_signal(signal.Signals[os.environ['NUMBER']]); print('it lives')"
    words = f'{python_command()} -u -c "{ours}"'
    done = subprocess.run(["bash", "-c", words], env={"NUMBER": number}, capture_output=True, text=True, timeout=60)
    assert done.stdout == "it lives\n", done.stderr
