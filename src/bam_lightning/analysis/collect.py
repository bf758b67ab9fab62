"""Collect the rows of a table from a store: which jobs belong together, and what each seed scored.

Jobs of one row may differ in their seeds only. Jobs with other data, settings, code, precision or teachers are another
variant, which is left out and named. Differences in hardware and in other packages are named too, but do not separate
jobs.

Imports no torch."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bam_lightning.analysis.table_config import PAPER_TASKS, TableConfig
from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.validation import suggest
from bam_lightning.store.job_records import FINISHED, JobRecord
from bam_lightning.store.run_store import Store

AVERAGE = "average"
GLUE = "GLUE"
CODE = ("bam-lightning", "torch", "transformers")  # packages whose versions must agree
HARDWARE = ("device_kind", "device", "threads", "processes")  # may differ: results are equal up to rounding
STREAM = ("kind", "order", "seed", "steps", "batch_size", "sampler")  # fields of a spec that decide order and heads
# GLUE averages two metrics on three tasks, and MNLI's matched and mismatched sets (Wang et al. 2019, section 3).
GLUE_METRICS = {
    "cola": ("matthews",),
    "mrpc": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("accuracy", "f1"),
}
MISMATCHED = "mnli_mm"


@dataclass
class Row:
    """One experiment of a table.

    Attributes:
        name: The experiment.
        scores: Column -> seed -> score x 100. With ``mixed``, the key is the position in ``jobs`` instead of the seed,
            since a seed may come twice.
        columns: Column -> the tasks that it is the mean of.
        notes: What is missing or unusual.
        streams: Seed -> hash of what decides the order of examples and the initial heads; multi-task Runs only.
        teachers: Task -> seed -> (id of the teacher, its score x 100).
    """

    name: str
    label: str
    jobs: list[JobRecord] = field(default_factory=list)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    mixed: bool = False
    streams: dict[int, str] = field(default_factory=dict)
    teachers: dict[str, dict[int, tuple[str, float]]] = field(default_factory=dict)

    def by_seed(self, column: str) -> list[tuple[int, float]]:
        """Return (seed, score) pairs of a column, by seed."""
        pairs = self.scores.get(column, {}).items()
        return sorted((self.jobs[key].seed if self.mixed else key, score) for key, score in pairs)

    def values(self, column: str) -> list[float]:
        """Return the scores of a column, by seed."""
        return [score for _, score in sorted(self.scores.get(column, {}).items())]

    def pairs_with(self, other: Row) -> bool:
        """Return whether the seeds of two rows are pairs: the same seeds, with the same order and initial heads."""
        if self.mixed or other.mixed or not self.streams:
            return False
        seeds = {job.seed for job in self.jobs}
        return seeds == {job.seed for job in other.jobs} == set(self.streams) and self.streams == other.streams


@dataclass(frozen=True)
class TableFilter:
    """Which jobs of a store a table is made of.

    Attributes:
        seeds: Number of seeds expected; None for any.
        settings: Hash of the variant to show, where a row has several.
        mix: Put all variants into one row.
    """

    scale: str = "demo"
    fidelity: str = "paper"
    seeds: int | None = None
    settings: str | None = None
    mix: bool = False


def collect(table: TableConfig, jobs: Sequence[JobRecord], store: Store, choice: TableFilter) -> list[Row]:
    """Return the rows of a table, in its order.

    Raises:
        StoreError: If the store has no finished job of any row, or rows were made from different data or code.
    """
    manifests = _Manifests(store)
    candidates = [job for job in jobs if (job.scale, job.fidelity) == (choice.scale, choice.fidelity)]
    rows = []
    for name, label in table.rows.items():
        row = Row(name, label)
        of_row = [job for job in candidates if job.experiment == name]
        if not of_row:
            others = {job.experiment for job in candidates} - set(table.rows)
            row.notes.append(f"no job yet{suggest(name, others)}")
        row.jobs = list(of_row) if choice.mix else _choose_variant(of_row, row, manifests, choice.settings)
        _note_missing(row, {job.seed for job in of_row}, choice)
        finished = [job for job in row.jobs if job.state == FINISHED]
        if choice.mix:
            row.jobs = list({tuple(job.last): job for job in finished}.values())  # the same Runs count once
            row.mixed = len({job.seed for job in row.jobs}) < len(row.jobs)
            _note_mixed(row, manifests)
        else:  # if a seed was run twice, the later job counts
            row.jobs = list({job.seed: job for job in finished}.values())
        _drop_nan(row, manifests)
        rows.append(row)
    if choice.settings is not None and not any(job.settings == choice.settings for row in rows for job in row.jobs):
        known = sorted({job.settings for job in candidates if job.experiment in table.rows and job.state == FINISHED})
        raise StoreError(
            f"settings names {choice.settings!r}, which no finished job of the table has; there: {', '.join(known)}"
        )
    if not any(row.jobs for row in rows):
        raise StoreError(_no_jobs_message(table, jobs, store, choice, rows))
    with_jobs = [row for row in rows if row.jobs]
    if not choice.mix:
        _check_comparable(with_jobs, manifests)
    _note_hardware(with_jobs, manifests)
    columns = _columns(table, with_jobs, manifests)
    jobs = [job for row in rows for job in row.jobs]
    mismatched = all(MISMATCHED in manifests.metrics(job) for job in jobs)  # else seeds would not be comparable
    for row in rows:
        row.columns = dict(columns)
        _fill_scores(row, manifests, mismatched)
    return rows


class _Manifests:
    """Manifests of finished Runs, each read once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.known: dict[str, dict[str, Any]] = {}

    def __getitem__(self, run_id: str) -> dict[str, Any]:
        if run_id not in self.known:
            self.known[run_id] = self.store.manifest(run_id)
        return self.known[run_id]

    def code(self, job: JobRecord) -> str:
        """Return the versions and precision behind a finished job's Runs; an empty text for unfinished jobs."""
        if job.state != FINISHED:
            return ""
        manifests = [self[run_id] for run_id in job.runs]
        versions = [
            f"{name} {_join({manifest['versions'].get(name, 'unknown') for manifest in manifests})}" for name in CODE
        ]
        precision = _join({manifest.get("precision", "unknown") for manifest in manifests})
        return ", ".join([f"algorithm {job.algorithm}", *versions, f"precision {precision}"])

    def metrics(self, job: JobRecord) -> dict[str, dict[str, float]]:
        """Return task -> metric -> score of a job's last stage, the mean where several Runs have the task."""
        values: dict[str, dict[str, list[float]]] = {}
        for run_id in job.last:
            for task, scores in self[run_id]["metrics"].items():
                for metric, score in scores.items():
                    values.setdefault(task, {}).setdefault(metric, []).append(score)
        return {
            task: {metric: statistics.fmean(scores) for metric, scores in by_metric.items()}
            for task, by_metric in values.items()
        }


