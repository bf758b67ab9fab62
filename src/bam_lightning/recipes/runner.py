"""Run a recipe: load the data, plan the Runs, train those that the store does not have, report."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from bam_lightning.analysis import job_report
from bam_lightning.analysis.terminal import View, show
from bam_lightning.config.data_config import EncoderConfig, PretrainingConfig
from bam_lightning.config.exceptions import ConfigError, StoreError, TeacherError, TrainingError
from bam_lightning.config.hub import encoder_fingerprint
from bam_lightning.config.job_config import Config, StageKind, all_stages, for_stage
from bam_lightning.config.recheck import recheck
from bam_lightning.config.teacher_config import teacher_sources
from bam_lightning.config.trainer_config import LoggerKind
from bam_lightning.config.wandb_server import online
from bam_lightning.data import row_cache
from bam_lightning.data.examples import TaskExamples, TaskSplit, load_split, load_unlabelled, read_each, share_rows
from bam_lightning.data.leaks import count_leaks
from bam_lightning.data.readers import read_texts
from bam_lightning.data.task import task_from_config
from bam_lightning.models.pooling import Pooling, choose_pooling, family_of
from bam_lightning.recipes import teachers, tuning
from bam_lightning.recipes.context import Context, Others
from bam_lightning.recipes.job_file import save_job
from bam_lightning.recipes.planner import more_steps, plan_runs, required_predictions, uses_tuned_decay
from bam_lightning.recipes.processes import launch, lead_or_follow
from bam_lightning.store import job_records, tuned_decays
from bam_lightning.store.atomic_io import delete_abandoned, write_text
from bam_lightning.store.run_spec import COLUMN, TRAIN, DataSummary, EncoderSummary, PredictionRequest, Run
from bam_lightning.store.run_store import Store

WAIT_SECONDS = 1.0  # between checks of Runs that other processes are training

Loaded = tuple[dict[str, TaskExamples], dict[tuple[tuple[str, ...], int], list[str]], DataSummary]


def run_recipe(config: Config, output: str | Path) -> dict[str, Any]:
    """Train the recipe of ``config``, write its results to ``output`` and return them.

    Finished Runs are taken from ``config.paths.store``. Data, options and teachers are checked before the first Run is
    trained. If ``trainer.devices`` is above 1 and neither srun nor torchrun started this process, the ranks are started
    here. Under srun or torchrun every rank calls this function, and all get the results of rank 0.

    Raises:
        DataError: For invalid data; the message names task, row and column. ``TasksError`` for several tasks.
        TrainingError: For a non-finite loss, or a rank that failed.
        TeacherError: If a teacher learned nothing; the Runs that do not need it are trained first.
        BamError: For other user errors, such as a hub that cannot be reached.
    """
    from bam_lightning.training.distributed import launcher

    recheck(config)
    output = Path(output)
    if launcher():
        return lead_or_follow(config, output, _lead)
    if config.trainer.devices * config.trainer.num_nodes > 1:
        return launch(config, output)
    return _lead(config, output)


def _lead(config: Config, output: Path, others: Others | None = None) -> dict[str, Any]:
    view = View(config.run.progress)
    with view.messages():
        loaded = _choose_decays(config, output, others, view) if config.optimization.decays else None
        context, facts, runs, error = plan_recipe(config, output, view, others, loaded)
        save_job(config, output)
        runs = _execute_plan(runs, facts, error, context, view)
        return _report(config, runs, context, output)


def _choose_decays(config: Config, output: Path, others: Others | None, view: View) -> Loaded | None:
    """Choose the layer-wise decay of each single task that has none yet; its trials' Runs may be the teachers.

    Returns:
        What ``load_data`` returned, unless decays were chosen since.
    """
    loaded = load_data(config)
    facts = loaded[2]
    tasks, values = tuning.untuned_tasks(config, facts), config.optimization.decays
    if not tasks:
        return loaded
    view.say(_to_choose(tasks, values))
    tuning.choose(
        config, facts, tasks, values, [config.teacher_seed], lambda trial, name: _lead(trial, output / name, others)
    )
    return None


def _to_choose(tasks: Sequence[str], values: Sequence[float]) -> str:
    return (
        f"optimization.decays: {', '.join(tasks)} alone, with each of the layer-wise decays "
        f"{', '.join(f'{value:g}' for value in values)}; the best on each dev set is kept in the store"
    )


def plan_recipe(
    config: Config, output: Path, view: View, others: Others | None = None, loaded: Loaded | None = None
) -> tuple[Context, DataSummary, list[Run], TeacherError | None]:
    """Read and check the data, and plan and print the Runs; return them with what they share; see ``_plan``."""
    store = Store(config.paths.store)
    for folder in (store.root, Path(config.paths.cache).expanduser()):
        delete_abandoned(folder)
    rows, texts, facts = loaded or load_data(config)
    _check_teachers(config, rows, store)
    facts, runs, error = _plan(config, rows, facts, store)
    context = Context(config, rows, texts, store, output, view.step, test_rows(config), scored_rows(config), others)
    finished = [run.id for run in runs if store.finished(run.id)]
    view.plan(runs, finished, [run.id for run in runs if store.has_checkpoint(run.id)])
    for run in runs:
        if uses_tuned_decay(run, config, facts):
            view.say(f"{run.label}: layer-wise decay {run.hyper.layerwise_decay:g}, chosen on its dev set")
    if tasks := tuning.untuned_tasks(config, facts):  # a check: a job has chosen before it plans
        view.say(f"trained before these: {_to_choose(tasks, config.optimization.decays)}")
    for stage in facts.stages:
        own = for_stage(config, stage)
        view.say(f"stage {stage}: encoder {own.encoder.name}, texts cut at {own.data.max_length} tokens")
    notes = [note for examples in rows.values() for note in examples.notes]
    for note in (*notes, *teachers.notes(rows), *_leaks(config, rows, facts)):
        view.say(note)
    for line in warn_undertrained_students(runs, config):
        view.say(line)
    if config.encoder.pooling is None:
        view.say("encoder.pooling: {} ({})".format(*_chosen_pooling(config.encoder)))
    return context, facts, runs, error


def _leaks(config: Config, rows: Mapping[str, TaskExamples], facts: DataSummary) -> list[str]:
    """Return what is to be said of dev rows that stand in training rows; it is counted once for the same rows."""
    path = Path(config.paths.cache) / f"leaks-{_hash(json.dumps(sorted(facts.fingerprints.items())))}.json"
    with suppress(OSError, ValueError):
        return [str(line) for line in json.loads(path.read_text(encoding="utf-8"))]
    lines = count_leaks(rows)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(lines))
    return lines


def _execute_plan(
    runs: list[Run], facts: DataSummary, error: TeacherError | None, context: Context, view: View
) -> list[Run]:
    """Train the Runs, replace those that are rejected as teachers by Runs of other seeds, and return them all.

    The job's record in the store is kept up to date. An ``error`` is raised after the Runs that it does not stop.
    """
    store, config = context.store, context.config
    record = job_records.make_record(config, runs, facts, context.output)
    held = ExitStack()
    _hold(held, store, record)
    job_records.save_record(store, record, job_records.RUNNING)
    view.start([run for run in runs if not store.finished(run.id)])
    try:
        if not all(store.finished(run.id) for run in runs):
            with _uncollected():
                from bam_lightning.recipes.fit import check_trainable, cut_notes

            check_trainable(config)
            _say_offline(context, view)
            for line in cut_notes(context):
                view.say(line)
        while error is None and not _train(runs, context, view):
            facts, runs, error = _plan(config, context.rows, facts, store)
            if error is not None:
                break
            for reason in facts.refused.values():
                view.say(f"{reason}; another seed teaches in its place")
            job_records.delete_record(store, record)
            record = job_records.make_record(config, runs, facts, context.output)
            _hold(held, store, record)
            job_records.save_record(store, record, job_records.RUNNING)
        if error is not None:
            _train_others(runs, context, view)
            raise error
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        with suppress(OSError):  # a failing disk may be the cause; report the first error
            job_records.save_record(
                store,
                record,
                job_records.STOPPED if stopped else job_records.FAILED,
                str(error) or type(error).__name__,
            )
        raise
    finally:
        view.close()
        held.close()
    job_records.save_record(store, record, job_records.FINISHED)
    return runs


def _hold(held: ExitStack, store: Store, record: job_records.JobRecord) -> None:
    """Hold a job's lock in place of the one before, so that no list calls the job stopped while it trains."""
    held.close()
    with suppress(Timeout, StoreError):  # the same job runs twice, or the store may only be read
        held.enter_context(job_records.job_lock(store, record).acquire())


