"""The answers of the server as OpenAPI describes them: one class each, and what every path can answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Said(BaseModel):
    """What the model says of one row."""

    label: str | float | list[str] = Field(
        description="A label name; a number within the task's range; or the names of all labels that hold."
    )
    probabilities: dict[str, float] = Field(description="Of each label name; empty where the label is a number.")


class Predictions(BaseModel):
    """Task -> what the model says of each row, in the order of the rows."""

    predictions: dict[str, list[Said]]


class TaskSheet(BaseModel):
    """One task: what it reads and answers, and how well."""

    name: str
    columns: list[str] = Field(description="Names of the one or two texts of a row.")
    labels: list[str] = Field(description="Label names; empty where labels are numbers.")
    range: list[float] = Field(description="Lowest and highest number; empty where labels have names.")
    metric: str
    score: float | None = Field(description="The metric on the dev set, in [-1, 1]; null if none is known.")


class LimitSheet(BaseModel):
    """What one request may hold."""

    bytes: int
    rows: int
    characters: int


class Tasks(BaseModel):
    """The model and its tasks."""

    run: str
    tasks: list[TaskSheet]
    limits: LimitSheet


class Health(BaseModel):
    """Whether questions are answered, and by what."""

    status: str
    run: str
    device: str
    precision: str


class Fault(BaseModel):
    """Why there is no answer, in one line."""

    error: str


REASONS = {
    400: "The body is not JSON in UTF-8, or the request is not HTTP.",
    405: "The path has another method; `Allow` names it.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the limit.",
    415: "The body is not of the type application/json.",
    422: "A field, a row, a text or a task is not what this model can answer.",
    500: "The model failed; the log says why.",
    503: "The queue is full, or the server is being stopped; `Retry-After` says in how many seconds to ask again.",
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of the statuses other than 200 of a path."""
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": REASONS[status], "model": Fault} for status in statuses
    }
    if 503 in described:
        described[503]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return described


def asks(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAPI's description of a JSON body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
