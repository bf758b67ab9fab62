"""The ``bam`` command. The module behind a command is imported when that command runs, so that ``--help`` is fast."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperArgument, TyperCommand

from bam_lightning.config.compose import console
from bam_lightning.config.renamed import renamed
from bam_lightning.config.validation import require_extra

HYDRA_WORDS = {"allow_extra_args": True}
OLD_WORD = re.compile(r"(?:paths\.)?([a-z_]+)=(.*)", re.DOTALL)
Precision = Literal["auto", "bf16-mixed", "32-true"]
FileFormat = Literal["csv", "tsv", "jsonl", "parquet"]
InputFormat = Literal["csv", "tsv", "json", "jsonl", "parquet"]

Run = Annotated[str, typer.Option(metavar="RUN", help="A Run of the store, a folder, or a hub id.")]
Store = Annotated[str, typer.Option(metavar="DIR", help="The store: `paths.store` of the jobs that trained the Runs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precisions = Annotated[Precision, typer.Option(help="auto: the precision of training.")]
Columns = Annotated[
    list[str],
    typer.Option("--column", metavar="NAME", help="Column of the first text, then of the second; default: the task's."),
]


def _tasks(names: list[str]) -> list[str]:
    """Return the names of tasks; none, which means all of them, for the word `all`."""
    return [] if names == ["all"] else names


Tasks = Annotated[
    list[str], typer.Option(metavar="TASK", callback=_tasks, help="A task; repeatable. Default: all, as with `all`.")
]
Labelled = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="A labelled file, a folder of splits, or a hub dataset. Default: the dev rows of the Run's job.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Split of a folder or hub dataset.")]
Subset = Annotated[str | None, typer.Option(help="Configuration of a hub dataset.")]
Label = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of the gold labels; default: the task's in its job.")
]
Separator = Annotated[
    str | None,
    typer.Option(help="Separates the labels of a multi-label row in a text column; default: the task's in its job."),
]
Delimiter = Annotated[
    str | None, typer.Option(metavar="SIGN", help="Separator of CSV and TSV. Default: found in the first rows.")
]
HeadClasses = Annotated[
    list[str], typer.Option("--head", metavar="CLASS", help="Dotted name of a custom head class to trust; repeatable.")
]

app = typer.Typer(
    name="bam",
    help="Train, compare and use multi-task text encoders taught by single-task teachers.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Command(TyperCommand):
    """A command that explains options of the former style ``name=value``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line, after a check for words ``name=value`` whose name is an option."""
        values, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        parameters = self.get_params(ctx)
        arguments = [values.get(parameter.name) for parameter in parameters if isinstance(parameter, TyperArgument)]
        flags = {name: parameter for parameter in parameters for name in _old_names(parameter)}
        for word in [*(value for value in arguments if isinstance(value, str)), *rest]:
            match = OLD_WORD.fullmatch(word)
            if match and match[1] in flags and not (ctx.allow_extra_args and word.startswith("paths.")):
                ctx.fail(f"`{word}` is now `{_new_words(flags[match[1]], match[2])}`")
        return super().parse_args(ctx, args)


def _old_names(parameter: Any) -> set[str]:
    """Return the names under which an option was set as ``name=value``: its name in Python, or its flag."""
    return {str(parameter.name), *(flag.lstrip("-").replace("-", "_") for flag in parameter.opts)}


def _new_words(parameter: Any, value: str) -> str:
    """Return the flags that replace ``name=value``."""
    flag = parameter.opts[0]
    if isinstance(parameter, TyperArgument):
        return shlex.quote(value)
    if parameter.is_flag:
        return str(flag if value.lower() == "true" else parameter.secondary_opts[0] if parameter.secondary_opts else "")
    if parameter.multiple:
        items = [item.strip() for item in value.removeprefix("[").removesuffix("]").split(",")]
        return " ".join(f"{flag} {shlex.quote(item)}" for item in items if item)
    return f"{flag} {shlex.quote(value)}"


def command(*examples: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Register a function as a command. Its return value is the exit status; expected errors end as one line."""

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        @wraps(function)
        def run_in_console(*args: Any, **kwargs: Any) -> None:
            if status := console(lambda: function(*args, **kwargs) or 0):
                raise typer.Exit(status)

        epilog = "\n".join(["\b", "Examples:", *(f"  {example}" for example in examples)])
        app.command(cls=Command, epilog=epilog, **settings)(run_in_console)
        return run_in_console

    return register


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def train(context: typer.Context) -> None:
    """Train a recipe. Every word is passed to Hydra: see `bam train --help`."""
    from bam_lightning import train

    sys.argv = ["bam train", *context.args]
    train.main()


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
    },
    epilog="\b\nExamples:\n  bam check +experiment=single_multi\n  bam check scale=small data.root=DIR",
)
def check(context: typer.Context) -> None:
    """Read everything that a training job needs, and train nothing: rows, weak spots, time and memory.

    Prints the plan; for each task the rows, labels, three examples and lengths in tokens; weak spots, such as labels
    with few rows; and the time and memory that training will take here, measured on a few steps. The same is in
    check.json in the output folder. The exit status is 1 if training would stop before its first step.

    All words are those of `bam train`: see `bam train --help`.
    """
    from bam_lightning import train

    sys.argv = ["bam train", *context.args, "check=true"]
    train.main()