def _join(values: Iterable[object]) -> str:
    return " and ".join(sorted(map(str, values)))


Variant = tuple[object, ...]


def _choose_variant(
    jobs: Sequence[JobRecord], row: Row, manifests: _Manifests, settings: str | None
) -> list[JobRecord]:
    """Return the jobs of the variant with most finished seeds, the latest of equals; note the others."""
    if not jobs:
        return []
    matching = [job for job in jobs if job.settings == settings] or list(jobs)
    candidates = [job for job in matching if job.state == FINISHED] or matching
    seeds: dict[Variant, set[int]] = {}
    for job in candidates:
        for variant in _variants(job, manifests):
            seeds[variant] = seeds.pop(variant, set()) | {job.seed}  # moved to the end: of equals, the latest wins
    chosen = max(reversed(seeds), key=lambda variant: len(seeds[variant]))
    members = [job for job in jobs if _belongs(job, chosen, manifests)]
    _note_excluded([job for job in jobs if job not in members], chosen, row, manifests)
    return members


def _variants(job: JobRecord, manifests: _Manifests) -> list[Variant]:
    """Return the variants that a job may be a seed of: with shared teachers, or with teachers of its own seed."""
    common = (tuple(sorted(job.data.items())), (job.settings, job.encoder), manifests.code(job))
    with_own_teachers = [(*common, "own")] if job.teacher_seed == job.seed else []
    return [*with_own_teachers, (*common, job.teacher_seed)]


