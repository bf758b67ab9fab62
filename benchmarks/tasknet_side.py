"""tasknet's side, for the Python of an environment that has it: ``tasknet_side.py TASKS BATCH STEPS SHARE PRECISION``.

It trains on the same rows of GLUE as ``ours``, with the same encoder, minibatch, length, precision and threads. This
library is not imported: the two need not fit into one environment. Prints JSON as its last line."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from typing import Any
from unittest import mock

import datasets
import torch
import transformers

with mock.patch("evaluate.load"):  # importing tasknet asks the hub for a metric of tags, which is not used here
    import tasknet

PAIRS = {"mrpc": True, "stsb": True, "rte": True, "cola": False}
WARM = 8  # steps before the clock starts, as on the other side


class Counted(tasknet.Model):
    """tasknet's model, which counts the rows and the real tokens that it is called with."""

    rows = tokens = 0

    def forward(self, task: torch.Tensor, **inputs: Any) -> Any:
        """Return what the model of the minibatch's task returns."""
        self.rows += len(inputs["labels"])
        self.tokens += int(inputs["attention_mask"].sum())
        return super().forward(task, **inputs)


class Noted(transformers.TrainerCallback):
    """Notes when ``WARM`` steps are done, and when all are; counts from there."""

    def __init__(self, model: Counted) -> None:
        self.model, self.begun, self.ended, self.cpu = model, 0.0, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time."""
        self.ended = time.perf_counter()
        if state.global_step == WARM:
            self.begun, self.model.rows, self.model.tokens = self.ended, 0, 0
            self.cpu = time.process_time()


def read_task(name: str, root: str, share: int) -> Any:
    """Return the first of so many equal parts of a task's training rows as a task of tasknet."""
    rows = datasets.Dataset.from_parquet(f"{root}/{name}/train.parquet")
    rows = rows.select(range(len(rows) // share))
    splits = datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows))
    columns = {"s1": "sentence1", "s2": "sentence2"} if PAIRS[name] else {"s1": "sentence", "s2": ""}
    return tasknet.Classification(splits, name=name, y="label", **columns)


def main(names: str, batch: str, steps: str, share: str, precision: str) -> None:
    """Train, and print what was found."""
    encoder, root = os.environ["BAM_ENCODER_DIR"], os.environ["BAM_GLUE_DIR"]
    tasks = [read_task(name, root, int(share)) for name in names.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "model_name": encoder,
            "torch_dtype": torch.float32,
            "max_length": 128,
            "output_dir": folder,
            "per_device_train_batch_size": int(batch),
            "learning_rate": 5e-5,
            "max_steps": int(steps),
            "weight_decay": 0.01,
            "use_cpu": True,
            "bf16": precision == "bf16-mixed",
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }
        model = Counted(tasks, options)
        trainer = tasknet.Trainer(model, tasks, options)
        clock = Noted(model)
        trainer.add_callback(clock)
        trainer.train()
    seconds, cpu = clock.ended - clock.begun, time.process_time() - clock.cpu
    print(
        json.dumps(
            {
                "seconds": seconds,
                "steps": int(steps) - WARM,
                "tokens": model.tokens,
                "rate": model.tokens / seconds,
                "row_rate": model.rows / seconds,
                "rows_a_cpu_second": model.rows / cpu,
                "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
