"""JSON lines and Parquet that cannot be learned from; see ``bad_files``."""

import pyarrow as pa

from bad_files import GOOD, LINES, SCORES, SETS

CASES = {
    "a missing text": (
        "train.jsonl",
        LINES + '{"a": null, "b": "x", "label": 0}\n',
        {},
        "task 'mine', {tmp}/train.jsonl, row 2: column 'a' has no value; fill it or remove the row",
    ),
    "scores that are lists": (
        "train.parquet",
        {"a": ["x"], "b": ["y"], "label": [[1.0]]},
        SCORES,
        "task 'mine', {tmp}/train.parquet, row 0: label [1.0] is not a number from 0 to 5 (label_range)",
    ),
    "scores that are bytes": (
        "train.parquet",
        {"a": ["x"], "b": ["y"], "label": [b"1"]},
        SCORES,
        "task 'mine', {tmp}/train.parquet, row 0: label b'1' is not a number from 0 to 5 (label_range)",
    ),
    "sets that are numbers": (
        "train.parquet",
        {"a": ["x"], "b": ["y"], "label": [1]},
        SETS,
        (
            "task 'mine', {tmp}/train.parquet: column 'label' holds int64, but a row of 'mine' may have any number "
            "of labels; give lists of names or ids, or text with the label_separator between them"
        ),
    ),
    "a set without a value": (
        "train.parquet",
        {"a": ["x"], "b": ["y"], "label": pa.array([None], pa.list_(pa.string()))},
        SETS,
        (
            "task 'mine', {tmp}/train.parquet, row 0: the label is missing (1 of 1 rows has none); give an empty list "
            "where a row has no label, remove such rows, or set suite.tasks.mine.allow_missing_labels=true: a teacher "
            "alone then teaches them"
        ),
    ),
    "an array of rows": (
        "train.jsonl",
        "[" + LINES.strip().replace("\n", ",") + "]",
        {},
        ("task 'mine': {tmp}/train.jsonl cannot be read as jsonl: row 0: list, not a JSON object; mend that row"),
    ),
    "rows that are arrays": (
        "train.jsonl",
        '["one", "x", 0]\n',
        {},
        ("task 'mine': {tmp}/train.jsonl cannot be read as jsonl: row 0: list, not a JSON object; mend that row"),
    ),
    "a row that ends nowhere": (
        "train.jsonl",
        LINES[:-8],
        {},
        (
            "task 'mine': {tmp}/train.jsonl cannot be read as jsonl: row 1: not JSON: Unterminated string "
            "starting at: line 1 column 24 (char 23); mend that row"
        ),
    ),
    "a key twice": (
        "train.jsonl",
        '{"a": "one", "a": "two", "b": "x", "label": 0}\n',
        {},
        (
            "task 'mine': {tmp}/train.jsonl cannot be read as jsonl: row 0: not JSON: key 'a' stands twice "
            "in one object; mend that row"
        ),
    ),
    "nothing in JSON lines": (
        "train.jsonl",
        "",
        {},
        "task 'mine', {tmp}/train.jsonl: the split is empty; check the file, or choose another split",
    ),
    "texts that are numbers": (
        "train.jsonl",
        '{"a": 1, "b": "x", "label": 0}\n',
        {},
        "task 'mine', {tmp}/train.jsonl: column 'a' holds int64, not text; check text",
    ),
    "texts and numbers": (
        "train.jsonl",
        LINES + '{"a": 1, "b": "x", "label": 0}\n',
        {},
        (
            "task 'mine': {tmp}/train.jsonl cannot be read as jsonl: column 'a' holds values of several "
            "types (int, str); write all of them as text"
        ),
    ),
    "a text that is an object": (
        "train.jsonl",
        '{"a": {"q": 1}, "b": "x", "label": 0}\n',
        {},
        "task 'mine', {tmp}/train.jsonl: column 'a' holds struct<q: int64>, not text; check text",
    ),
    "lists in lists in lists": (
        "train.jsonl",
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
        {},
        (
            "task 'mine': {tmp}/train.jsonl cannot be read as jsonl: row 0: not JSON: it is nested too "
            "deeply; mend that row"
        ),
    ),
    "JSON lines in UTF-16": (
        "train.jsonl",
        LINES.encode("utf-16"),
        {},
        "task 'mine': {tmp}/train.jsonl cannot be read as jsonl: it is UTF-16 text, not UTF-8; save it as UTF-8",
    ),
    "no bytes of Parquet": (
        "train.parquet",
        b"",
        {},
        "task 'mine': {tmp}/train.parquet cannot be read as parquet: Parquet file size is 0 bytes",
    ),
    "csv named parquet": (
        "train.parquet",
        GOOD,
        {},
        (
            "task 'mine': {tmp}/train.parquet cannot be read as parquet: Parquet magic bytes not found in "
            "footer. Either the file is corrupted or this is not a parquet file."
        ),
    ),
    "half of a Parquet": (
        "train.parquet",
        lambda whole: whole[: len(whole) // 2],
        {},
        (
            "task 'mine': {tmp}/train.parquet cannot be read as parquet: Parquet magic bytes not found in "
            "footer. Either the file is corrupted or this is not a parquet file."
        ),
    ),
    "a Parquet without its middle": (
        "train.parquet",
        lambda whole: whole[:100] + whole[-200:],
        {},
        (
            "task 'mine': {tmp}/train.parquet cannot be read as parquet: Parquet file size is 300 bytes, "
            "smaller than the size reported by footer's (686bytes)"
        ),
    ),
    "a page of zeros in a Parquet": (
        "train.parquet",
        lambda whole: whole[:20] + bytes(100) + whole[120:],
        {},
        (
            "task 'mine': {tmp}/train.parquet cannot be read as parquet: Couldn't deserialize thrift: "
            "TProtocolException: Invalid data Deserializing page header failed."
        ),
    ),
    "texts that are bytes": (
        "train.parquet",
        {"a": [b"x"], "b": ["y"], "label": [0]},
        {},
        "task 'mine', {tmp}/train.parquet: column 'a' holds binary, not text; check text",
    ),
    "texts that are lists": (
        "train.parquet",
        {"a": [["x"]], "b": ["y"], "label": [0]},
        {},
        "task 'mine', {tmp}/train.parquet: column 'a' holds list<element: string>, not text; check text",
    ),
    "a column of Parquet twice": (
        "train.parquet",
        pa.table([["x"], ["x"], ["y"], [0]], names=["a", "a", "b", "label"]),
        {},
        "task 'mine', {tmp}/train.parquet: 2 columns have the name 'a'; rename all but one",
    ),
    "class names in another order": (
        "train.parquet",
        pa.table({"a": ["x"], "b": ["y"], "label": [0]}).replace_schema_metadata(
            {"huggingface": '{"info": {"features": {"label": {"names": ["yes", "no"]}}}}'}
        ),
        {},
        (
            "task 'mine', {tmp}/train.parquet: the file's class names are ['yes', 'no'], but "
            "suite.tasks.mine.head.label_names is ['no', 'yes']; the order gives the class ids, so they must agree"
        ),
    ),
    "ids that are lists": (
        "train.parquet",
        {"a": ["x"], "b": ["y"], "label": [0], "idx": [[1]]},
        {"id_column": "idx"},
        (
            "task 'mine', {tmp}/train.parquet: the id column holds list<element: int64>; ids are numbers or texts; "
            "set suite.tasks.mine.id_column to another column, or to null"
        ),
    ),
}
