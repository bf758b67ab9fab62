"""What a request to predict asks: a JSON body, checked against the server's limits and the model's tasks.

The checks are those of ``Model.predict``, with the same words; here they also bound what one request may cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bam_lightning.config.validation import check_choice
from bam_lightning.inference.model_info import ModelInfo, check_rows

FIELDS = ("rows", "task")
LONGEST_NAME = 200  # characters of a task's name; a longer one is not repeated in a message


@dataclass(frozen=True)
class Limits:
    """What one request may cost: bytes of its body, rows in it, characters of each text."""

    bytes: int = 1 << 20
    rows: int = 128
    characters: int = 10_000


class PredictRequest(NamedTuple):
    """Rows of one or two texts each, and the names of the tasks that are asked about them."""

    rows: list[tuple[str, ...]]
    tasks: list[str]


class RequestError(ValueError):
    """A request that cannot be answered: ``status`` is that of HTTP, the text says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_request(body: bytes, saved: ModelInfo, limits: Limits) -> PredictRequest:
    """Return the question in a body.

    Raises:
        Refused: 400 if the body is not JSON, 422 if it does not ask what this model can answer.
    """
    asked = _json(body)
    if not isinstance(asked, dict):
        raise RequestError(422, f"the body must be a JSON object with rows and task, got {_kind(asked)}")
    try:
        for name in asked:
            check_choice("the body", name[:LONGEST_NAME], FIELDS)
        rows = _rows(asked, limits)
        tasks = saved.named(_task(asked.get("task", "all")), len(rows[0]))
        check_rows(tasks, rows)
    except ValueError as error:
        raise RequestError(422, str(error)) from error
    return PredictRequest(rows, list(dict.fromkeys(task.name for task in tasks)))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise RequestError(400, "the body is not JSON of ours: nested too deeply") from error


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _rows(asked: dict[str, Any], limits: Limits) -> list[tuple[str, ...]]:
    given = asked.get("rows")
    if not isinstance(given, list):
        raise ValueError(f"rows must be a list, got {_kind(given) if 'rows' in asked else 'none'}")
    if not 1 <= len(given) <= limits.rows:
        raise ValueError(f"rows must have 1 to {limits.rows} rows, got {len(given)}")
    rows = []
    for number, row in enumerate(given):
        texts = (row,) if isinstance(row, str) else row
        if not isinstance(texts, (list, tuple)):
            raise ValueError(f"row {number}: must be a text or a list of texts, got {_kind(row)}")
        for text in texts:
            if isinstance(text, str) and len(text) > limits.characters:
                raise ValueError(f"row {number}: a text may have {limits.characters} characters, got {len(text)}")
        rows.append(tuple(texts))
    return rows


def _task(given: Any) -> str | list[str]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("task must be a task's name, a list of such names, or all")
    if max(map(len, names)) > LONGEST_NAME:
        raise ValueError(f"task must be a name of at most {LONGEST_NAME} characters, got {max(map(len, names))}")
    return given if isinstance(given, str) else list(dict.fromkeys(names))


def _kind(value: Any) -> str:
    kinds = {bool: "a truth value", str: "a text", list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), "a number")


def body_schema(names: Sequence[str], limits: Limits) -> dict[str, Any]:
    """Return the JSON schema of the bodies that ``read`` takes, of a model with tasks of the given names."""
    text = {"type": "string", "maxLength": limits.characters}
    pair = {"type": "array", "items": text, "minItems": 1, "maxItems": 2}
    several = {"type": "array", "items": {"type": "string", "enum": list(names)}, "minItems": 1}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["rows"],
        "properties": {
            "rows": {
                "type": "array",
                "minItems": 1,
                "maxItems": limits.rows,
                "items": {"anyOf": [text, pair]},
                "description": "Each row is a text, or a list of the one or two texts that the tasks read.",
            },
            "task": {
                "anyOf": [{"type": "string", "enum": ["all", *names]}, several],
                "default": "all",
                "description": "A task, several, or all: every task that reads as many texts as the first row has.",
            },
        },
    }