@command("bam tables table1", "bam tables my_table.yaml --scale small --seeds 20")
def tables(
    table: Annotated[str, typer.Argument(help="table1 to table5, or a YAML file like those of conf/table.")],
    store: Store = "store",
    scale: Annotated[str, typer.Option(help="Scale of the jobs.")] = "demo",
    fidelity: Annotated[str, typer.Option(help="Fidelity of the jobs.")] = "paper",
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Report which of the seeds 0 to N-1 are missing.")
    ] = None,
    settings: Annotated[
        str | None, typer.Option(metavar="HASH", help="Use the variant of a row with this hash; the notes list them.")
    ] = None,
    mix: Annotated[
        bool, typer.Option("--mix", help="Combine jobs with different data, settings, code or teachers in one row.")
    ] = False,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Also log the table and its page to this W&B project.")
    ] = None,
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Folder for NAME.html, .md, .tex and .csv files.")
    ] = "tables",
) -> None:
    """Make a table from the finished jobs of a store: medians over seeds, significance tests, plots."""
    from bam_lightning.analysis.tables import TableOptions, job

    job(
        TableOptions(
            table=table, store=store, scale=scale, fidelity=fidelity, seeds=seeds, settings=settings, mix=mix,
            wandb=wandb, output=output,
        )
    )  # fmt: skip


@command(
    "bam runs --experiment single_multi --task rte",
    "bam runs --delete unused          delete the Runs that no job refers to, after a confirmation",
    "bam runs --forget EXPERIMENT      remove the records of its jobs; their Runs are then unused",
    "bam runs --check                  read every byte and list the damaged Runs",
    "bam runs --delete damaged         delete them; the next job trains them again",
)
def runs(
    store: Store = "store",
    experiment: Annotated[str | None, typer.Option(help="Only Runs that the jobs of this experiment use.")] = None,
    task: Annotated[str | None, typer.Option(help="Only Runs of this task.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only Runs that are finished, 'in training', stopped or damaged.")
    ] = None,
    delete: Annotated[str | None, typer.Option(metavar="unused|damaged", help="Delete unused or damaged Runs.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare all files with their hashes.")] = False,
    forget: Annotated[str | None, typer.Option(metavar="EXPERIMENT", help="Remove the records of its jobs.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")] = False,
) -> int:
    """List the Runs of a store, newest first, and its unfinished jobs; delete what is not needed."""
    from bam_lightning.analysis.list_runs import RunsOptions, job

    return job(
        RunsOptions(
            store=store, experiment=experiment, task=task, state=state, delete=delete, check=check, forget=forget,
            yes=yes,
        )
    )  # fmt: skip


