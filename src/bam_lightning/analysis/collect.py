"""From a store to the rows of a table: which jobs belong together, and what each seed scored.

Jobs of one row may differ in their seeds only. Those made from other data, settings, code or teachers are another
variant, which is left out and named. Reads files alone, and imports no torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bam_lightning.analysis.table_config import TableConfig
from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.validation import suggest
from bam_lightning.store.job_records import FINISHED, JobRecord
from bam_lightning.store.run_store import Store

AVERAGE = "average"
CODE = ("bam_lightning", "torch", "transformers")  # versions that must agree


@dataclass
class Row:
    """One experiment: ``scores`` maps column -> seed -> score x 100, of ``jobs``; ``notes`` say what is missing."""

    name: str
    label: str
    jobs: list[JobRecord] = field(default_factory=list)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    mixed: bool = False  # then scores are keyed by the place in ``jobs``, since seeds may come twice

    def by_seed(self, column: str) -> list[tuple[int, float]]:
        """Return (seed, score) pairs of a column, by seed."""
        pairs = self.scores.get(column, {}).items()
        return sorted((self.jobs[key].seed if self.mixed else key, score) for key, score in pairs)

    def values(self, column: str) -> list[float]:
        """Return the scores of a column, by seed."""
        return [score for _, score in sorted(self.scores.get(column, {}).items())]


@dataclass(frozen=True)
class TableFilter:
    """What of the store a table is made of.

    ``seeds`` are those expected, ``settings`` picks a variant by its hash, ``mix`` puts all variants together.
    """

    scale: str = "demo"
    fidelity: str = "paper"
    seeds: int | None = None
    settings: str | None = None
    mix: bool = False


def collect(table: TableConfig, jobs: Sequence[JobRecord], store: Store, choice: TableFilter) -> list[Row]:
    """Return the rows of a table, in its order.

    Raises:
        StoreError: if the store has no finished job of any row, or rows were made from different data or code.
    """
    manifests = _Manifests(store)
    fitting = [job for job in jobs if (job.scale, job.fidelity) == (choice.scale, choice.fidelity)]
    rows = []
    for name, label in table.rows.items():
        row = Row(name, label, mixed=choice.mix)
        mine = [job for job in fitting if job.experiment == name]
        if not mine:
            others = {job.experiment for job in fitting} - set(table.rows)
            row.notes.append(f"no job yet{suggest(name, others)}")
        row.jobs = list(mine) if choice.mix else _one_variant(mine, row, manifests, choice.settings)
        _say_missing(row, {job.seed for job in mine}, choice)
        row.jobs = [job for job in row.jobs if job.state == FINISHED]
        if choice.mix:
            _say_mixed(row, manifests)
        else:  # of a seed asked for twice, the later
            row.jobs = list({job.seed: job for job in row.jobs}.values())
        rows.append(row)
    if choice.settings is not None and not any(job.settings == choice.settings for row in rows for job in row.jobs):
        known = sorted({job.settings for job in fitting if job.experiment in table.rows and job.state == FINISHED})
        raise StoreError(
            f"settings names {choice.settings!r}, which no finished job of the table has; there: {', '.join(known)}"
        )
    if not any(row.jobs for row in rows):
        raise StoreError(_nothing(table, jobs, store, choice))
    if not choice.mix:
        _agree([row for row in rows if row.jobs], manifests)
    columns = _columns(table, rows)
    for row in rows:
        _score(row, columns, manifests)
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
        """Return the versions behind a finished job's Runs; unfinished ones are taken for what they will be."""
        if job.state != FINISHED:
            return ""
        of_runs = [self[run_id]["versions"] for run_id in job.runs]
        found = {name: sorted({str(versions.get(name)) for versions in of_runs}) for name in CODE}
        return ", ".join(
            [f"algorithm {job.algorithm}", *(f"{name} {' and '.join(own)}" for name, own in found.items())]
        )


Variant = tuple[object, ...]


def _one_variant(jobs: Sequence[JobRecord], row: Row, manifests: _Manifests, settings: str | None) -> list[JobRecord]:
    """Return the jobs of the variant with most finished seeds, of equals the latest; note the others."""
    if not jobs:
        return []
    wanted = [job for job in jobs if job.settings == settings] or list(jobs)
    done = [job for job in wanted if job.state == FINISHED] or wanted
    seeds: dict[Variant, set[int]] = {}
    for job in done:
        for variant in _variants(job, manifests):
            seeds[variant] = seeds.pop(variant, set()) | {job.seed}  # put last: of equals, the latest wins
    chosen = max(reversed(seeds), key=lambda variant: len(seeds[variant]))
    kept = [job for job in jobs if _fits(job, chosen, manifests)]
    _say_left([job for job in jobs if job not in kept], chosen, row, manifests)
    return kept


def _variants(job: JobRecord, manifests: _Manifests) -> list[Variant]:
    """Return what the job may be one seed of: students of shared teachers, or each with teachers of its own."""
    made = (tuple(sorted(job.data.items())), (job.settings, job.encoder), manifests.code(job))
    own = [(*made, "own")] if job.teacher_seed == job.seed else []
    return [*own, (*made, job.teacher_seed)]


