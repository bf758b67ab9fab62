"""Configuration of a table: its rows, comparisons and claims, from ``conf/table/`` or a YAML file of the user's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import check_choice, check_positive, suggest
from bam_lightning.metrics.significance import TESTS

PAPER_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")  # tasks of the paper's average
CLAIM_ROWS = {
    "interaction": 4,
    "surpasses_teacher": 1,
    "spread": 2,
    "equivalence": 2,
    "above": 2,
    "collapse": 2,
}  # kind -> number of rows


@dataclass
class ClaimConfig:
    """A statement about several rows, with a test of its own.

    Attributes:
        text: The statement, for people.
        kind: ``interaction``: of rows [a, b, c, d], a - b is larger than c - d. ``surpasses_teacher``: the scores of
            row [a] are above those of its teachers, task by task. ``spread``: of rows [a, b], the seeds of a spread
            less than those of b. ``equivalence``: the means of rows [a, b] differ by less than ``margin``. ``above``:
            of rows [a, b], a scores higher than b. ``collapse``: of rows [a, b], a smaller share of a's scores is
            below ``floors``.
        rows: Experiments, all of them rows of the table.
        column: Column of the scores; ``surpasses_teacher`` has one result per task instead.
        margin: Largest difference, in points, that counts as equal.
        floors: Task -> score x 100 at or below which training has collapsed; tasks without one do not count.
    """

    text: str = ""
    kind: str = ""
    rows: list[str] = field(default_factory=list)
    column: str = "average"
    margin: float = 0.5
    floors: dict[str, float] = field(default_factory=dict)


@dataclass
class TableConfig:
    """A table.

    Attributes:
        rows: Experiment -> label.
        against: Experiment -> experiments that it is tested against.
        jointly: Test whether a row is better than all rows it is tested against; the p value is the largest. Otherwise
            each comparison is a hypothesis of its own.
        test: ``bootstrap`` (difference of means) or ``mann_whitney`` (ranks).
        paired: Use the paired counterpart of ``test`` where two multi-task rows share order and heads, seed by seed.
        tested: Columns to test; empty for all.
        marks: Mark rows that are ``better``, or all that are ``different``.
        columns: Tasks to show; empty for all that every row has.
        without: Tasks to leave out of a second average.
        paper: Experiment -> column -> the paper's number, shown if ``scale`` is paper.
        claims: Statements about several rows.
        note: Text under the table.
    """

    title: str = ""
    rows: dict[str, str] = field(default_factory=dict)
    against: dict[str, list[str]] = field(default_factory=dict)
    jointly: bool = False
    test: str = "bootstrap"
    paired: bool = True
    tested: list[str] = field(default_factory=list)
    marks: str = "better"
    columns: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    claims: list[ClaimConfig] = field(default_factory=list)
    note: str = ""

    def check(self, name: str) -> None:
        """Raise ``ConfigError`` if a table has no rows, or an unknown test, row or kind of claim."""
        if not self.rows:
            raise ConfigError(f"table {name}: rows is empty; give at least one, as in rows: {{single: Single}}")
        check_choice(f"table {name}: test", self.test, TESTS)
        check_choice(f"table {name}: marks", self.marks, ("better", "different"))
        for row, others in self.against.items():
            if not others:
                raise ConfigError(f"table {name}: against.{row} is empty; name the rows to test against, or remove it")
            for experiment in (row, *others):
                check_choice(f"table {name}: against", experiment, self.rows)
            if row in others:
                raise ConfigError(f"table {name}: against compares row {row!r} with itself")
        for row in self.paper:
            check_choice(f"table {name}: paper", row, self.rows)
        for claim in self.claims:
            check_choice(f"table {name}: claims.kind", claim.kind, CLAIM_ROWS)
            if len(claim.rows) != CLAIM_ROWS[claim.kind]:
                raise ConfigError(
                    f"table {name}: a claim of kind {claim.kind} needs {CLAIM_ROWS[claim.kind]} rows, got {claim.rows}"
                )
            for row in claim.rows:
                check_choice(f"table {name}: claims.rows", row, self.rows)
            check_positive(f"table {name}: claims.margin", claim.margin)
            if (claim.kind == "collapse") != bool(claim.floors):
                raise ConfigError(
                    f"table {name}: floors belong to a claim of kind collapse, which needs them, as in "
                    f"floors: {{mrpc: 70}}; got {claim.floors or 'none'} for kind {claim.kind}"
                )


def load_table(name: str, folder: Path) -> TableConfig:
    """Load a table by its name in ``folder``, or from a YAML file.

    Raises:
        ConfigError: If there is no such table, or a value in it is wrong, naming the key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise ConfigError(f"no table {name!r}; tables: {', '.join(known)}, or a YAML file{suggest(name, known)}")
    try:
        tree: Any = OmegaConf.merge(OmegaConf.structured(TableConfig), OmegaConf.load(path))
        table = OmegaConf.to_object(tree)
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{path}{line}: {str(error).splitlines()[0]}; for the form see {folder}/table1.yaml"
        ) from error
    assert isinstance(table, TableConfig)
    table.check(path.stem)
    return table