@command(
    "bam predict --run RUN_ID --task rte --input pairs.csv --output scored.csv",
    "bam predict --run RUN_ID --input texts.jsonl --output scored.parquet",
    "bam predict --run RUN_ID --task rte --input pairs.csv --output vectors.parquet --embeddings",
    "cat texts.jsonl | bam predict --run RUN_ID --task sst2 --input-format jsonl",
)
def predict(
    run: Run,
    store: Store = "store",
    task: Annotated[
        list[str],
        typer.Option(
            metavar="TASK",
            callback=_tasks,
            help="A task; repeatable. Default: all whose columns are in the input, as with `all`.",
        ),
    ] = [],  # noqa: B006
    input: Annotated[
        str, typer.Option(metavar="FILE", help="CSV, TSV, JSON lines or Parquet; -: standard input.")
    ] = "-",
    output: Annotated[str, typer.Option(metavar="FILE", help="As --input; -: standard output.")] = "-",
    input_format: Annotated[
        InputFormat | None, typer.Option(help="Format of the input, if its name does not end with it.")
    ] = None,
    output_format: Annotated[
        FileFormat | None, typer.Option(help="Format of the output, if its name does not end with it.")
    ] = None,
    delimiter: Delimiter = None,
    columns: Columns = [],  # noqa: B006
    escape_formulas: Annotated[
        bool, typer.Option("--escape-formulas", help="CSV, TSV: put ' before cells that a spreadsheet would execute.")
    ] = False,
    device: Device = "auto",
    precision: Precisions = "auto",
    heads: HeadClasses = [],  # noqa: B006
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Write the encoder's pooled vector of each row instead of predictions.")
    ] = False,
) -> int:
    """Predict the rows of a file, in order.

    All input columns are kept. New columns are TASK.label and TASK.NAME, the probability of each label name
    (TASK.score for regression); with --embeddings it is the column embedding. A row that cannot be scored has the
    reason in the column prediction_error. The input may be larger than memory.
    """
    from bam_lightning.inference.predict_file import PredictOptions, predict_file

    return predict_file(
        PredictOptions(
            run=run, store=store, task=task, input=input, output=output, input_format=input_format,
            output_format=output_format, delimiter=delimiter, columns=columns, escape_formulas=escape_formulas,
            device=device, precision=precision, heads=heads, overwrite=overwrite, embeddings=embeddings,
        )
    )  # fmt: skip


@command(
    "bam evaluate --run RUN_ID --output report                 the dev rows of its job, all tasks",
    "bam evaluate --run RUN_ID --task rte --input pairs.csv --by channel --output report",
    "bam evaluate --run RUN_ID --task rte --input nyu-mll/glue --subset rte --split validation",
)
def evaluate(
    run: Run,
    task: Tasks = [],  # noqa: B006
    input: Labelled = None,
    store: Store = "store",
    split: Split = None,
    subset: Subset = None,
    label: Label = None,
    separator: Separator = None,
    delimiter: Delimiter = None,
    columns: Columns = [],  # noqa: B006
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Also score the rows of each value of this column.")
    ] = None,
    worst: Annotated[int, typer.Option(metavar="N", help="List the N rows with the largest loss.")] = 20,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write TASK/report.json, .md and .html to this folder.")
    ] = None,
    device: Device = "auto",
    precision: Precisions = "auto",
    heads: HeadClasses = [],  # noqa: B006
) -> None:
    """Score a model on labelled rows.

    Reports every metric of the task with a 95 % bootstrap interval, the confusion matrix, precision, recall and F1 of
    each class, calibration, and the worst rows.
    """
    from bam_lightning.recipes.evaluation import EvaluateOptions, evaluate

    evaluate(
        EvaluateOptions(
            run=run, task=task, input=input, store=store, split=split, subset=subset, label=label,
            separator=separator, delimiter=delimiter, columns=columns, by=by, worst=worst, output=output,
            device=device, precision=precision, heads=heads,
        )
    )  # fmt: skip


