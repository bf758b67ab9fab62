"""Requests and responses of the server: checks of a request, limits, and the pydantic models that OpenAPI describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model

from bam_lightning.config.validation import check_choice
from bam_lightning.inference.model_info import ModelInfo, TaskInfo, check_rows

FIELDS = ("rows", "task")
MAX_NAME = 200  # characters of a task's name; a longer name is not repeated in a message
JSON_TYPES = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", type(None): "null"}


@dataclass(frozen=True)
class Limits:
    """Limits of one request: bytes of its body, rows, and characters of each text."""

    bytes: int = 1 << 20
    rows: int = 128
    characters: int = 10_000


class PredictRequest(NamedTuple):
    """A checked request: rows of texts, and the names of the tasks to predict."""

    rows: list[tuple[str, ...]]
    tasks: list[str]


class RequestError(ValueError):
    """A request that cannot be answered.

    Attributes:
        status: The HTTP status of the response.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_request(body: bytes, info: ModelInfo, limits: Limits) -> PredictRequest:
    """Parse and check a JSON body. Written by hand, since the messages are those of ``Predictor.predict``.

    Raises:
        RequestError: Status 400 if the body is not JSON, 422 if the model cannot answer it.
    """
    content = _parse_json(body)
    if not isinstance(content, dict):
        raise RequestError(422, f"the body must be a JSON object with rows and task, got {_json_type(content)}")
    try:
        for name in content:
            check_choice("the body", name[:MAX_NAME], FIELDS)
        rows = _parse_rows(content, limits)
        tasks = info.select_tasks(_parse_task(content.get("task", "all")), rows[0])
        check_rows(tasks, rows)
    except ValueError as error:
        raise RequestError(422, str(error)) from error
    return PredictRequest(rows, list(dict.fromkeys(task.name for task in tasks)))


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_reject_constant)
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise RequestError(400, "the body is nested too deeply") from error


def _reject_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


def _parse_rows(content: dict[str, Any], limits: Limits) -> list[tuple[str, ...]]:
    values = content.get("rows")
    if not isinstance(values, list):
        raise ValueError(f"rows must be a list, got {_json_type(values) if 'rows' in content else 'none'}")
    if not 1 <= len(values) <= limits.rows:
        raise ValueError(f"rows must have 1 to {limits.rows} rows, got {len(values)}")
    rows = []
    for number, row in enumerate(values):
        texts = (row,) if isinstance(row, str) else row
        if not isinstance(texts, (list, tuple)):
            raise ValueError(f"row {number}: must be a string or a list of strings, got {_json_type(row)}")
        for text in texts:
            words = text if isinstance(text, list) else [text]  # or choices
            if (count := sum(len(word) for word in words if isinstance(word, str))) > limits.characters:
                raise ValueError(f"row {number}: a text may have {limits.characters} characters, got {count}")
        rows.append(tuple(texts))
    return rows


def _parse_task(value: Any) -> str | list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("task must be a task's name, a list of names, or all")
    if max(map(len, names)) > MAX_NAME:
        raise ValueError(f"task must be a name of at most {MAX_NAME} characters, got {max(map(len, names))}")
    return value if isinstance(value, str) else list(dict.fromkeys(names))


def _json_type(value: Any) -> str:
    return JSON_TYPES.get(type(value), "a number")


def request_model(tasks: Mapping[str, TaskInfo], limits: Limits) -> type[BaseModel]:
    """Return the pydantic model of the bodies that ``parse_request`` accepts, for OpenAPI."""
    names = tuple(tasks)
    literal: Any = Literal  # aliases, since mypy takes no types that are known at run time only
    annotated: Any = Annotated
    sequence: Any = list
    text: Any = annotated[str, Field(max_length=limits.characters)]
    value: Any = text
    if any(task.kind in ("tagging", "choice") for task in tasks.values()):  # words or choices, one by one
        value |= sequence[text]
    if any(task.reads_templates for task in tasks.values()):
        value |= None
    most = max(len(task.columns) for task in tasks.values())
    row: Any = text | annotated[sequence[value], Field(min_length=1, max_length=most)]
    rows: Any = annotated[
        sequence[row],
        Field(
            min_length=1,
            max_length=limits.rows,
            description="Each row is a text, or a list of the texts of the columns that the tasks read.",
        ),
    ]
    several: Any = annotated[sequence[literal[names]], Field(min_length=1)]
    task: Any = annotated[
        literal[("all", *names)] | several,
        Field(description="A task, a list of tasks, or all: every task that reads rows like the first."),
    ]
    model: type[BaseModel] = create_model(
        "PredictRequest", __config__=ConfigDict(extra="forbid"), rows=(rows, ...), task=(task, "all")
    )
    return model


class PredictionResponse(BaseModel):
    """The prediction for one row."""

    label: str | float | list[str | None] = Field(
        description="A label name; a score in the task's range; for a multi-label task a list of label names; for a "
        "tagging task the tag of each word; the text of an answer."
    )
    probabilities: dict[str, float] = Field(
        description="Label name -> probability; empty for regression, tags and answers."
    )
    details: dict[str, Any] | None = Field(
        default=None, description="Scores of tags; score, start and end of an answer; absent for other tasks."
    )


class PredictResponse(BaseModel):
    """Task -> the prediction for each row, in the order of the rows."""

    predictions: dict[str, list[PredictionResponse]]


class TaskResponse(BaseModel):
    """A task of the model."""

    name: str
    columns: list[str] = Field(description="Names of the columns of a row.")
    labels: list[str] = Field(description="Label names; empty for regression.")
    range: list[float] = Field(description="Lowest and highest score; empty unless the task is a regression.")
    metric: str
    score: float | None = Field(description="The metric on the dev set, in [-1, 1]; null if unknown.")


class LimitsResponse(BaseModel):
    """Limits of one request."""

    bytes: int
    rows: int
    characters: int


class TasksResponse(BaseModel):
    """The model, its tasks and the limits of a request."""

    run: str
    tasks: list[TaskResponse]
    limits: LimitsResponse


class HealthResponse(BaseModel):
    """The state of the server."""

    status: str
    run: str
    device: str
    precision: str


class ErrorResponse(BaseModel):
    """The reason why a request was not answered, in one line."""

    error: str


REASONS = {
    400: "The body is not JSON in UTF-8, or the request is not HTTP.",
    405: "The path has another method; `Allow` names it.",
    408: "The body did not arrive in time.",
    413: "The body exceeds the limit.",
    415: "The content type of the body is not application/json.",
    422: "The model cannot answer a field, row, text or task of the request.",
    500: "The model failed; the server's log has the reason.",
    503: "The queue is full, or the server is stopping; retry after `Retry-After` seconds.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of a path's error statuses."""
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": REASONS[status], "model": ErrorResponse} for status in statuses
    }
    if 503 in described:
        described[503]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return described


def request_body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAPI's description of a JSON body."""
    content = {"application/json": {"schema": model.model_json_schema(), "example": example}}
    return {"requestBody": {"required": True, "content": content}}
