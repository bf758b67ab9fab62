"""Labels in CSV that cannot be learned from; see ``bad_files``."""

from bad_files import SCORES, SETS

CASES = {
    "a missing label": (
        "train.csv",
        "a,b,label\none,x,\ntwo,y,1\n",
        {},
        "task 'mine', {tmp}/train.csv, row 0: the label is missing (1 of 2 rows has none); fill or remove such rows, "
        "or set suite.tasks.mine.allow_missing_labels=true: a teacher alone then teaches them",
    ),
    "a label NaN": (
        "train.csv",
        "a,b,label\none,x,NaN\ntwo,y,1\n",
        {},
        (
            "task 'mine', {tmp}/train.csv, row 0: label 'NaN' is neither one of no, yes nor a class id "
            "from 0 to 1; check suite.tasks.mine.head.label_names"
        ),
    ),
    "a label out of range": (
        "train.csv",
        "a,b,label\none,x,7\n",
        {},
        (
            "task 'mine', {tmp}/train.csv, row 0: label '7' is neither one of no, yes nor a class id from "
            "0 to 1; check suite.tasks.mine.head.label_names"
        ),
    ),
    "a label name unknown": (
        "train.csv",
        "a,b,label\none,x,maybe\n",
        {},
        (
            "task 'mine', {tmp}/train.csv, row 0: label 'maybe' is neither one of no, yes nor a class id from 0 to "
            "1; check suite.tasks.mine.head.label_names"
        ),
    ),
    "a label between two classes": (
        "train.csv",
        "a,b,label\none,x,0.5\n",
        {},
        (
            "task 'mine', {tmp}/train.csv, row 0: label '0.5' is neither one of no, yes nor a class id "
            "from 0 to 1; check suite.tasks.mine.head.label_names"
        ),
    ),
    "a label with 26 digits": (
        "train.csv",
        "a,b,label\none,x,10000000000000000000000000\n",
        {},
        (
            "task 'mine', {tmp}/train.csv, row 0: label '10000000000000000000000000' is neither one of no, "
            "yes nor a class id from 0 to 1; check suite.tasks.mine.head.label_names"
        ),
    ),
    "labels that are dates": (
        "train.csv",
        "a,b,label\none,x,2020-01-01\n",
        {},
        (
            "task 'mine', {tmp}/train.csv, row 0: label '2020-01-01' is neither one of no, yes nor a class "
            "id from 0 to 1; check suite.tasks.mine.head.label_names"
        ),
    ),
    "labels all -1": (
        "train.csv",
        "a,b,label\none,x,-1\n",
        {},
        (
            "task 'mine', {tmp}/train.csv: all labels are -1, so this is an unlabelled test split, which can be "
            "neither trained on nor scored; choose another split under suite.tasks.mine"
        ),
    ),
    "labels true and false": (
        "train.csv",
        "a,b,label\none,x,true\n",
        {},
        (
            "task 'mine', {tmp}/train.csv, row 0: label 'true' is neither one of no, yes nor a class id "
            "from 0 to 1; check suite.tasks.mine.head.label_names, or write class ids for truth values"
        ),
    ),
    "a score in words": (
        "train.csv",
        "a,b,label\none,x,high\n",
        SCORES,
        "task 'mine', {tmp}/train.csv, row 0: label 'high' is not a number from 0 to 5 (label_range)",
    ),
    "a score out of range": (
        "train.csv",
        "a,b,label\none,x,5.5\n",
        SCORES,
        "task 'mine', {tmp}/train.csv, row 0: label '5.5' is not a number from 0 to 5 (label_range)",
    ),
    "an infinite score": (
        "train.csv",
        "a,b,label\none,x,-inf\n",
        SCORES,
        "task 'mine', {tmp}/train.csv, row 0: label '-inf' is not a number from 0 to 5 (label_range)",
    ),
    "a set with an unknown name": (
        "train.csv",
        "a,b,label\none,x,p|z\n",
        SETS,
        (
            "task 'mine', {tmp}/train.csv, row 0: label 'z' is neither one of p, q nor a class id from 0 to 1; "
            "check suite.tasks.mine.head.label_names, and suite.tasks.mine.label_separator, now '|'"
        ),
    ),
    "sets with another separator": (
        "train.csv",
        "a,b,label\none,x,p/q\n",
        SETS,
        (
            "task 'mine', {tmp}/train.csv, row 0: label 'p/q' is neither one of p, q nor a class id from 0 to 1; "
            "check suite.tasks.mine.head.label_names, and suite.tasks.mine.label_separator, now '|'"
        ),
    ),
    "sets all empty": (
        "train.csv",
        'a,b,label\none,x,""\n',
        SETS,
        (
            "task 'mine', {tmp}/train.csv: no row has a label, so it can be neither trained on nor scored; choose "
            "another split or label under suite.tasks.mine"
        ),
    ),
    "a label twice in a set": (
        "train.csv",
        "a,b,label\none,x,p|p\n",
        SETS,
        (
            "task 'mine', {tmp}/train.csv, row 0: label 'p' stands there twice; a row holds the names or ids of "
            "its labels, each once (not a 0 or 1 for every label); mend the file"
        ),
    ),
}
