"""CSV and TSV that are no table of the task; see ``bad_files``."""

from bad_files import FOLDER, GOOD, LINK

CASES = {
    "nothing in it": (
        "train.csv",
        "",
        {},
        ("task 'mine': {tmp}/train.csv cannot be read as csv: it is empty; its first line must name the columns"),
    ),
    "a header alone": (
        "train.csv",
        "a,b,label\n",
        {},
        "task 'mine', {tmp}/train.csv: the split is empty; check the file, or choose another split",
    ),
    "empty lines": (
        "train.csv",
        "\n\n",
        {},
        ("task 'mine': {tmp}/train.csv cannot be read as csv: it is empty; its first line must name the columns"),
    ),
    "UTF-16": (
        "train.csv",
        GOOD.encode("utf-16"),
        {},
        "task 'mine': {tmp}/train.csv cannot be read as csv: it is UTF-16 text, not UTF-8; save it as UTF-8",
    ),
    "Latin-1": (
        "train.csv",
        b"a,b,label\ncaf\xe9,x,0\n",
        {},
        (
            "task 'mine': {tmp}/train.csv cannot be read as csv: row 0: column 'a' is not UTF-8 text; save "
            "the file as UTF-8"
        ),
    ),
    "a field too few": (
        "train.csv",
        "a,b,label\none,x\n",
        {},
        ("task 'mine': {tmp}/train.csv cannot be read as csv: row 0: 2 fields, the header has 3; mend that row"),
    ),
    "a field too many": (
        "train.csv",
        "a,b,label\none,x,1,2\n",
        {},
        ("task 'mine': {tmp}/train.csv cannot be read as csv: row 0: 4 fields, the header has 3; mend that row"),
    ),
    "a field too few in a tsv": (
        "train.tsv",
        "a\tb\tlabel\none\tx\n",
        {},
        ("task 'mine': {tmp}/train.tsv cannot be read as tsv: row 0: 2 fields, the header has 3; mend that row"),
    ),
    "a column twice": (
        "train.csv",
        "a,b,label,a\none,x,1,two\n",
        {},
        "task 'mine', {tmp}/train.csv: 2 columns have the name 'a'; rename all but one",
    ),
    "the label column twice": (
        "train.csv",
        "a,b,label,label\none,x,1,0\n",
        {},
        "task 'mine', {tmp}/train.csv: 2 columns have the name 'label'; rename all but one",
    ),
    "a quote that is never closed": (
        "train.csv",
        'a,b,label\n"one,x,1\n' + "two,y,0\n" * 400_000,
        {},
        (
            "task 'mine': {tmp}/train.csv cannot be read as csv: row 0: not CSV: a field is longer than 1 "
            "MiB, perhaps by a quote that is never closed; mend that row"
        ),
    ),
    "a row of six megabytes": (
        "train.csv",
        "a,b,label\n" + "x " * 3_000_000 + ",y,1\n",
        {},
        (
            "task 'mine': {tmp}/train.csv cannot be read as csv: row 0: not CSV: a field is longer than 1 "
            "MiB, perhaps by a quote that is never closed; mend that row"
        ),
    ),
    "no text column": (
        "train.csv",
        "a,label\none,1\n",
        {},
        (
            "task 'mine', {tmp}/train.csv: no column 'b'; columns there: a, label; set text, label "
            "or id_column (null: none) under suite.tasks.mine"
        ),
    ),
    "no label column": (
        "train.csv",
        "a,b\none,x\n",
        {},
        (
            "task 'mine', {tmp}/train.csv: no column 'label'; columns there: a, b; set text, label "
            "or id_column (null: none) under suite.tasks.mine"
        ),
    ),
    "blanks in the header": (
        "train.csv",
        "a, b, label\none,x,1\n",
        {},
        (
            "task 'mine', {tmp}/train.csv: no column 'b'; columns there: a, ' b', ' label'; set text, "
            "label or id_column (null: none) under suite.tasks.mine"
        ),
    ),
    "an empty text": (
        "train.csv",
        "a,b,label\n ,x,0\n",
        {},
        (
            "task 'mine', {tmp}/train.csv, row 0: column 'a' is empty; fill it, remove the row, or allow it with "
            "suite.tasks.mine.allow_empty_text=true"
        ),
    ),
    "an id twice": (
        "train.csv",
        "a,b,label,idx\none,x,0,7\ntwo,y,1,7\n",
        {"id_column": "idx"},
        (
            "task 'mine', {tmp}/train.csv: id 7 stands in rows 0 and 1; ids must be unique; mend the file, or set "
            "suite.tasks.mine.id_column=null"
        ),
    ),
    "no id column": (
        "train.csv",
        GOOD,
        {"id_column": "idx"},
        (
            "task 'mine', {tmp}/train.csv: no column 'idx'; columns there: a, b, label; set text, "
            "label or id_column (null: none) under suite.tasks.mine"
        ),
    ),
    "a folder for a file": (
        "train.csv",
        FOLDER,
        {},
        (
            "task 'mine': no split 'train' in {tmp} (looked for .csv, .tsv, .json, .jsonl, .parquet); "
            "files there: train.csv, validation.csv; name one with suite.tasks.mine.train_split=, "
            ".dev_split= or .test_split="
        ),
    ),
    "a link to nothing": (
        "train.csv",
        LINK,
        {},
        (
            "task 'mine': no split 'train' in {tmp} (looked for .csv, .tsv, .json, .jsonl, .parquet); "
            "files there: train.csv, validation.csv; name one with suite.tasks.mine.train_split=, "
            ".dev_split= or .test_split="
        ),
    ),
    "a split that is not there": (
        "train.csv",
        GOOD,
        {"train_split": "trian"},
        (
            "task 'mine': no split 'trian' in {tmp} (looked for .csv, .tsv, .json, .jsonl, .parquet); "
            "files there: train.csv, validation.csv; name one with suite.tasks.mine.train_split=, "
            ".dev_split= or .test_split="
        ),
    ),
    "a split with a name too long": (
        "train.csv",
        GOOD,
        {"train_split": "a" * 300},
        (
            "task 'mine': no split 'LONG' in {tmp} (looked for .csv, .tsv, .json, .jsonl, .parquet); files "
            "there: train.csv, validation.csv; name one with suite.tasks.mine.train_split=, .dev_split= or "
            ".test_split="
        ),
    ),
}