def _belongs(job: JobRecord, variant: Variant, manifests: _Manifests) -> bool:
    """Return whether a job is of a variant; the code of an unfinished job is not known yet and may be any."""
    variants = _variants(job, manifests)
    return variant in variants or any(
        code == "" and (data, settings, variant[2], teachers) == variant for data, settings, code, teachers in variants
    )


def _note_excluded(jobs: Sequence[JobRecord], chosen: Variant, row: Row, manifests: _Manifests) -> None:
    """Note the jobs left out, by the first thing in which they differ."""
    reasons: dict[str, int] = {}
    names = ("data", "settings", "code", "teachers")
    for job in jobs:
        variant = _variants(job, manifests)[-1]
        pairs = zip(names, variant, chosen, strict=True)
        difference = next(name for name, value, expected in pairs if value not in (expected, ""))
        pick = f"--settings {job.settings} takes those, " if difference == "settings" else ""
        reason = f"jobs with other {difference} left out ({pick}--mix takes them in)"
        reasons[reason] = reasons.get(reason, 0) + 1
    row.notes += [f"{count} {reason}" for reason, count in reasons.items()]


def _note_mixed(row: Row, manifests: _Manifests) -> None:
    kinds = {_variants(job, manifests)[-1] for job in row.jobs}
    if len(kinds) > 1:
        row.notes.append(f"{len(row.jobs)} jobs of {len(kinds)} variants (data, settings, code or teachers) mixed")


def _note_missing(row: Row, asked: set[int], choice: TableFilter) -> None:
    """Note the seeds of a row that have no score, and why."""
    by_reason: dict[str, list[int]] = {}
    finished = {job.seed for job in row.jobs if job.state == FINISHED}
    for job in row.jobs:
        if job.seed not in finished:
            reason = f"{job.state} ({' '.join(job.reason.split())[:300]})" if job.reason else job.state
            by_reason.setdefault(reason, []).append(job.seed)
    row.notes += [f"seed {_spans(seeds)}: {reason}" for reason, seeds in by_reason.items()]
    absent = set(range(choice.seeds or 0)) - asked
    if absent and asked:
        row.notes.append(f"seed {_spans(absent)}: not asked for yet")


def _drop_nan(row: Row, manifests: _Manifests) -> None:
    """Leave out the jobs with a headline score that is NaN or missing, and note them."""
    complete = []
    for job in row.jobs:
        metrics = manifests.metrics(job)
        missing = [task for task, name in job.metrics.items() if math.isnan(metrics.get(task, {}).get(name, math.nan))]
        if missing:
            row.notes.append(f"seed {job.seed}: left out, as its score of {', '.join(missing)} is NaN or missing")
        else:
            complete.append(job)
    row.jobs = complete


def _note_hardware(rows: Sequence[Row], manifests: _Manifests) -> None:
    """Note where the seeds of a row, or two rows, were trained on different hardware or with other packages."""
    first = rows[0]
    for row in rows:
        for job in row.jobs:
            changes = [change for run_id in job.runs for change in manifests[run_id].get("resumed_under_others", [])]
            if changes:
                row.notes.append(f"seed {job.seed}: resumed under other conditions: {'; '.join(changes)}")
    last = [run_id for row in rows for job in row.jobs for run_id in job.last]
    packages = {name for run_id in last for name in _versions(manifests, run_id)}
    for name in (*HARDWARE, *sorted(packages - set(CODE))):
        title = name.replace("_", " ")
        reference = _by_hardware(first, name, manifests)
        for row in rows:
            by_value = _by_hardware(row, name, manifests)
            if len(by_value) > 1:
                values = "; ".join(f"{value} (seed {_spans(seeds)})" for value, seeds in sorted(by_value.items()))
                row.notes.append(f"trained with different {title}: {values}")
            elif by_value.keys() != reference.keys():
                row.notes.append(f"{title} is {_join(by_value)}, but {_join(reference)} in row {first.label.strip()}")


