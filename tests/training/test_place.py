"""Which process this is: what srun, torchrun and a job itself put into the environment."""

import pytest

from bam_lightning.config.exceptions import TrainingError
from bam_lightning.config.job_config import TrainerConfig
from bam_lightning.training.place import FIRST, Place, check, here

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "gpu1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[01-02]",
    "SLURM_JOB_ID": "1000",
    "SLURM_STEP_ID": "2",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Place()),
        (TORCHRUN, Place(5, 8, 1, "gpu1", 29500, "torchrun")),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, Place()),
        (TORCHRUN | {FIRST: "77"}, Place(5, 8, 1, "gpu1", 29500, "the job")),
        (SRUN, Place(5, 8, 1, "gpu01", 21_002, "srun")),
        (SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7"}, Place(5, 8, 1, "10.0.0.1", 7, "srun")),
        # python called by a batch script of 8 tasks, without srun: one process, which may start others
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1000"}, Place()),
        (SRUN | TORCHRUN | {"RANK": "6"}, Place(6, 8, 1, "gpu1", 29500, "torchrun")),  # torchrun within a step
    ],
)
def test_the_environment_says_which_process_this_is(environ, expected):
    assert here(environ) == expected


def test_all_tasks_of_a_step_meet_at_one_port_and_those_of_another_elsewhere():
    ports = {here(SRUN | {"SLURM_PROCID": str(rank)}).port for rank in range(8)}
    assert len(ports) == 1
    assert here(SRUN | {"SLURM_STEP_ID": "3"}).port not in ports


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        (
            TrainerConfig(devices=2),
            Place(0, 4, launcher="torchrun"),
            "torchrun has started 4 processes, but trainer.devices=2 on trainer.nodes=1 are 2; give the processes of a "
            "node and the number of nodes",
        ),
        (
            TrainerConfig(devices=2, nodes=2),
            Place(),
            "trainer.nodes is 2, but nothing has started a process on the other nodes; call the command by srun or "
            "torchrun, or leave trainer.nodes out",
        ),
    ],
)
def test_a_number_of_processes_that_cannot_be_is_refused(settings, place, message):
    with pytest.raises(TrainingError) as raised:
        check(settings, place)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        (TrainerConfig(), Place()),
        (TrainerConfig(devices=4), Place()),
        (TrainerConfig(devices=2, nodes=2), Place(3, 4, launcher="srun")),
    ],
)
def test_processes_that_are_there_or_can_be_started_are_taken(settings, place):
    check(settings, place)