@command(
    "bam compare OLD_RUN NEW_RUN --margin 0.5                  the dev rows of the new Run's job, all common tasks",
    "bam compare old_model new_model --task rte --input gold.csv --margin 1",
)
def compare(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The model in use: a Run, a folder, or a hub id.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The model to take its place.")],
    margin: Annotated[
        float, typer.Option(metavar="POINTS", help="How many points x 100 the new one may be worse.")
    ] = 0.5,
    task: Tasks = [],  # noqa: B006
    input: Labelled = None,
    store: Store = "store",
    split: Split = None,
    subset: Subset = None,
    label: Label = None,
    separator: Separator = None,
    delimiter: Delimiter = None,
    columns: Columns = [],  # noqa: B006
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Folder for compare.json, compare.md and flipped.csv.")
    ] = "compare",
    device: Device = "auto",
    precision: Precisions = "auto",
    heads: HeadClasses = [],  # noqa: B006
) -> int:
    """Test that a new model is not worse than an old one on the same rows.

    A task passes if the new score is at least the old one minus the margin, at 95 % by a paired bootstrap over the
    rows. The exit status is 1 unless every task passes. Rows whose answer changed are in flipped.csv.
    """
    from bam_lightning.recipes.evaluation import CompareOptions, compare

    return compare(
        CompareOptions(
            old=old, new=new, margin=margin, task=task, input=input, store=store, split=split, subset=subset,
            label=label, separator=separator, delimiter=delimiter, columns=columns, output=output, device=device,
            precision=precision, heads=heads,
        )
    )  # fmt: skip


@command(
    "bam calibrate --run RUN_ID                                temperatures, on the dev rows of its job",
    "bam calibrate --run RUN_ID --task rte --at-precision 0.9",
    "bam calibrate --run RUN_ID --task rte --at-agreement 0.95 --input gold.csv",
)
def calibrate(
    run: Run,
    task: Tasks = [],  # noqa: B006
    at_precision: Annotated[
        float | None, typer.Option(metavar="P", help="A threshold per label: this share of its answers is right.")
    ] = None,
    at_recall: Annotated[
        float | None, typer.Option(metavar="R", help="A threshold per label: this share of its rows is found.")
    ] = None,
    at_agreement: Annotated[
        float | None, typer.Option(metavar="A", help="One threshold: this share of the answered rows is right.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Use a temperature that makes the calibration error larger, and thresholds that no row reaches.",
        ),
    ] = False,
    input: Labelled = None,
    store: Store = "store",
    split: Split = None,
    subset: Subset = None,
    label: Label = None,
    separator: Separator = None,
    delimiter: Delimiter = None,
    columns: Columns = [],  # noqa: B006
    device: Device = "auto",
    precision: Precisions = "auto",
    heads: HeadClasses = [],  # noqa: B006
) -> None:
    """Calibrate a model on labelled rows that it was not trained on.

    Fits a temperature, so that a probability of 0.8 is right in 80 % of the rows, and with --at-... thresholds, below
    which the label is `abstain`. The result is kept beside the weights, and holds for predict, evaluate, export and
    serve. The weights stay as they are. A temperature that makes the calibration error of held-out rows larger is not
    used.
    """
    from bam_lightning.inference.calibration import Target
    from bam_lightning.recipes.evaluation import CalibrateOptions, calibrate

    calibrate(
        CalibrateOptions(
            run=run, task=task, target=Target(at_precision, at_recall, at_agreement), input=input, store=store,
            split=split, subset=subset, label=label, separator=separator, delimiter=delimiter, columns=columns,
            device=device, precision=precision, heads=heads, force=force,
        )
    )  # fmt: skip


