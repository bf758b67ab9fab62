"""Lines of `predict` that cannot be meant: command, words, what lies there before, the whole of what is said."""

from bad_places import INTO, RUN, copied, file, folder, pairs

MISSING = "input: no file {tmp}/in.csv; files there: none; set --input"
CASES = {
    "predict: no run": ("predict", [], None, "Missing option '--run'; see `bam predict --help`"),
    "predict: an unknown option": (
        "predict",
        ["--rn=x"],
        None,
        "No such option: --rn (Possible options: --run); see `bam predict --help`",
    ),
    "predict: a word": (
        "predict",
        ["rte", "--run=x"],
        None,
        "Got unexpected extra argument(s) (rte); if a value has spaces, put quotes around it; see `bam predict --help`",
    ),
    "predict: an option of the former style": (
        "predict",
        ["run=x"],
        None,
        "`run=x` is now `--run x`; see `bam predict --help`",
    ),
    "predict: several of the former style": (
        "predict",
        ["--run=x", "task=[rte, stsb]"],
        None,
        "`task=[rte, stsb]` is now `--task rte --task stsb`; see `bam predict --help`",
    ),
    "predict: columns of the former style": (
        "predict",
        ["--run=x", "columns=[a b,c]"],
        None,
        "`columns=[a b,c]` is now `--column 'a b' --column c`; see `bam predict --help`",
    ),
    "predict: a switch of the former style": (
        "predict",
        ["--run=x", "overwrite=true"],
        None,
        "`overwrite=true` is now `--overwrite`; see `bam predict --help`",
    ),
    "predict: no such run": (
        "predict",
        ["--run=abc", "--store={store}", *INTO],
        pairs,
        ("no Run 'abc' in {store}; `bam runs` lists them; or give a folder, or a hub id such as me/my-model"),
    ),
    "predict: no store": (
        "predict",
        ["--run=abc", "--store={tmp}/nothing", *INTO],
        pairs,
        (
            "no Run 'abc': there is no store at {tmp}/nothing; give the paths.store of the job that trained it "
            "(--store DIR), or a folder, or a hub id such as me/my-model"
        ),
    ),
    "predict: no input": ("predict", [*RUN, *INTO], None, MISSING),
    "predict: a folder for input": ("predict", [*RUN, *INTO], folder("in.csv"), MISSING),
    "predict: another ending": (
        "predict",
        [*RUN, "--input=in.xlsx"],
        None,
        "input: 'in.xlsx' is a spreadsheet; save the sheet as CSV",
    ),
    "predict: no such format": (
        "predict",
        [*RUN, *INTO, "--input-format=xml"],
        pairs,
        (
            "Invalid value for '--input-format': Value error, 'xml' is not one of 'csv', 'tsv', 'json', 'jsonl', "
            "'parquet'; see `bam predict --help`"
        ),
    ),
    "predict: no such task": (
        "predict",
        [*RUN, *INTO, "--task=rtee"],
        pairs,
        "task names 'rtee'; choices: sst2, stsb, rte; did you mean 'rte'?",
    ),
    "predict: columns of another task": (
        "predict",
        [*RUN, *INTO, "--task=sst2"],
        pairs,
        (
            "input: task 'sst2' reads sentence; the file's columns: sentence1, sentence2; name those to read, as in "
            "--task sst2 --column sentence"
        ),
    ),
    "predict: columns of no task": (
        "predict",
        [*RUN, *INTO],
        file("in.csv", "first;second\na;b\n"),
        (
            "input: no task's columns are in it; the file's columns: first, second; name those to read, as in --task "
            "sst2 --column sentence"
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
        [*RUN, "--input={tmp}/in.parquet", "--output={tmp}/out.csv"],
        file("in.parquet", b"PAR1"),
        (
            "{tmp}/in.parquet cannot be read as parquet: Parquet file size is 4 bytes, smaller than the minimum "
            "file footer (8 bytes)"
        ),
    ),
    "predict: onto itself": (
        "predict",
        [*RUN, "--input={tmp}/in.csv", "--output={tmp}/in.csv"],
        pairs,
        "output: {tmp}/in.csv is the input; give another file",
    ),
    "predict: into no folder": (
        "predict",
        [*RUN, "--input={tmp}/in.csv", "--output={tmp}/no/out.csv"],
        pairs,
        "output: no folder {tmp}/no",
    ),
    "predict: no such device": (
        "predict",
        [*RUN, *INTO, "--device=gpu"],
        pairs,
        "device names 'gpu'; choices: cpu; did you mean 'cpu'?",
    ),
    "predict: no such precision": (
        "predict",
        [*RUN, *INTO, "--precision=half"],
        pairs,
        (
            "Invalid value for '--precision': Value error, 'half' is not one of 'auto', 'bf16-mixed', '32-true'; "
            "see `bam predict --help`"
        ),
    ),
    "predict: neither yes nor no": (
        "predict",
        [*RUN, *INTO, "--overwrite=maybe"],
        pairs,
        "Option '--overwrite' does not take a value; see `bam predict --help`",
    ),
    "predict: a folder without a model": (
        "predict",
        ["--run={tmp}/m", *INTO],
        lambda *places: (pairs(*places), folder("m")(*places)),
        "no saved model in {tmp}/m: expected run.json, found nothing",
    ),
    "predict: a path that is no folder": (
        "predict",
        ["--run={tmp}/nothing", *INTO],
        pairs,
        "no folder {tmp}/nothing; give a Run, a folder, or a hub id such as me/my-model",
    ),
    "predict: a hub id out of reach": (
        "predict",
        ["--run=nobody/nothing", *INTO],
        pairs,
        (
            "model 'nobody/nothing' is not a folder, and could not be read from the hub (Cannot find an appropriate "
            "cached snapshot folder for the specified revision on the local disk and outgoing traffic has been "
            "disabled. To enable repo look-ups and downloads online, set 'HF_HUB_OFFLINE=0' as environment "
            "variable.)"
        ),
    ),
    "predict: a manifest of another kind": (
        "predict",
        ["--run={tmp}/model", *INTO],
        lambda *places: (pairs(*places), copied("run.json", lambda kept: kept.pop("reads"))(*places)),
        (
            "{tmp}/model/run.json does not describe a model that this version can read (KeyError: 'reads'); download "
            "or copy the model again"
        ),
    ),
    "predict: a precision that is none": (
        "predict",
        ["--run={tmp}/model", *INTO],
        lambda *places: (
            pairs(*places),
            copied("run.json", lambda kept: kept["spec"].update(precision="half"))(*places),
        ),
        (
            "{tmp}/model/run.json does not describe a model that this version can read (ValueError: 'half' is not a "
            "precision); download or copy the model again"
        ),
    ),
    "predict: a head of a stranger": (
        "predict",
        ["--run={tmp}/model", *INTO],
        lambda *places: (
            pairs(*places),
            copied("run.json", lambda kept: kept["spec"]["tasks"]["rte"]["head"].update(_target_="os.system"))(*places),
        ),
        (
            "task 'rte' of {tmp}/model needs the head 'os.system', which is not part of bam_lightning; if you "
            "trust this code, allow it with --head os.system (in Python: heads=['os.system'])"
        ),
    ),
}
