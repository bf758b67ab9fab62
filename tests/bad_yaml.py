"""Files of a task of one's own that cannot be meant: how the good one is spoilt, and the whole of what is said.

``{tmp}`` stands for the folder of the ``task`` folder."""

from dataclasses import fields

from bam_lightning.config.data_config import HeadConfig, Metric

DEFAULTS = "defaults: [schema, /head: classification, _self_]\n"
GOOD = DEFAULTS + "path: DATA\ntext: [a, b]\nhead: {label_names: [n, y]}\nmetric: accuracy\n"

FILES = {
    "label names without brackets": (
        lambda good: good.replace("[n, y]", "n"),
        ("suite.tasks.mine.head.label_names (in task/mine.yaml): must be a list; put it into brackets, as in [VALUE]"),
    ),
    "a range without brackets": (
        lambda good: good.replace("label_names: [n, y]", "label_range: 0-5"),
        ("suite.tasks.mine.head.label_range (in task/mine.yaml): must be a list; put it into brackets, as in [VALUE]"),
    ),
    "no defaults": (
        lambda good: good.replace(DEFAULTS, ""),
        "suite.tasks.mine.head is missing; start the task's file with: defaults: [schema, /head: classification]",
    ),
    "no head": (
        lambda good: good.replace(", /head: classification", ""),
        "suite.tasks.mine.head is missing; start the task's file with: defaults: [schema, /head: classification]",
    ),
    "a head mistyped": (
        lambda good: good.replace("/head: classification", "/head: clasification"),
        (
            "no head 'clasification'; choices: choice, classification, hl_gauss, multi_label, ordinal, regression, "
            "san, span, tagging; did you mean 'classification'?"
        ),
    ),
    "defaults that are no list": (
        lambda good: good.replace(DEFAULTS, "defaults: schema\n"),
        "Invalid defaults list in 'task/mine', defaults must be a list (got str)",
    ),
    "a metric mistyped": (
        lambda good: good.replace("accuracy", "acuracy"),
        (
            f"suite.tasks.mine.metric names 'acuracy'; choices: {', '.join(metric.value for metric in Metric)}; "
            "did you mean 'accuracy'?"
        ),
    ),
    "a key mistyped": (
        lambda good: good.replace("text", "txet"),
        ("no option 'suite.tasks.mine.txet' (in task/mine.yaml); did you mean 'suite.tasks.mine.text'?"),
    ),
    "a key of the head mistyped": (
        lambda good: good.replace("label_names", "label_name"),
        (
            "no option 'suite.tasks.mine.head.label_name' (in task/mine.yaml); did you mean "
            "'suite.tasks.mine.head.label_names'?"
        ),
    ),
    "a tab": (
        lambda good: good.replace("path:", "\tpath:"),
        (
            "not YAML: while scanning for the next token found character '\\t' that cannot start any token in "
            '"{tmp}/task/mine.yaml", line 2, column 1'
        ),
    ),
    "a missing space": (
        lambda good: good.replace("metric: ", "metric:"),
        (
            'not YAML: while scanning a simple key in "{tmp}/task/mine.yaml", line 5, column 1 could not find '
            "expected ':' in \"{tmp}/task/mine.yaml\", line 6, column 1"
        ),
    ),
    "nothing in it": (
        lambda good: good[:0],
        "no value for suite.tasks.mine.path; give each one, as in suite.tasks.mine.path=VALUE",
    ),
    "a list": (
        lambda good: good.replace(":", "")[:0] + "- a\n- b\n",
        "task/mine.yaml: must be a mapping of names to values (name: value), got a list",
    ),
    "one word": (lambda good: good[:0] + "mine", "no option 'suite.tasks.mine.mine' (in task/mine.yaml)"),
    "a key twice": (
        lambda good: good + "metric: f1\n",
        (
            'not YAML: while constructing a mapping in "{tmp}/task/mine.yaml", line 1, column 1 found duplicate '
            'key metric in "{tmp}/task/mine.yaml", line 6, column 1'
        ),
    ),
    "an object of Python": (
        lambda good: good + "id_column: !!python/object/apply:os.system [echo]\n",
        (
            "not YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system' in \"{tmp}/task/mine.yaml\", line 6, column 12"
        ),
    ),
    "no path": (
        lambda good: good.replace("path: DATA\n", ""),
        "no value for suite.tasks.mine.path; give each one, as in suite.tasks.mine.path=VALUE",
    ),
    "an empty path": (
        lambda good: good.replace("path: DATA", "path:"),
        "suite.tasks.mine.path (in task/mine.yaml): must have a value, got null; leave it out for its default",
    ),
    "rows in words": (
        lambda good: good + "train_rows: many\n",
        (
            "suite.tasks.mine.train_rows (in task/mine.yaml): Value 'many' of type 'str' could not be converted to "
            "Integer"
        ),
    ),
    "not UTF-8": (
        lambda good: good.encode() + b"id_column: caf\xe9\n",
        (
            "{tmp}/task/mine.yaml is not UTF-8 text ('utf-8' codec can't decode byte 0xe9 in position 133: invalid "
            "continuation byte); save it as UTF-8"
        ),
    ),
    "a zero byte": (
        lambda good: good + "id_column: a\0b\n",
        (
            "not YAML: unacceptable character #x0000: special characters are not allowed in "
            '"{tmp}/task/mine.yaml", position 131'
        ),
    ),
    "two documents": (
        lambda good: good + "---\na: 1\n",
        (
            'not YAML: expected a single document in the stream in "{tmp}/task/mine.yaml", line 1, column 1 but '
            'found another document in "{tmp}/task/mine.yaml", line 6, column 1'
        ),
    ),
    "an interpolation of nothing": (
        lambda good: good + "id_column: ${nothing}\n",
        "suite.tasks.mine.id_column: Interpolation key 'nothing' not found",
    ),
    "an alias of nothing": (
        lambda good: good + "id_column: *nothing\n",
        "not YAML: found undefined alias 'nothing' in \"{tmp}/task/mine.yaml\", line 6, column 12",
    ),
    "a file that contains itself": (
        lambda good: good[:0] + "subset: &a [*a]\n",
        "a YAML file or an option contains itself (an alias such as *name inside what it names); write it out",
    ),
    "a head that is a list": (
        lambda good: good.replace("head: {label_names: [n, y]}", "head: [n, y]"),
        (
            f"task/mine.yaml: must be a mapping of {', '.join(field.name for field in fields(HeadConfig))}, in a YAML "
            "file of its group; got list"
        ),
    ),
    "a path with many slashes": (
        lambda good: good.replace("DATA", "my/data/mine"),
        "task 'mine': no file or folder {tmp}/my/data/mine (paths are relative to {tmp}); set suite.tasks.mine.path",
    ),
    "a home of nobody": (
        lambda good: good.replace("DATA", "~nobody_at_all/mine"),
        "suite.tasks.mine.path: no home folder is known for '~nobody_at_all/mine'; write the whole path",
    ),
    "a folder that is not there": (
        lambda good: good.replace("DATA", "/nowhere/mine"),
        "task 'mine': no file or folder /nowhere/mine; set suite.tasks.mine.path",
    ),
}
