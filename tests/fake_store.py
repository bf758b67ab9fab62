"""A store that is filled by hand, so that the numbers of a table can be worked out on paper."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bam_lightning.store.job_records import JobRecord
from bam_lightning.store.run_store import Store

VERSIONS = {"bam-lightning": "0.2.0", "torch": "2.13.0", "transformers": "5.23.0"}
MACHINE = {"device": "AMD EPYC", "device_kind": "cpu", "precision": "32-true", "threads": 2, "processes": 1}


class FakeStore:
    """A store with jobs of one Run each, or of one Run per task."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        (self.store.root / "jobs").mkdir()
        self.count = 0

    def add(
        self,
        experiment: str,
        seed: int,
        scores: dict[str, Any],
        done: bool = True,
        manifest: dict[str, Any] | None = None,
        **fields: Any,
    ) -> JobRecord:
        """Add a job with one Run.

        Args:
            scores: Task -> accuracy, or task -> metric -> score, the headline metric first.
            done: Whether the Run is finished.
            manifest: Fields of the Run's manifest that differ from the usual ones.
            fields: Fields of the record that differ from the usual ones.
        """
        self.count += 1
        run_id = f"{experiment}-{self.count}"
        metrics = {task: value if isinstance(value, dict) else {"accuracy": value} for task, value in scores.items()}
        values = {
            "experiment": experiment,
            "recipe": experiment,
            "scale": "demo",
            "fidelity": "paper",
            "seed": seed,
            "teacher_seed": None,
            "stages": {"last": [run_id]},
            "metrics": {task: next(iter(value)) for task, value in metrics.items()},
            "average": list(scores),
            "data": dict.fromkeys(scores, "d"),
            "encoder": "tiny",
            "settings": "s",
            "algorithm": 4,
            "output": "out",
            "state": "finished",
            "changed": f"2026-01-01T00:{self.count:02}",
        } | fields
        record = JobRecord(**values)
        if done:
            self.add_run(run_id, seed, metrics, **(manifest or {}))
        self.write(record)
        return record

    def add_run(self, run_id: str, seed: int, metrics: dict[str, dict[str, float]], **fields: Any) -> None:
        """Add a finished Run with its scores and a history of training."""
        history = [{"step": step, "progress": step / 4, "lam": step / 4, "loss": 1 / (step + 1)} for step in range(5)]
        (self.store.staging_dir(run_id) / "history.json").write_text(json.dumps(history))
        manifest = {
            "stage": "last",
            "tasks": list(metrics),
            "seed": seed,
            "metrics": metrics,
            "teachers": {},
            "init_from": None,
            "spec": {"tasks": {task: {"metric": next(iter(values))} for task, values in metrics.items()}},
            "finished": "2026-01-01T00:00:00+00:00",
            "versions": VERSIONS,
            **MACHINE,
        } | fields
        self.store.commit(run_id, manifest)

    def write(self, record: JobRecord) -> Path:
        """Write the file of a record as it is."""
        path = self.store.root / "jobs" / f"{record.id}.json"
        path.write_text(json.dumps(asdict(record)))
        return path