def _by_hardware(row: Row, name: str, manifests: _Manifests) -> dict[str, list[int]]:
    """Return value of a hardware field -> seeds whose last stage was trained with it."""
    seeds: dict[str, list[int]] = {}
    for job in row.jobs:
        value = _join({_condition(manifests, run_id, name) for run_id in job.last})
        seeds.setdefault(value, []).append(job.seed)
    return seeds


def _condition(manifests: _Manifests, run_id: str, name: str) -> Any:
    return (manifests[run_id] if name in HARDWARE else _versions(manifests, run_id)).get(name, "unknown")


def _versions(manifests: _Manifests, run_id: str) -> dict[str, str]:
    versions: dict[str, str] = manifests[run_id]["versions"]
    return versions


def _spans(seeds: Iterable[int]) -> str:
    """Return seeds as ranges.

    >>> _spans([4, 1, 2, 3, 7])
    '1-4, 7'
    """
    spans: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if spans and seed == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], seed]
        else:
            spans.append([seed])
    return ", ".join("-".join(map(str, span)) for span in spans)


def _no_jobs_message(
    table: TableConfig, jobs: Sequence[JobRecord], store: Store, choice: TableFilter, rows: Sequence[Row]
) -> str:
    present = sorted({f"{job.experiment} ({job.scale}, {job.fidelity}, {job.state})" for job in jobs})
    notes = [f"{row.name}: {note}" for row in rows for note in row.notes if "NaN" in note]
    return (
        f"no finished job of {', '.join(table.rows)} with scale={choice.scale} fidelity={choice.fidelity} in "
        f"{store.root}; there: {', '.join(present[:12]) or 'none'}; train them, or give --scale, --fidelity or --store"
        f"{'; ' + '; '.join(notes) if notes else ''}"
    )


def _check_comparable(rows: Sequence[Row], manifests: _Manifests) -> None:
    """Raise ``StoreError`` unless all rows were scored on the same data by the same code."""
    first = rows[0]
    reference = first.jobs[-1]
    for row in rows[1:]:
        job = row.jobs[-1]
        tasks = [task for task in job.data if reference.data.get(task, job.data[task]) != job.data[task]]
        difference = f"the data of {', '.join(tasks)}" if tasks else ""
        if manifests.code(job) != manifests.code(reference):
            difference = f"code ({manifests.code(reference)}; {manifests.code(job)})"
        if job.encoder != reference.encoder:
            difference = f"the encoder ({reference.encoder}; {job.encoder})"
        if difference:
            raise StoreError(
                f"rows {first.name!r} and {row.name!r} differ in {difference}; train them alike, or compare them all "
                "the same with --mix"
            )


def _columns(table: TableConfig, rows: Sequence[Row], manifests: _Manifests) -> dict[str, list[str]]:
    """Return column -> the tasks it is the mean of: averages first, then each task that every row has."""
    jobs = [job for row in rows for job in row.jobs]
    common = [task for task in jobs[0].metrics if all(task in job.metrics for job in jobs)]
    chosen = [task for task in table.columns if task in common] if table.columns else common
    if not chosen:
        shared = f"tasks of all rows: {', '.join(common)}" if common else "no task is in all rows"
        wanted = f"the table has the columns {', '.join(table.columns)}, but " if table.columns else ""
        each = "; ".join(f"{row.name} has {', '.join(row.jobs[0].metrics) or 'none'}" for row in rows)
        raise StoreError(f"{wanted}{shared} ({each}); train the rows on the same tasks, or name others in columns")
    columns = {task: [task] for task in chosen}
    counted = [task for task in chosen if task in jobs[0].average]
    remaining = [task for task in counted if task not in table.without]
    averages = {AVERAGE: counted} if len(counted) > 1 else {}
    if set(PAPER_TASKS) <= set(chosen) and all(_glue_score(manifests.metrics(job), False) is not None for job in jobs):
        averages[GLUE] = list(PAPER_TASKS)
    if 1 < len(remaining) < len(counted):
        averages[f"{AVERAGE} without {', '.join(task for task in counted if task not in remaining)}"] = remaining
    return averages | columns


