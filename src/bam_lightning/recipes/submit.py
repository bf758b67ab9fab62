"""Write a GLUE leaderboard submission: ``bam submit``."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.job_config import Config
from bam_lightning.config.validation import suggest
from bam_lightning.data.examples import TaskSplit, load_unlabelled
from bam_lightning.data.task import task_from_config
from bam_lightning.inference import glue_submission
from bam_lightning.recipes.context import Context
from bam_lightning.store.job_records import FINISHED, read_records
from bam_lightning.store.run_spec import TEST, PredictionRequest
from bam_lightning.store.run_store import Store, load_logits


@dataclass(kw_only=True)
class SubmitOptions:
    """Options of ``bam submit``, besides those of ``bam train``; see its ``--help``."""

    run: Sequence[str] = ()
    best_of: str | None = None
    output: str = "submission.zip"
    partial: bool = False


class MissingTestSet(ConfigError):
    """A test set is missing, or no Run has its head. ``partial`` leaves such test sets out."""


class BestRun(NamedTuple):
    """The Run of ``n_candidates`` with the same tasks that has the highest mean dev score, a fraction."""

    id: str
    tasks: tuple[str, ...]
    score: float
    n_candidates: int


def best_runs(store: Store, experiment: str, config: Config) -> list[BestRun]:
    """Return, for each set of tasks that an experiment's last stage trains, its best Run on dev (section 5).

    A multi-task Run is judged by the mean headline score over its tasks that count in the average, a single-task Run by
    its task. So of 20 multi-task Runs one is returned, and of 10 single-task Runs for each of 8 tasks eight are.

    Raises:
        ConfigError: If the experiment has no finished job at the config's scale and fidelity, or its jobs were scored
            on different data.
    """
    records = [job for job in read_records(store) if job.state == FINISHED]
    jobs = [
        job
        for job in records
        if (job.experiment, job.scale, job.fidelity) == (experiment, config.scale, config.fidelity)
    ]
    if not jobs:
        known = sorted({f"{job.experiment} ({job.scale}, {job.fidelity})" for job in records})
        raise ConfigError(
            f"best-of: no finished job of experiment {experiment!r} with scale={config.scale} "
            f"fidelity={config.fidelity} in {store.root}; finished: {', '.join(known) or 'none'}"
        )
    if differing := sorted({task for job in jobs for task in job.data if job.data[task] != jobs[0].data.get(task)}):
        raise ConfigError(
            f"best-of: the jobs of experiment {experiment!r} were scored on different data of {', '.join(differing)}, "
            "so their scores cannot be compared; name the Runs with --run"
        )
    candidates: dict[tuple[str, ...], dict[str, float]] = {}
    for job in jobs:
        for run_id in job.last:
            metrics = store.manifest(run_id)["metrics"]
            tasks = tuple(task for task in job.metrics if task in metrics)
            counted = [task for task in tasks if task in job.average] or tasks
            score = statistics.fmean(metrics[task][job.metrics[task]] for task in counted)
            candidates.setdefault(tasks, {})[run_id] = -math.inf if math.isnan(score) else score
    return [
        BestRun(best := max(scores, key=lambda run_id: scores[run_id]), tasks, scores[best], len(scores))
        for tasks, scores in candidates.items()
    ]


def submission(options: SubmitOptions, config: Config) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return task -> words of its file, and task -> why it is missing.

    Raises:
        BamError: If a Run is unknown, a test set is not the official one, no Run predicts anything, or (without
            ``partial``) a test set is missing.
    """
    store = Store(config.paths.store, create=False)
    for run_id in options.run:
        if not store.finished(run_id):
            known = sorted(path.name for path in (store.root / "runs").glob("*/"))
            raise ConfigError(f"no Run {run_id!r} in {store.root}{suggest(run_id, known)}; `bam runs` lists them")
    words = {"wnli": [glue_submission.MAJORITY] * glue_submission.FILES["wnli"].rows}
    missing: dict[str, str] = {}
    sources: dict[str, tuple[PredictionRequest, str, TaskSplit]] = {}
    for name in glue_submission.FILES:
        if name == "wnli":
            continue
        try:
            sources[name] = _source(name, options.run, config, store)
        except MissingTestSet as error:
            if not options.partial:
                raise
            missing[name] = str(error)
    if not sources:
        heads = sorted({task for run_id in options.run for task in store.manifest(run_id)["tasks"]})
        raise ConfigError(
            f"nothing to submit: the Runs have heads of {', '.join(heads)}; the first test set is missing because: "
            f"{next(iter(missing.values()))}"
        )
    context = Context(config, {}, {}, store, Path(), tests={name: rows for name, (_, _, rows) in sources.items()})
    for name, (request, run_id, rows) in sources.items():
        words[name] = _words(request, run_id, rows, context)
    return words, missing


