"""Lines of the other commands that cannot be meant: command, words, what lies there, the whole of what is said."""

from bad_places import RUN, file, folder

CASES = {
    "export: no output": ("export", [*RUN], None, "Missing option '--output'; see `bam export --help`"),
    "export: no such format": (
        "export",
        [*RUN, "--output={tmp}/o", "--format=tf"],
        None,
        "Invalid value for '--format': Value error, 'tf' is not one of 'bam', 'hf', 'onnx'; see `bam export --help`",
    ),
    "export: a task of the whole": (
        "export",
        [*RUN, "--output={tmp}/o", "--task=rte"],
        None,
        "format bam exports the whole model; omit the tasks, or choose format hf or onnx",
    ),
    "export: no such task": (
        "export",
        [*RUN, "--output={tmp}/o", "--format=hf", "--task=rtee"],
        None,
        "task names 'rtee'; choices: sst2, stsb, rte; did you mean 'rte'?",
    ),
    "export: onto a file": (
        "export",
        [*RUN, "--output={tmp}/o"],
        file("o", "mine"),
        "output: {tmp}/o exists and is not an export; give a new folder",
    ),
    "export: into no folder": ("export", [*RUN, "--output={tmp}/no/o"], None, "output: no folder {tmp}/no"),
    "serve: no run": ("serve", [], None, "Missing option '--run'; see `bam serve --help`"),
    "serve: a port too high": ("serve", ["--run=x", "--port=99999"], None, "port must be in [0, 65535], got 99999"),
    "serve: a port in words": (
        "serve",
        ["--run=x", "--port=http"],
        None,
        (
            "Invalid value for '--port': Input should be a valid integer, unable to parse string as an integer; see "
            "`bam serve --help`"
        ),
    ),
    "serve: no rows": ("serve", ["--run=x", "--rows=0"], None, "rows must be at least 1, got 0"),
    "serve: another host": (
        "serve",
        ["--run=x", "--host=203.0.113.1", "--port=0"],
        None,
        ("cannot listen on 203.0.113.1 port 0 (Cannot assign requested address); choose others with --host and --port"),
    ),
    "runs: no store": (
        "runs",
        ["--store={tmp}/nothing"],
        None,
        "no store at {tmp}/nothing; give the paths.store of the jobs as --store DIR",
    ),
    "runs: a file for a store": (
        "runs",
        ["--store={tmp}/s"],
        file("s", ""),
        "no store at {tmp}/s; give the paths.store of the jobs as --store DIR",
    ),
    "runs: no such state": (
        "runs",
        ["--store={store}", "--state=done"],
        None,
        "state names 'done'; choices: finished, in training, stopped, damaged",
    ),
    "runs: no such experiment": (
        "runs",
        ["--store={store}", "--experiment=single_mult"],
        None,
        "experiment names 'single_mult'; choices: single_multi; did you mean 'single_multi'?",
    ),
    "runs: no such task": (
        "runs",
        ["--store={store}", "--task=cola"],
        None,
        "task names 'cola'; choices: rte, sst2, stsb",
    ),
    "runs: deleting all": (
        "runs",
        ["--store={store}", "--delete=all"],
        None,
        "delete names 'all'; choices: unused, damaged",
    ),
    "runs: deleting and forgetting": (
        "runs",
        ["--store={store}", "--delete=unused", "--forget=single_multi"],
        None,
        "give either --delete or --forget, one after the other",
    ),
    "tables: no table": ("tables", ["--store={store}"], None, "Missing argument 'table'; see `bam tables --help`"),
    "tables: a table of the former style": (
        "tables",
        ["table=table1"],
        None,
        "`table=table1` is now `table1`; see `bam tables --help`",
    ),
    "tables: no such table": (
        "tables",
        ["tabel1", "--store={store}"],
        None,
        "no table 'tabel1'; tables: table1, table2, table3, table4, table5, or a YAML file; did you mean 'table1'?",
    ),
    "tables: no store": (
        "tables",
        ["table1", "--store={tmp}/nothing"],
        None,
        "no store at {tmp}/nothing; give the paths.store of the jobs as --store DIR",
    ),
    "tables: an empty store": (
        "tables",
        ["table1", "--store={tmp}/empty"],
        folder("empty/runs"),
        (
            "no finished job of single, multi, single_single, multi_multi, single_multi, "
            "single_multi_single_multi with scale=demo fidelity=paper in {tmp}/empty; there: none; train them, or give "
            "--scale, --fidelity or --store"
        ),
    ),
    "evaluate: an empty csv": (
        "evaluate",
        [*RUN, "--task=sst2", "--input={tmp}/in.csv"],
        file("in.csv", ""),
        "task 'sst2': {tmp}/in.csv cannot be read as csv: it is empty; its first line must name the columns",
    ),
    "evaluate: a csv without rows": (
        "evaluate",
        [*RUN, "--task=sst2", "--input={tmp}/in.csv"],
        file("in.csv", "sentence,label\n"),
        "{tmp}/in.csv: expected labelled rows, found none",
    ),
    "evaluate: empty json lines": (
        "evaluate",
        [*RUN, "--task=sst2", "--input={tmp}/in.jsonl"],
        file("in.jsonl", ""),
        "{tmp}/in.jsonl: expected labelled rows, found none",
    ),
    "tables: no seeds": ("tables", ["table1", "--store={store}", "--seeds=0"], None, "seeds must be at least 1, got 0"),
    "tables: no job of the scale": (
        "tables",
        ["table1", "--scale=paper", "--store={store}"],
        None,
        (
            "no finished job of single, multi, single_single, multi_multi, single_multi, "
            "single_multi_single_multi with scale=paper "
            "fidelity=paper in {store}; there: single_multi (small, paper, finished); train them, or give --scale, "
            "--fidelity or --store"
        ),
    ),
    "tables: a file without rows": (
        "tables",
        ["{tmp}/t.yaml", "--store={store}"],
        file("t.yaml", "title: mine\n"),
        "table t: rows is empty; give at least one, as in rows: {{single: Single}}",
    ),
    "tables: a file that is no YAML": (
        "tables",
        ["{tmp}/t.yaml", "--store={store}"],
        file("t.yaml", "rows: [a"),
        "{tmp}/t.yaml, line 1: while parsing a flow sequence; for the form see {conf}/table/table1.yaml",
    ),
    "tables: a test mistyped": (
        "tables",
        ["{tmp}/t.yaml", "--store={store}"],
        file("t.yaml", "rows: {single: S}\ntest: t_test\n"),
        "table t: test names 't_test'; choices: bootstrap, mann_whitney",
    ),
    "tables: a row against nothing": (
        "tables",
        ["{tmp}/t.yaml", "--store={store}"],
        file("t.yaml", "rows: {single: S}\nagainst: {single: [multi]}\n"),
        "table t: against names 'multi'; choices: single",
    ),
    "tables: a file not UTF-8": (
        "tables",
        ["{tmp}/t.yaml", "--store={store}"],
        file("t.yaml", b"title: caf\xe9\n"),
        (
            "{tmp}/t.yaml: 'utf-8' codec can't decode byte 0xe9 in position 10: invalid continuation byte; for the "
            "form see {conf}/table/table1.yaml"
        ),
    ),
    "tables: onto a file": (
        "tables",
        ["table1", "--scale=small", "--output={tmp}/o", "--store={store}"],
        file("o", ""),
        "output: cannot write into {tmp}/o (File exists); give another folder",
    ),
    "submit: no run": (
        "submit",
        [],
        None,
        "give either --run RUN_ID, as in the Plan of the job that trained it, or --best-of EXPERIMENT, which takes its "
        "best Runs on dev; got neither",
    ),
    "submit: no such run": (
        "submit",
        ["--run=abc", "paths.store={store}"],
        None,
        "no Run 'abc' in {store}; `bam runs` lists them",
    ),
    "submit: no store": (
        "submit",
        ["--run={run}", "paths.store={tmp}/nothing"],
        None,
        "no store at {tmp}/nothing; give the paths.store of the jobs as --store DIR",
    ),
    "submit: an unknown word": ("submit", ["--run={run}", "seeed=1"], None, "no option 'seeed'; did you mean 'seed'?"),
    "submit: a scale without tests": (
        "submit",
        ["--run={run}", "paths.store={store}", "scale=demo"],
        None,
        "the suite has no test set 'cola'; a submission needs scale=small, base or paper",
    ),
    "tune: values above 1": (
        "tune",
        ["--value=2", "paths.store={tmp}/store"],
        None,
        "values must be at least two different numbers to choose from, got [2.0]",
    ),
    "tune: no seeds": ("tune", ["--seeds=0", "paths.store={tmp}/store"], None, "seeds must be at least 1, got 0"),
    "tune: an unknown word": ("tune", ["seeed=1"], None, "no option 'seeed'; did you mean 'seed'?"),
    "tune: no values": (
        "tune",
        ["--value="],
        None,
        (
            "Invalid value for '--value': Input should be a valid number, unable to parse string as a number; see "
            "`bam tune --help`"
        ),
    ),
    "tune: options of the former style": (
        "tune",
        ["scale=small", "values=[1.0,0.9]"],
        None,
        "`values=[1.0,0.9]` is now `--value 1.0 --value 0.9`; see `bam tune --help`",
    ),
    "dashboard: no entity": ("dashboard", [], None, "Missing option '--entity'; see `bam dashboard --help`"),
    "dashboard: metrics for some tasks": (
        "dashboard",
        ["--entity=me", "--task=a", "--task=b", "--metric=f1"],
        None,
        "metrics must name one metric per task, got 1 for 2 tasks",
    ),
    "dashboard: an unknown word": (
        "dashboard",
        ["--entity=me", "--tsks=[a]"],
        None,
        "No such option: --tsks (Possible options: --task); see `bam dashboard --help`",
    ),
}