def _fits(job: JobRecord, variant: Variant, manifests: _Manifests) -> bool:
    mine = _variants(job, manifests)
    return variant in mine or any(one[2] == "" and (*one[:2], variant[2], one[3]) == variant for one in mine)


def _say_left(jobs: Sequence[JobRecord], chosen: Variant, row: Row, manifests: _Manifests) -> None:
    """Note the jobs left out, under the first thing in which they differ."""
    reasons: dict[str, list[JobRecord]] = {}
    for job in jobs:
        own = _variants(job, manifests)[-1]
        names = ("data", "settings", "code", "teachers")
        differ = next(name for name, mine, theirs in zip(names, own, chosen, strict=True) if mine not in (theirs, ""))
        pick = f"settings={job.settings} takes those, " if differ == "settings" else ""
        reasons.setdefault(f"jobs with other {differ} left out ({pick}mix=true takes them in)", []).append(job)
    row.notes += [f"{len(left)} {reason}" for reason, left in reasons.items()]


def _say_mixed(row: Row, manifests: _Manifests) -> None:
    kinds = {_variants(job, manifests)[-1] for job in row.jobs}
    if len(kinds) > 1:
        row.notes.append(f"{len(row.jobs)} jobs of {len(kinds)} variants (data, settings, code or teachers) mixed")


def _say_missing(row: Row, asked: set[int], choice: TableFilter) -> None:
    """Note the seeds of a row that have no score, and why."""
    by_state: dict[str, list[int]] = {}
    done = {job.seed for job in row.jobs if job.state == FINISHED}
    for job in row.jobs:
        if job.seed not in done:
            reason = f"{job.state} ({' '.join(job.reason.split())[:300]})" if job.reason else job.state
            by_state.setdefault(reason, []).append(job.seed)
    for reason, seeds in by_state.items():
        row.notes.append(f"seed {_numbers(seeds)}: {reason}")
    absent = set(range(choice.seeds or 0)) - asked
    if absent:
        row.notes.append(f"seed {_numbers(absent)}: not asked for yet")


def _numbers(seeds: Iterable[int]) -> str:
    """Return seeds for people.

    >>> _numbers([4, 1, 2, 3, 7])
    '1-4, 7'
    """
    spans: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if spans and seed == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], seed]
        else:
            spans.append([seed])
    return ", ".join("-".join(map(str, span)) for span in spans)


def _nothing(table: TableConfig, jobs: Sequence[JobRecord], store: Store, choice: TableFilter) -> str:
    there = sorted({f"{job.experiment} ({job.scale}, {job.fidelity}, {job.state})" for job in jobs})
    return (
        f"no finished job of {', '.join(table.rows)} with scale={choice.scale} fidelity={choice.fidelity} in "
        f"{store.root}; there: {', '.join(there[:12]) or 'none'}; train them, or give scale=, fidelity= or store="
    )


def _agree(rows: Sequence[Row], manifests: _Manifests) -> None:
    """Raise unless all rows were scored on the same data by the same code."""
    first = rows[0]
    one = first.jobs[-1]
    for row in rows[1:]:
        job = row.jobs[-1]
        differ = [task for task in job.data if one.data.get(task, job.data[task]) != job.data[task]]
        what = f"the data of {', '.join(differ)}" if differ else ""
        if manifests.code(job) != manifests.code(one):
            what = f"code ({manifests.code(one)}; {manifests.code(job)})"
        if job.encoder != one.encoder:
            what = f"the encoder ({one.encoder}; {job.encoder})"
        if what:
            raise StoreError(
                f"rows {first.name!r} and {row.name!r} differ in {what}; train them alike, or compare them all the "
                "same with mix=true"
            )


def _columns(table: TableConfig, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return column -> the tasks it is the mean of: averages first, then each task that every row has."""
    with_jobs = [job for row in rows for job in row.jobs]
    common = [task for task in with_jobs[0].metrics if all(task in job.metrics for job in with_jobs)]
    chosen = [task for task in table.columns if task in common] if table.columns else common
    if not chosen:
        wanted = ", ".join(table.columns) or "any task"
        raise StoreError(f"no column: the rows have in common {', '.join(common) or 'no task'}, not {wanted}")
    columns = {task: [task] for task in chosen}
    counted = [task for task in chosen if task in with_jobs[0].average]
    left = [task for task in counted if task not in table.without]
    if 1 < len(left) < len(counted):
        columns = {f"{AVERAGE} without {', '.join(t for t in counted if t not in left)}": left, **columns}
    return {AVERAGE: counted, **columns} if len(counted) > 1 else columns


def _score(row: Row, columns: Mapping[str, Sequence[str]], manifests: _Manifests) -> None:
    """Fill in the scores x 100 of each seed; jobs mixed from several variants are numbered through instead."""
    row.scores = {column: {} for column in columns}
    for number, job in enumerate(row.jobs):
        found: dict[str, list[float]] = {}
        for run_id in job.last:
            for task, values in manifests[run_id]["metrics"].items():
                found.setdefault(task, []).append(100 * values[job.metrics[task]])
        for column, tasks in columns.items():
            score = statistics.fmean(statistics.fmean(found[task]) for task in tasks)
            row.scores[column][number if row.mixed else job.seed] = score