def _train_others(runs: Sequence[Run], context: Context, view: View) -> None:
    """Train the Runs that need no rejected teacher."""
    done = False
    while not done:
        reasons = teachers.rejected_teachers(runs, context.config, context.rows, context.store)
        blocked = set(reasons)
        for run in runs:  # each after those that it needs
            if blocked & set(run.dependencies):
                blocked.add(run.id)
        others = [run for run in runs if run.id not in blocked]
        missing = [run.label for run in others if not context.store.finished(run.id)]
        if missing:
            view.say(f"{'; '.join(reasons.values())}. First the Runs that need none of them: {', '.join(missing)}")
        done = _train(others, context, view)


def warn_undertrained_students(runs: Sequence[Run], config: Config) -> list[str]:
    """Return a warning for each student with fewer optimizer steps than one of its teachers."""
    steps = {run.id: run.steps for run in runs}
    return [
        f"{run.label} has {run.steps} optimizer steps, a teacher of its {most}; "
        f"{more_steps(run, most, config)} gives it as many"
        for run in runs
        if (most := max((steps.get(run_id, 0) for ids in run.teachers.values() for run_id in ids), default=0))
        > run.steps
    ]


def _say_offline(context: Context, view: View) -> None:
    """Say how to send curves to W&B where they are kept on this machine."""
    wanted = context.config.logger.kind is LoggerKind.wandb and os.environ.get("WANDB_MODE") != "disabled"
    if wanted and not online():
        view.say(
            "W&B: nobody is logged in, or its server is out of reach, so curves are kept here; to send them: "
            f"wandb login && wandb sync {shlex.quote(str(context.output / 'wandb'))}/offline-run-*"
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Disable the garbage collector while torch is imported; its scans take 1 of 4 seconds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count():
            gc.freeze()
        if enabled:
            gc.enable()


def test_rows(config: Config) -> dict[str, TaskSplit]:
    """Return the unlabelled rows of the test splits and of diagnostics such as AX if ``data.test`` is set."""
    if not config.data.test:
        return {}
    return {
        name: load_unlabelled(name, task_from_config(name, task, config.data), task.test_split)
        for name, task in config.suite.selected().items()
        if task.test_split is not None and task.path != "generated"
    }


def scored_rows(config: Config) -> dict[str, TaskSplit]:
    """Return the dev rows of tasks that another task's head scores, as MNLI's mismatched ones, where they are there."""
    found = {}
    for name, task in config.suite.selected().items():
        if task.head_of is not None and task.dev_split is not None and task.path != "generated":
            scorer = config.suite.tasks[task.head_of]
            described = task_from_config(name, replace(task, head=scorer.head, metric=scorer.metric), config.data)
            with suppress(FileNotFoundError):  # a local folder need not have them
                found[name] = load_split(name, described, "dev", task.dev_split)
    return found


def _plan(
    config: Config, rows: Mapping[str, TaskExamples], facts: DataSummary, store: Store
) -> tuple[DataSummary, list[Run], TeacherError | None]:
    """Plan the recipe, again until no finished Run in it is rejected as a teacher; return the facts and the Runs.

    Where no seed is left to teach, these are the last Runs that could be planned, with the error that says so.
    """
    runs = plan_runs(config, facts)
    while more := teachers.rejected_teachers(runs, config, rows, store):
        facts = replace(facts, refused={**facts.refused, **more})
        try:
            runs = plan_runs(config, facts)
        except TeacherError as error:
            return facts, runs, error
    return facts, runs, None


def _check_teachers(config: Config, rows: Mapping[str, TaskExamples], store: Store) -> None:
    for name, stage in config.recipe.stages.items():
        start = stage.init_from
        if start and start not in config.recipe.stages and not store.finished(start):
            raise ConfigError(
                f"recipe.stages.{name}.init_from names Run {start!r}, which is not a finished Run in {store.root}"
            )
    for task, value in config.teachers.items():
        key = f"teachers.{task}"
        for source in teacher_sources(key, value):
            if not source.is_run:
                continue
            run_id = source.path
            if not store.finished(run_id) or task not in store.manifest(run_id)["tasks"]:
                raise ConfigError(
                    f"{key} names Run {run_id!r}, which is not a finished Run of {task!r} in {store.root}; "
                    "see the Plan of the job that trained it"
                )
            store.check_head(run_id, task, config.suite.tasks[task].head, key)
            reason = teachers.rejection_reason(run_id, [task], key, config, rows, store)
            if reason:
                raise TrainingError(f"{reason}; give another, or let it teach with distillation.teacher_margin=null")


def load_data(config: Config) -> Loaded:
    """Read and check all rows and texts; return them with the summary that the planner needs."""
    tasks, cache = config.suite.trained(), Path(config.paths.cache)
    rows = read_each(tasks, lambda name: row_cache.load(name, tasks[name], config.data, cache))
    columns = read_each(config.teachers, lambda name: teachers.load_columns(name, config, rows[name]))
    rows |= {name: rows[name]._replace(teachers=found) for name, found in columns.items()}
    fingerprints = {name: task.fingerprint for name, task in rows.items()}
    stages = {name: stage.encoder for name, stage in all_stages(config).items() if stage.encoder is not None}
    texts: dict[tuple[tuple[str, ...], int], list[str]] = {}
    for settings in (config.encoder.pretraining, *(encoder.pretraining for encoder in stages.values())):
        if settings.source not in texts:
            texts[settings.source] = pretraining_texts(settings, config.data.seed)

    def summarize(encoder: EncoderConfig) -> EncoderSummary:
        lines = texts[encoder.pretraining.source]
        digest = _encoder_digest(encoder)
        decays = tuned_decays.read(config, fingerprints, digest)
        pooling = encoder.pooling or _chosen_pooling(encoder).name
        return EncoderSummary(digest, len(lines), _hash("\n".join(lines)) if lines else "", decays, pooling)

    facts = DataSummary(
        sizes={name: len(task.train.labels) for name, task in rows.items()},
        fingerprints=fingerprints,
        **summarize(config.encoder)._asdict(),
        columns={
            name: tuple(column.digest if column else "" for column in task.teachers)
            for name, task in rows.items()
            if task.teachers
        },
        stages={name: summarize(encoder) for name, encoder in stages.items()},
        precision=_precision(config),
        shared=_shared_rows(rows),
        labelled={
            name: int(task.train.has_gold.sum()) for name, task in rows.items() if task.train.has_gold is not None
        },
    )
    return rows, texts, facts


def _shared_rows(rows: Mapping[str, TaskExamples]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return source -> task -> ``[N, 2]`` which of its rows the task has, and which of these have gold."""
    groups: dict[str, list[str]] = {}
    for name, examples in rows.items():
        if examples.task.row_group:
            groups.setdefault(examples.task.row_group, []).append(name)
    found: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for source, names in groups.items():
        for name, numbers in share_rows({name: rows[name].train for name in names}).items():
            gold = rows[name].train.has_gold
            has_gold = np.ones(len(rows[name].train.keys), dtype=bool) if gold is None else gold
            found.setdefault(source, {})[name] = np.stack([numbers >= 0, (numbers >= 0) & has_gold[numbers]], axis=1)
    return found


def _encoder_digest(encoder: EncoderConfig) -> str:
    """Return what identifies the encoder that Runs start from."""
    sizes = _hash(json.dumps(encoder.model_config, sort_keys=True))
    if not encoder.path:
        return sizes
    found = encoder_fingerprint(encoder.path, encoder.revision)
    return f"{encoder._target_} {sizes} {found}" if encoder._target_ else found


def _chosen_pooling(encoder: EncoderConfig) -> Pooling:
    if encoder._target_:
        return choose_pooling(None, "", None)
    family = encoder.model_config.get("model_type") or family_of(str(encoder.path), encoder.revision)
    return choose_pooling(None, str(family), encoder.path, encoder.revision)


def _precision(config: Config) -> str:
    """Return the precision of the Runs; ``auto`` depends on the device."""
    if config.trainer.precision != "auto":
        return str(config.trainer.precision)
    from bam_lightning.models.hardware import precision

    return precision(config.trainer)


def pretraining_texts(settings: PretrainingConfig, seed: int) -> list[str]:
    """Return the texts of ``encoder.pretraining``: the user's files, or generated sentences."""
    if not settings.wanted:
        return []
    if settings.text:
        return read_texts(settings.text)
    from bam_lightning.data.demo_tasks import generate_sentences

    return generate_sentences(settings.sentences, seed)


def _train(runs: Sequence[Run], context: Context, view: View) -> bool:
    """Train the Runs in order, and skip those that another process is training until it has finished.

    Return ``False`` as soon as a finished Run is rejected as a teacher.
    """
    open_runs, waits = list(runs), False
    while open_runs:
        before = len(open_runs)
        for run in list(open_runs):
            if all(context.store.finished(need) for need in run.dependencies) and _ensure_run(run, context, view):
                open_runs.remove(run)
                if teachers.rejected_teachers([run], context.config, context.rows, context.store):
                    return False
        if len(open_runs) == before:
            _check_obtainable(open_runs, context.store)
            if not waits:
                view.say(f"waits for {', '.join(run.label for run in open_runs)}, which another process is training")
            waits = True
            if context.others:
                context.others.keep_alive()
            time.sleep(WAIT_SECONDS)
    return True


def _check_obtainable(runs: Sequence[Run], store: Store) -> None:
    """Raise ``StoreError`` if a Run needs another that is gone and that nobody trains; else the wait has no end."""
    waiting = {run.id for run in runs}
    for run in runs:
        for need in run.dependencies:
            if need not in waiting and not store.finished(need) and not store.locked(need):
                raise StoreError(
                    f"{run.label} needs Run {need}, which is no longer in {store.root} and which no process trains; "
                    "if this recipe trains it, the same command does so again, else name another teacher"
                )


def _ensure_run(run: Run, context: Context, view: View) -> bool:
    """Make sure that the store has a Run and its predictions; return ``False`` if another process holds its lock."""
    store = context.store
    if store.finished(run.id) and not _missing(run.id, required_predictions(run, context.config), context):
        return True  # also in a store that this user may only read
    try:
        with store.lock(run.id).acquire():
            if not store.finished(run.id):
                from bam_lightning.recipes.fit import fit_run

                for task, names in run.teachers.items():
                    for teacher in () if task in run.folded else names:  # those of folds have predicted theirs
                        if not teacher.startswith(COLUMN):
                            _backfill_predictions(teacher, [PredictionRequest(task, task, TRAIN)], context, view)
                view.begin(run)
                view.done(run, fit_run(run, context))
            else:
                _backfill_predictions(run.id, required_predictions(run, context.config), context, view)
    except Timeout:
        return False
    return True


def _missing(run_id: str, requests: Sequence[PredictionRequest], context: Context) -> list[PredictionRequest]:
    """Return the requests whose predictions the store does not have."""
    return [
        request
        for request in requests
        if not context.store.has_predictions(run_id, request.task, request.split, context.rows_of(request).keys)
    ]


def _backfill_predictions(run_id: str, requests: Sequence[PredictionRequest], context: Context, view: View) -> None:
    """Predict with a finished Run what is missing: it was not a teacher when it was trained, or rows were added."""
    missing = _missing(run_id, requests, context)
    if not missing:
        return
    from bam_lightning.recipes.fit import backfill_predictions

    view.say(f"Run {run_id} predicts {', '.join(f'{request.task} ({request.split})' for request in missing)}")
    backfill_predictions(run_id, missing, context)


def _report(config: Config, runs: Sequence[Run], context: Context, output: Path) -> dict[str, Any]:
    found = job_report.results(config, runs, context.store)
    job_report.save(output, found)
    job_report.plot(output, config, found, context.store)
    if found["average"]:
        from bam_lightning.data.outcomes import majority_score

        splits = {**{name: task.dev for name, task in context.rows.items()}, **context.scored}
        scorers = {name: config.suite.scored_as(name) for name in splits}
        base = {
            name: majority_score(scorers[name].metric, split, scorers[name].head.label_names)
            for name, split in splits.items()
        }
        from bam_lightning.recipes.predictions import differences_over_rows

        last = [run for run in runs if run.stage == runs[-1].stage and run.kind is StageKind.finetune]
        over_rows = {task: text for run in last for task, text in differences_over_rows(run, context).items()}
        dev_rows = {name: len(split.keys) for name, split in splits.items()}
        head, lines = job_report.table(config, found, base, dev_rows, over_rows)
        show(f"{found['recipe']}, scale {found['scale']}, seed {found['seed']}: dev scores x 100", head, lines, sums=1)
        for line in job_report.no_better_than_majority(config, found, base):
            print(line)
    for line in job_report.next_commands(config, runs[-1]):
        print(line)
    print(output.resolve())
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
