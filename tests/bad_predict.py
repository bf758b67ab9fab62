"""Lines of `predict` that cannot be meant: command, words, what lies there before, the whole of what is said."""

from bad_places import INTO, RUN, copied, file, folder, pairs

CASES = {
    "predict: no run": ("predict", [], None, "no value for run; give each one, as in run=VALUE"),
    "predict: an unknown option": (
        "predict",
        ["rn=x"],
        None,
        (
            "no option 'rn'; did you mean 'run'?; known: store, run, task, input, output, input_format, "
            "output_format, columns, escape_formulas, device, precision, heads, overwrite"
        ),
    ),
    "predict: a word": (
        "predict",
        ["rte"],
        None,
        (
            "options have the form name=value, got 'rte'; known: store, run, task, input, output, input_format, "
            "output_format, columns, escape_formulas, device, precision, heads, overwrite"
        ),
    ),
    "predict: no such run": (
        "predict",
        ["run=abc", "store={store}", *INTO],
        pairs,
        ("no Run 'abc' in {store}; `bam runs` lists them; else give a folder, or a hub id such as me/my-model"),
    ),
    "predict: no store": (
        "predict",
        ["run=abc", "store={tmp}/nothing", *INTO],
        pairs,
        (
            "no Run 'abc': there is no store at {tmp}/nothing; give the paths.store of the job that trained it as "
            "store=DIR, or a folder, or a hub id such as me/my-model"
        ),
    ),
    "predict: no input": ("predict", [*RUN, *INTO], None, "input: no file {tmp}/in.csv"),
    "predict: a folder for input": ("predict", [*RUN, *INTO], folder("in.csv"), "input: no file {tmp}/in.csv"),
    "predict: another ending": (
        "predict",
        [*RUN, "input=in.xlsx"],
        None,
        "input: 'in.xlsx' has none of the endings csv, tsv, jsonl, parquet; give input_format, one of them",
    ),
    "predict: no such format": (
        "predict",
        [*RUN, *INTO, "input_format=xml"],
        pairs,
        "input_format names 'xml'; choices: csv, tsv, jsonl, parquet",
    ),
    "predict: no such task": (
        "predict",
        [*RUN, *INTO, "task=rtee"],
        pairs,
        "task names 'rtee'; choices: sst2, stsb, rte; did you mean 'rte'?",
    ),
    "predict: columns of another task": (
        "predict",
        [*RUN, *INTO, "task=sst2"],
        pairs,
        (
            "input: task 'sst2' reads sentence; columns there: sentence1, sentence2; say which to read, as in "
            "task=sst2 columns=[sentence]"
        ),
    ),
    "predict: semicolons": (
        "predict",
        [*RUN, *INTO],
        file("in.csv", "sentence1;sentence2\na;b\n"),
        (
            "input: no task has its columns there; columns there: sentence1;sentence2; the columns seem to be "
            "separated by ';', a csv has ','; say which to read, as in task=sst2 columns=[sentence]"
        ),
    ),
    "predict: UTF-16": (
        "predict",
        [*RUN, *INTO],
        file("in.csv", "sentence1\n".encode("utf-16")),
        "{tmp}/in.csv is UTF-16 text, not UTF-8; save it as UTF-8",
    ),
    "predict: an empty file": (
        "predict",
        [*RUN, *INTO],
        file("in.csv", ""),
        "{tmp}/in.csv is empty; its first line must name the columns",
    ),
    "predict: a column twice": (
        "predict",
        [*RUN, *INTO],
        file("in.csv", "a,a\n1,2\n"),
        "{tmp}/in.csv has two columns of one name: a, a; rename one",
    ),
    "predict: half of a Parquet": (
        "predict",
        [*RUN, "input={tmp}/in.parquet", "output={tmp}/out.csv"],
        file("in.parquet", b"PAR1"),
        (
            "{tmp}/in.parquet cannot be read as parquet: Parquet file size is 4 bytes, smaller than the minimum "
            "file footer (8 bytes)"
        ),
    ),
    "predict: onto itself": (
        "predict",
        [*RUN, "input={tmp}/in.csv", "output={tmp}/in.csv"],
        pairs,
        "output: {tmp}/in.csv is the input; give another file",
    ),
    "predict: into no folder": (
        "predict",
        [*RUN, "input={tmp}/in.csv", "output={tmp}/no/out.csv"],
        pairs,
        "output: no folder {tmp}/no",
    ),
    "predict: no such device": (
        "predict",
        [*RUN, *INTO, "device=gpu"],
        pairs,
        "device names 'gpu'; choices: cpu; did you mean 'cpu'?",
    ),
    "predict: no such precision": (
        "predict",
        [*RUN, *INTO, "precision=half"],
        pairs,
        "precision names 'half'; choices: auto, float32, bfloat16",
    ),
    "predict: neither yes nor no": (
        "predict",
        [*RUN, *INTO, "overwrite=maybe"],
        pairs,
        "overwrite names 'maybe'; choices: true, false",
    ),
    "predict: a folder without a model": (
        "predict",
        ["run={tmp}/m", *INTO],
        lambda *places: (pairs(*places), folder("m")(*places)),
        "no saved model in {tmp}/m: no run.json; there: nothing",
    ),
    "predict: a path that is no folder": (
        "predict",
        ["run={tmp}/nothing", *INTO],
        pairs,
        "no folder {tmp}/nothing; give a Run, a folder, or a hub id such as me/my-model",
    ),
    "predict: a hub id out of reach": (
        "predict",
        ["run=nobody/nothing", *INTO],
        pairs,
        (
            "model 'nobody/nothing' is no folder, and could not be read from the hub (Cannot find an appropriate "
            "cached snapshot folder for the specified revision on the local disk and outgoing traffic has been "
            "disabled. To enable repo look-ups and downloads online, set 'HF_HUB_OFFLINE=0' as environment "
            "variable.)"
        ),
    ),
    "predict: a manifest of another kind": (
        "predict",
        ["run={tmp}/model", *INTO],
        lambda *places: (pairs(*places), copied("run.json", lambda kept: kept.pop("reads"))(*places)),
        (
            "{tmp}/model/run.json is not that of a model this version reads (KeyError: 'reads'); download or copy "
            "the model again"
        ),
    ),
    "predict: a precision that is none": (
        "predict",
        ["run={tmp}/model", *INTO],
        lambda *places: (
            pairs(*places),
            copied("run.json", lambda kept: kept["spec"].update(precision="half"))(*places),
        ),
        (
            "{tmp}/model/run.json is not that of a model this version reads (ValueError: 'half' is not a valid "
            "Precision); download or copy the model again"
        ),
    ),
    "predict: a head of a stranger": (
        "predict",
        ["run={tmp}/model", *INTO],
        lambda *places: (
            pairs(*places),
            copied("run.json", lambda kept: kept["spec"]["tasks"]["rte"]["head"].update(_target_="os.system"))(*places),
        ),
        (
            "task 'rte' of {tmp}/model needs the head 'os.system', which is not part of bam_lightning; if you "
            "trust that code, allow it with heads=[os.system]"
        ),
    ),
}
