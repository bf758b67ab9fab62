"""Bodies of requests: what is taken, and the whole message for everything else."""

import json

import pytest

from bam_lightning.inference.model_info import find_model
from bam_lightning.inference.model_info import read_model_info as read_saved
from bam_lightning.inference.serving.schemas import Limits, PredictRequest, RequestError, parse_request, request_model

LIMITS = Limits(bytes=1000, rows=3, characters=20)


@pytest.fixture(scope="module")
def saved(trained):
    return read_saved(find_model(trained.id, str(trained.store)))


@pytest.mark.parametrize(
    ("asked", "rows", "tasks"),
    [
        ({"rows": ["a cat"]}, [("a cat",)], ["sst2"]),
        ({"rows": [["a cat"], "b"], "task": "sst2"}, [("a cat",), ("b",)], ["sst2"]),
        ({"rows": [["a", "b"]], "task": "all"}, [("a", "b")], ["stsb", "rte"]),
        ({"rows": [["a", "b"]], "task": ["rte", "stsb", "rte"]}, [("a", "b")], ["rte", "stsb"]),
    ],
)
def test_rows_and_tasks_are_read_as_predict_reads_them(saved, asked, rows, tasks):
    assert parse_request(json.dumps(asked).encode(), saved, LIMITS) == PredictRequest(rows, tasks)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"rows": [', "the body is not JSON: Expecting value: line 1 column 11 (char 10)"),
        (b'{"rows": NaN}', "the body is not JSON: NaN is not a JSON number"),
        (b'{"rows": ["\xff"]}', "the body is not UTF-8: invalid start byte at byte 11"),
        ('{"rows": ["a"]}'.encode("utf-16"), "the body is not UTF-8: invalid start byte at byte 0"),
        (b"[" * 100_000, "the body is nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused_with_400(saved, body, message):
    with pytest.raises(RequestError) as error:
        parse_request(body, saved, LIMITS)
    assert (error.value.status, str(error.value)) == (400, message)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "the body must be a JSON object with rows and task, got a list"),
        (True, "the body must be a JSON object with rows and task, got a boolean"),
        ({}, "rows must be a list, got none"),
        ({"rows": None}, "rows must be a list, got null"),
        ({"rows": "a cat"}, "rows must be a list, got a string"),
        ({"row": ["a"]}, "the body names 'row'; choices: rows, task; did you mean 'rows'?"),
        ({"rows": []}, "rows must have 1 to 3 rows, got 0"),
        ({"rows": ["a"] * 4}, "rows must have 1 to 3 rows, got 4"),
        ({"rows": ["a", 7]}, "row 1: must be a string or a list of strings, got a number"),
        ({"rows": ["a" * 21]}, "row 0: a text may have 20 characters, got 21"),
        ({"rows": [[]]}, "no task reads 0 texts; tasks and their number of texts: sst2 (1), stsb (2), rte (2)"),
        (
            {"rows": [["a", "b", "c"]]},
            "no task reads 3 texts; tasks and their number of texts: sst2 (1), stsb (2), rte (2)",
        ),
        ({"rows": [["a", "b"], "c"]}, "row 1: 1 text; task 'stsb' reads 2: sentence1, sentence2"),
        ({"rows": ["a"], "task": "rte"}, "row 0: 1 text; task 'rte' reads 2: sentence1, sentence2"),
        ({"rows": [["a", None]], "task": "rte"}, "row 0: sentence2 has no value"),
        ({"rows": [["a", {}]], "task": "rte"}, "row 0: sentence2 is dict, not text"),
        ({"rows": [" "]}, "row 0: sentence is empty"),
        ({"rows": ["a\ud800"]}, "row 0: sentence is not UTF-8 text"),
        ({"rows": ["a"], "task": "sst"}, "task names 'sst'; choices: sst2, stsb, rte; did you mean 'sst2'?"),
        ({"rows": ["a"], "task": ["all"]}, "task names 'all'; choices: sst2, stsb, rte"),
        ({"rows": ["a"], "task": []}, "task must be a task's name, a list of names, or all"),
        ({"rows": ["a"], "task": None}, "task must be a task's name, a list of names, or all"),
        ({"rows": ["a"], "task": "x" * 201}, "task must be a name of at most 200 characters, got 201"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_422_and_named(saved, asked, message):
    with pytest.raises(RequestError) as error:
        parse_request(json.dumps(asked).encode(), saved, LIMITS)
    assert (error.value.status, str(error.value)) == (422, message)


def test_the_schema_of_bodies_names_the_tasks_and_the_limits(saved):
    properties = request_model(saved.tasks, LIMITS).model_json_schema()["properties"]
    assert properties["rows"]["maxItems"] == 3
    text, texts = properties["rows"]["items"]["anyOf"]
    assert text == {"type": "string", "maxLength": 20}
    assert texts == {"type": "array", "items": text, "minItems": 1, "maxItems": 2}
    assert properties["task"]["anyOf"][0]["enum"] == ["all", *saved.tasks]


@pytest.mark.parametrize(
    ("changed", "columns", "row"),
    [
        ({"kind": "tagging", "text": ("tokens",)}, ("tokens",), [["the", "cat"]]),
        ({"kind": "choice", "choices": ("a", "b", "c")}, ("question", "a", "b", "c"), ["who", "cat", "dog", "man"]),
        ({"text": ("{subject}: {body}",)}, ("subject", "body"), ["the cat", None]),
        ({"text": ("a", "b", "c")}, ("a", "b", "c"), ["x", "y", "z"]),
    ],
)
def test_the_schema_of_bodies_has_the_rows_of_each_kind_of_task(saved, changed, columns, row):
    task = saved.tasks["sst2"]._replace(columns=columns, **{"text": columns[:1], **changed})
    found = request_model({"mine": task}, LIMITS).model_validate({"rows": [row], "task": "mine"})
    assert found.rows == [row]
    with pytest.raises(ValueError, match="at most"):
        request_model({"mine": task}, LIMITS).model_validate({"rows": [[*row, "one more"]]})


def test_words_are_counted_together(saved):
    with pytest.raises(RequestError, match=r"^row 0: a text may have 20 characters, got 24$"):
        parse_request(json.dumps({"rows": [[["abcdef"] * 4]]}).encode(), saved, LIMITS)