def _source(name: str, runs: Sequence[str], config: Config, store: Store) -> tuple[PredictionRequest, str, TaskSplit]:
    """Return what to predict, with which Run, on which rows."""
    task = config.suite.tasks.get(name)
    if task is None or task.test_split is None:
        raise MissingTestSet(f"the suite has no test set {name!r}; a submission needs scale=small, base or paper")
    head = task.head_of or name
    candidates = [run_id for run_id in runs if head in store.manifest(run_id)["tasks"]]
    if not candidates:
        raise MissingTestSet(f"test set {name!r}: none of the Runs {', '.join(runs)} has a head of {head!r}")
    store.check_head(candidates[0], head, config.suite.tasks[head].head, "run")
    try:
        rows = load_unlabelled(name, task_from_config(name, task, config.data), task.test_split, in_order=True)
    except FileNotFoundError as error:
        raise MissingTestSet(str(error)) from error
    glue_submission.check_rows(name, len(rows.keys))
    return PredictionRequest(name, head, TEST), candidates[0], rows


def _words(request: PredictionRequest, run_id: str, rows: TaskSplit, context: Context) -> list[str]:
    if not context.store.has_predictions(run_id, request.task, TEST, rows.keys):
        from bam_lightning.recipes.fit import backfill_predictions

        print(f"Run {run_id} predicts {request.task}: {len(rows.keys):,} rows", file=sys.stderr)
        backfill_predictions(run_id, [request], context)
    from bam_lightning.recipes.predictions import decode_logits

    logits = load_logits(context.store, run_id, request.task, TEST, rows.keys, rows.texts)
    task = context.config.suite.tasks[request.head]
    values = decode_logits(request.head, logits, context.config)
    if task.regression:
        return glue_submission.score_words([float(value) for value in values])
    return glue_submission.class_words(request.task, [int(value) for value in values], task.head.label_names)


def job(options: SubmitOptions, words_of_train: Sequence[str]) -> None:
    """Write the submission of a command line."""
    if bool(options.run) == (options.best_of is not None):
        raise ConfigError(
            "give either --run RUN_ID, as in the Plan of the job that trained it, or --best-of EXPERIMENT, which takes "
            f"its best Runs on dev; got {'both' if options.run else 'neither'}"
        )
    if not any(word.startswith("scale=") for word in words_of_train):
        words_of_train = ["scale=paper", *words_of_train]  # GLUE from the hub; the Run brings its own encoder
    config = compose(words_of_train)
    if options.best_of is not None:
        chosen = best_runs(Store(config.paths.store, create=False), options.best_of, config)
        for run in chosen:
            print(
                f"best of {run.n_candidates}: Run {run.id} ({', '.join(run.tasks)}), dev {100 * run.score:.1f}",
                file=sys.stderr,
            )
        options = replace(options, run=[run.id for run in chosen])
    words, missing = submission(options, config)
    path = Path(options.output)
    glue_submission.write_zip(path, words)
    for name, why in missing.items():
        print(f"missing: {glue_submission.FILES[name].name} ({why})", file=sys.stderr)
    print(f"{len(words)} of {len(glue_submission.FILES)} files: {path.resolve()}")