@command(
    "bam export --run RUN_ID --output DIR                 a folder for bam.load, with its model card",
    "bam export --run RUN_ID --format hf --output DIR     DIR/TASK: a transformers classifier per task",
    "bam export --run RUN_ID --format onnx --output DIR   one graph with the encoder and all heads",
)
def export(
    run: Run,
    output: Annotated[str, typer.Option(metavar="DIR", help="The folder to write.")],
    store: Store = "store",
    format: Annotated[Literal["bam", "hf", "onnx"], typer.Option(help="Format of the export.")] = "bam",
    task: Annotated[
        list[str],
        typer.Option(
            metavar="TASK",
            callback=_tasks,
            help="hf, onnx: export only this task; repeatable. Default: all tasks, as with `all`.",
        ),
    ] = [],  # noqa: B006
    int8: Annotated[bool, typer.Option("--int8", help="onnx: also write a graph with 8-bit weights.")] = False,
    heads: HeadClasses = [],  # noqa: B006
) -> None:
    """Export a model for other tools, and check that the export computes the same logits."""
    from bam_lightning.inference.export import ExportOptions, export

    export(ExportOptions(run=run, output=output, store=store, format=format, task=task, int8=int8, heads=heads))


@command(
    "bam serve --run RUN_ID --port 8000",
    "curl localhost:8000/predict -H 'Content-Type: application/json' "
    '-d \'{"rows": [["A man sleeps."]], "task": "all"}\'',
)
def serve(
    run: Run,
    store: Store = "store",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free port.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default accepts this machine only, 0.0.0.0 every machine.")
    ] = "127.0.0.1",
    device: Device = "auto",
    precision: Precisions = "auto",
    heads: HeadClasses = [],  # noqa: B006
    revision: Annotated[str | None, typer.Option(help="Git revision of a hub id.")] = None,
    cors_origins: Annotated[
        list[str], typer.Option("--cors-origin", metavar="URL", help="Allow web pages of this origin; repeatable.")
    ] = [],  # noqa: B006
    allowed_hosts: Annotated[
        list[str],
        typer.Option("--allowed-host", metavar="NAME", help="Accept only this Host header; repeatable; *.NAME works."),
    ] = [],  # noqa: B006
    rows: Annotated[int, typer.Option(help="Maximum number of rows of a request.")] = 128,
    characters: Annotated[int, typer.Option(help="Maximum number of characters of a text.")] = 10_000,
    bytes: Annotated[int, typer.Option(help="Maximum size of a request body, in bytes.")] = 1 << 20,
    batch: Annotated[int, typer.Option(help="Maximum number of rows per batch; 1 disables batching.")] = 64,
    queue: Annotated[
        int, typer.Option(help="Maximum number of queued rows; further requests are answered with 503.")
    ] = 1024,
    connections: Annotated[int, typer.Option(help="Maximum number of open connections.")] = 1024,
    deadline: Annotated[
        float, typer.Option(metavar="SECONDS", help="A request that is not answered by then gets a 503.")
    ] = 30.0,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the model; default: all cores but one, which serves HTTP.")
    ] = None,
) -> None:
    """Serve a model over HTTP: a JSON API and a page to try it.

    GET / is the page; /tasks, /health, /metrics (Prometheus) and /openapi.json describe the model, the server and the
    API. There is no password: let others in through a proxy that asks for one. Ctrl+C or SIGTERM stops the server
    within 10 seconds, after the answers to requests in progress.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are small: its threads would only compete
    require_extra("bam serve", ("fastapi", "uvicorn", "httptools", "prometheus_client"), "serve")
    from bam_lightning.inference.serving.app import ServeOptions, serve

    serve(
        ServeOptions(
            run=run, store=store, port=port, host=host, device=device, precision=precision, heads=heads,
            revision=revision, cors_origins=cors_origins, allowed_hosts=allowed_hosts, rows=rows,
            characters=characters, bytes=bytes, batch=batch, queue=queue,
            connections=connections, deadline=deadline, threads=threads,
        )
    )  # fmt: skip


@command(
    "bam submit --run RUN_ID                          one multi-task Run predicts every task",
    "bam submit --run ID --run ID                     the first Run that has a task's head predicts it",
    "bam submit --best-of single_multi                of its Runs of all seeds, the best on dev",
    "bam submit --best-of single                      for each task, the best of its single-task Runs on dev",
    "bam submit --run RUN_ID --partial data.root=DIR",
    context_settings=HYDRA_WORDS,
)
def submit(
    context: typer.Context,
    run: Annotated[list[str], typer.Option(metavar="RUN", help="A Run that predicts; repeatable.")] = [],  # noqa: B006
    best_of: Annotated[
        str | None,
        typer.Option(metavar="EXPERIMENT", help="Instead of --run: the Runs of this experiment that are best on dev."),
    ] = None,
    store: Annotated[str | None, typer.Option(metavar="DIR", help="The store, as paths.store=DIR.")] = None,
    output: Annotated[str, typer.Option(metavar="FILE", help="The zip file to write.")] = "submission.zip",
    partial: Annotated[bool, typer.Option("--partial", help="Omit missing test sets, and list them.")] = False,
) -> None:
    """Write a GLUE leaderboard submission: a zip of eleven TSV files.

    All other words are options of `bam train` (scale=paper by default) that say where the test sets are. Missing
    predictions are computed. WNLI gets its majority class. The rows must be in their official order.
    """
    from bam_lightning.recipes.submit import SubmitOptions, job

    job(SubmitOptions(run=run, best_of=best_of, output=output, partial=partial), _hydra_words(context, store))


@command(
    "bam tune --seeds 3 scale=paper",
    "bam tune --value 1.0 --value 0.95 --value 0.9 scale=small data.root=DIR 'suite.include=[rte,cola]'",
    context_settings=HYDRA_WORDS,
)
def tune(
    context: typer.Context,
    values: Annotated[
        list[float], typer.Option("--value", metavar="ALPHA", help="A layer-wise decay to try; repeatable.")
    ] = [1.0, 0.9],  # noqa: B006
    seeds: Annotated[int, typer.Option(help="Number of seeds per value, from teacher_seed on.")] = 1,
    store: Annotated[str | None, typer.Option(metavar="DIR", help="The store, as paths.store=DIR.")] = None,
    output: Annotated[str, typer.Option(metavar="DIR", help="Folder for the results of each recipe.")] = "tune",
) -> None:
    """Tune the layer-wise decay of each single task on its dev set (section 4: 1.0 or 0.9).

    Trains each task alone with each value, and stores the value with the highest median dev score. Later jobs with the
    same store use it, unless optimization.use_tuned_decay=false or optimization.layerwise_decay=VALUE is set. All
    other words are options of `bam train`.
    """
    from bam_lightning.recipes.tuning import ChooseOptions, job

    job(ChooseOptions(values=values, seeds=seeds, output=output), _hydra_words(context, store))


@command(
    "bam grow RUN_ID --task churn.yaml",
    "bam grow RUN_ID --task churn.yaml --share 0.5 --store DIR seed=1",
    "bam grow RUN_ID --task churn.yaml teachers.churn=answers.jsonl",
    context_settings=HYDRA_WORDS,
)
def grow(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The student that is to learn another task.")],
    task: Annotated[str, typer.Option(metavar="FILE", help="The new task, as a file of the group task.")],
    changed: Annotated[
        list[str], typer.Option("--changed", metavar="TASK", help="An old task with other rows by now; repeatable.")
    ] = [],  # noqa: B006
    share: Annotated[float, typer.Option(help="Steps of the new student, as a share of a full student's.")] = 0.25,
    margin: Annotated[float, typer.Option(metavar="POINTS", help="How many points x 100 an old task may lose.")] = 0.5,
    store: Store = "store",
    output: Annotated[str, typer.Option(metavar="DIR", help="Folder for the results.")] = "grow",
) -> int:
    """Add a task to a student: train one teacher, and go on from the student's weights.

    The old student teaches the old tasks on their rows, the new task's own teacher the new one. Both learn from gold as
    well. With teachers.TASK=FILE a file of predictions teaches the new task instead, and no teacher is trained. It ends
    with the table of `bam compare` over the old tasks; the exit status is 1 unless each of them is shown to be not
    worse. Other words set seed, teacher_seed, and options of trainer, run, logger, optimization and distillation, as in
    `bam train`.
    """
    from bam_lightning.recipes.grow import GrowOptions, grow

    options = GrowOptions(run=run, task=task, changed=changed, share=share, margin=margin, store=store, output=output)
    return grow(options, _hydra_words(context, None))


@command(
    "bam relate single_multi --pairs 'suite.include=[rte,mrpc,stsb]' scale=small data.root=DIR",
    context_settings=HYDRA_WORDS,
)
def relate(
    context: typer.Context,
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A file of the group experiment.")],
    pairs: Annotated[bool, typer.Option("--pairs", help="Train on pairs of tasks instead of leaving one out.")] = False,
    store: Annotated[str | None, typer.Option(metavar="DIR", help="The store, as paths.store=DIR.")] = None,
    output: Annotated[str, typer.Option(metavar="DIR", help="Folder for the results.")] = "relate",
) -> None:
    """Print what each task does for every other one: the experiment with it minus without it.

    The experiment is trained on all tasks and without each of them; with --pairs on each task and each pair. Teachers
    are trained once. Intervals are over dev rows, not over seeds. All other words are options of `bam train`.
    """
    from bam_lightning.recipes.relate import RelateOptions, relate

    relate(RelateOptions(experiment=experiment, pairs=pairs, output=output), _hydra_words(context, store))


@command(
    "bam dashboard --entity ME --project bam_lightning",
    "bam dashboard --entity ME --task rte --task cola --sweep 2026-01-31_12-00-00-000000",
)
def dashboard(
    entity: Annotated[str, typer.Option(help="W&B user or team.")],
    project: Annotated[str, typer.Option(help="W&B project: logger.project of the jobs.")] = "bam_lightning",
    name: Annotated[str, typer.Option(help="Name of the workspace.")] = "bam_lightning",
    sweep: Annotated[str | None, typer.Option(help="Only the Runs of one sweep: the name of its folder.")] = None,
    tasks: Annotated[
        list[str], typer.Option("--task", metavar="TASK", help="A task to show; repeatable. Default: GLUE's tasks.")
    ] = [],  # noqa: B006
    metrics: Annotated[
        list[str], typer.Option("--metric", metavar="METRIC", help="Metric of each --task, in order; default: GLUE's.")
    ] = [],  # noqa: B006
    show: Annotated[bool, typer.Option("--show", help="Print the workspace as JSON instead of saving it.")] = False,
) -> None:
    """Create a W&B workspace: scores by method and seed, lambda, learning rate, losses, throughput.

    Needs `wandb login`, unless --show is given.
    """
    from bam_lightning.analysis.dashboard import DashboardOptions, job

    options = DashboardOptions(entity=entity, project=project, name=name, sweep=sweep, metrics=metrics, show=show)
    options.tasks = tasks or options.tasks
    job(options)


def _hydra_words(context: typer.Context, store: str | None) -> list[str]:
    return [*context.args, *([f"paths.store={store}"] if store is not None else [])]


def run(words: list[str]) -> int:
    """Run a command line. Return the exit status: 2 for a wrong command line."""
    former = renamed(f"bam {words[0]}") if words else None
    if former:
        print(f"error: {former}", file=sys.stderr)
        return 2
    try:
        status = typer.main.get_command(app).main(args=words or ["--help"], prog_name="bam", standalone_mode=False)
    except Exception as error:  # usage errors are of Typer, or of Click in older versions of it
        if not callable(format_message := getattr(error, "format_message", None)):
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else f"bam {words[0]}"
        message = " ".join(str(format_message()).split()).rstrip(".")
        if "unexpected extra argument" in message:
            message += "; if a value has spaces, put quotes around it"
        print(f"error: {message}; see `{path} --help`", file=sys.stderr)
        return 2
    return int(status or 0)


def main() -> None:
    """Entry point."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
