"""Write the files of a GLUE leaderboard submission. Needs no torch.

Each file has a header ``index<TAB>prediction`` and one line per row of the test set, counted from 0."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bam_lightning.config.exceptions import DataError

MAJORITY = "0"  # WNLI's majority class, not_entailment, which no method beats (section 4)


class File(NamedTuple):
    """One file: its name, the number of rows of the official test set, and whether labels are written as words."""

    name: str
    rows: int
    words: bool


FILES: Mapping[str, File] = {
    "cola": File("CoLA.tsv", 1_063, False),
    "sst2": File("SST-2.tsv", 1_821, False),
    "mrpc": File("MRPC.tsv", 1_725, False),
    "stsb": File("STS-B.tsv", 1_379, False),
    "qqp": File("QQP.tsv", 390_965, False),
    "mnli": File("MNLI-m.tsv", 9_796, True),
    "mnli_mm": File("MNLI-mm.tsv", 9_847, True),
    "qnli": File("QNLI.tsv", 5_463, True),
    "rte": File("RTE.tsv", 3_000, True),
    "wnli": File("WNLI.tsv", 146, False),
    "ax": File("AX.tsv", 1_104, True),
}


def class_words(task: str, predicted: Sequence[int], label_names: Sequence[str]) -> list[str]:
    """Format class ids for a task's file: label names where GLUE expects words, else class ids.

    >>> class_words("rte", [1, 0], ["entailment", "not_entailment"])
    ['not_entailment', 'entailment']
    """
    return [label_names[label] if FILES[task].words else str(label) for label in predicted]


def score_words(predicted: Sequence[float]) -> list[str]:
    """Format scores for STS-B's file: label units, clipped to [0, 5].

    >>> score_words([-0.2, 2.34567, 5.1])
    ['0.000', '2.346', '5.000']
    """
    return [f"{min(5.0, max(0.0, score)):.3f}" for score in predicted]


def check_rows(task: str, count: int) -> None:
    """Raise ``DataError`` unless a test set has as many rows as the official one."""
    if count != FILES[task].rows:
        raise DataError(
            f"the test set of {task!r} has {count:,} rows, the official one has {FILES[task].rows:,}; a submission "
            "needs all rows in their official order"
        )


def write_zip(path: Path, predictions: Mapping[str, Sequence[str]]) -> None:
    """Write the zip file. ``predictions`` maps each task to the lines of its file, in the order of the test set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for task, file in FILES.items():
            if task in predictions:
                lines = ["index\tprediction", *(f"{index}\t{word}" for index, word in enumerate(predictions[task]))]
                entry = zipfile.ZipInfo(
                    file.name, date_time=(1980, 1, 1, 0, 0, 0)
                )  # a fixed date, so that equal predictions give equal bytes
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, "\n".join(lines) + "\n")
    temporary.replace(path)