def _glue_score(metrics: Mapping[str, Mapping[str, float]], mismatched: bool) -> float | None:
    """Return the GLUE score as a fraction, without WNLI; None if a metric is missing.

    With ``mismatched``, MNLI counts with the mean of both dev sets.
    """
    scores = []
    for task in PAPER_TASKS:
        names = GLUE_METRICS.get(task, ("accuracy",))
        values = [metrics.get(task, {}).get(name) for name in names]
        if task == "mnli" and mismatched:
            values.append(metrics.get(MISMATCHED, {}).get("accuracy"))
        if any(value is None or math.isnan(value) for value in values):
            return None
        scores.append(statistics.fmean(value for value in values if value is not None))
    return statistics.fmean(scores)


def _fill_scores(row: Row, manifests: _Manifests, mismatched: bool) -> None:
    """Fill in the scores x 100 of each seed, its stream and its teachers' scores."""
    row.scores = {column: {} for column in row.columns}
    for position, job in enumerate(row.jobs):
        metrics = manifests.metrics(job)
        key = position if row.mixed else job.seed
        for column, tasks in row.columns.items():
            if column == GLUE:
                score = _glue_score(metrics, mismatched)
                assert score is not None  # else the column would not be there
            else:
                score = statistics.fmean(metrics[task][job.metrics[task]] for task in tasks)
            row.scores[column][key] = 100 * score
        stream = _stream(job.last, manifests)
        if stream:
            row.streams[key] = stream
        for task, teacher in _teacher_scores(job, manifests).items():
            row.teachers.setdefault(task, {})[key] = teacher


def _stream(runs: Sequence[str], manifests: _Manifests) -> str:
    """Return a text that two jobs share if their Runs see the same examples in the same order from equal weights.

    Empty for Runs of a single task, and for Runs that start from another Run's heads or from one that is gone.
    """
    found = [manifests[run_id] for run_id in runs]
    specs = [manifest["spec"] for manifest in found]
    starts = {manifest["init_from"] for manifest in found} - {None}
    known = all(manifests.store.finished(run_id) and not manifests[run_id]["tasks"] for run_id in starts)
    if not known or any(len(manifest["tasks"]) < 2 for manifest in found):
        return ""
    if not all(name in spec for spec in specs for name in ("order", "seed")):
        return ""
    streams = [[spec.get(name) for name in (*STREAM, "encoder", "init_from")] for spec in specs]
    return json.dumps(streams, sort_keys=True)


def _teacher_scores(job: JobRecord, manifests: _Manifests) -> dict[str, tuple[str, float]]:
    """Return task -> (teachers' ids, their mean score x 100), where all teachers of a task are in the store."""
    teachers = {}
    for run_id in job.last:
        for task, named in manifests[run_id]["teachers"].items():
            ids = [named] if isinstance(named, str) else list(named)
            if task in job.metrics and all(manifests.store.finished(teacher) for teacher in ids):
                scores = [manifests[teacher]["metrics"].get(task, {}).get(job.metrics[task]) for teacher in ids]
                if all(score is not None and not math.isnan(score) for score in scores):
                    teachers[task] = (" ".join(ids), 100 * statistics.fmean(s for s in scores if s is not None))
    return teachers
