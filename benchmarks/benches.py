"""What is measured: the sides of each benchmark, and what is claimed of them."""

from __future__ import annotations

from typing import NamedTuple

GLUE = "GLUE texts (MNLI, QNLI and QQP in part) and MiniLM"
GENERATED = "generated rows of GLUE's lengths and random weights"
ALL = "cola,sst2,mrpc,stsb,qqp,mnli,qnli,rte"


class Claim(NamedTuple):
    """A ratio that is claimed: ``side``'s ``field`` over ``other``'s; without ``other`` the side's own number.

    ``prediction`` was written before the first run of its line; ``wanted`` is the bound, upper where ``below``.
    """

    what: str
    side: str
    other: str
    prediction: float
    wanted: float
    below: bool = False
    field: str = "rate"


class Bench(NamedTuple):
    """Sides to run in turn, with words for ``run_side``; ``rounds`` unless the command line says otherwise.

    ``data``: what the sides work on, where they bring it themselves.
    """

    sides: dict[str, list[str]]
    claims: list[Claim]
    rounds: int = 2
    data: str = ""


def mix(tasks: str, batch: int, steps: int, sides: str, share: int = 1) -> dict[str, list[str]]:
    """Return the sides that train on one ``Work``, or on the first of ``share`` equal parts of its rows."""
    more = [str(share)] if share > 1 else []
    return {side: [side, tasks, str(batch), str(steps), *more] for side in sides.split()}


BENCHES = {
    "mixed_128": Bench(
        mix(ALL, 128, 24, "ours group_by_length random"),
        [
            Claim("mixed GLUE stream, 128 rows: against Trainer, random order", "ours", "random", 9, 5),
            Claim("the same against Trainer, group_by_length", "ours", "group_by_length", 2.6, 2.5),
        ],
        rounds=3,
    ),
    "limit": Bench(
        mix(ALL, 128, 108, "ours limit"),
        [Claim("mixed GLUE stream, 128 rows: against its matrix products alone", "ours", "limit", 0.62, 0.6)],
        rounds=3,
    ),
    "mixed_32": Bench(
        mix(ALL, 32, 60, "ours group_by_length random"),
        [
            Claim("mixed GLUE stream, 32 rows: against Trainer, random order", "ours", "random", 4, 1.8),
            Claim("the same against Trainer, group_by_length", "ours", "group_by_length", 2, 1),
        ],
    ),
    "cola": Bench(
        mix("cola", 32, 100, "ours group_by_length handed_back"),
        [
            Claim("CoLA alone, 32 rows: against Trainer, group_by_length", "ours", "group_by_length", 1.35, 1.3),
            Claim("the same against ours, with freed memory handed back", "ours", "handed_back", 1.2, 1),
        ],
        rounds=5,
    ),
    "kernels": Bench(
        mix(ALL, 128, 24, "ours plain_layers plain_dropout plain"),
        [
            Claim("128 rows: with all kernels against none", "ours", "plain", 1.4, 1),
            Claim("the same: against the layers of transformers", "ours", "plain_layers", 1.05, 1),
            Claim("the same: against torch's draws for dropout", "ours", "plain_dropout", 1.3, 1),
        ],
    ),
    "kernels_cola": Bench(
        mix("cola", 32, 60, "ours plain_layers plain_dropout plain"),
        [
            Claim("CoLA, 32 rows: with all kernels against none", "ours", "plain", 1.3, 1),
            Claim("the same: against the layers of transformers", "ours", "plain_layers", 1.13, 1),
            Claim("the same: against torch's draws for dropout", "ours", "plain_dropout", 1.15, 1),
        ],
    ),
    "rte": Bench(
        mix("rte", 32, 40, "ours group_by_length"),
        [Claim("RTE alone, 32 rows: against Trainer, group_by_length", "ours", "group_by_length", 1.9, 1.1)],
        rounds=3,
    ),
    "labels": Bench(
        mix("cola", 128, 24, "shared_labels labels_apart"),
        [
            Claim(
                "three labels of the same 8,000 rows, 128 texts: labels per second, against tasks apart",
                "shared_labels",
                "labels_apart",
                3,
                2.5,
                False,
                "labels_per_second",
            ),
            Claim("the same: texts per second", "shared_labels", "labels_apart", 1, 0.9, False, "texts_per_second"),
        ],
        data="the first 8,000 rows of CoLA and MiniLM",
    ),
    "tasknet": Bench(
        mix("cola,rte,mrpc,stsb", 32, 40, "ours tasknet", share=4),
        [
            Claim("a quarter of CoLA, RTE, MRPC, STS-B, 32 rows: rows/s", "ours", "", 100, 45, field="row_rate"),
            Claim("the same, tasknet's", "tasknet", "", 45, 1, field="row_rate"),
            Claim("the same: against tasknet", "ours", "tasknet", 2.1, 1.5, field="row_rate"),
            Claim("the same, a second of the CPU", "ours", "tasknet", 2.1, 1.5, field="rows_a_cpu_second"),
        ],
        data="GLUE texts and MiniLM",
    ),
    "distilled": Bench(
        mix(ALL, 128, 24, "distilled") | {"small": ["distilled", ALL, "32", "60"]},
        [
            Claim("a distilled step's time over a plain one's, 128 rows", "distilled", "", 1.01, 1.02, True, "ratio"),
            Claim("the same, 32 rows", "small", "", 1.01, 1.02, True, "ratio"),
            Claim("collation's share of a step, 128 rows", "distilled", "", 0.01, 0.05, True, "collation_share"),
            Claim("the same, 32 rows", "small", "", 0.02, 0.05, True, "collation_share"),
        ],
    ),
    "recipe": Bench(
        {"recipe": ["recipe"]},
        [Claim("demo scale: what is not training, over training", "recipe", "", 0.13, 0.15, True, "overhead")],
        data="the demo scale",
    ),
    "sweep": Bench(
        {"sweep": ["sweep", "20"], "pipelines": ["pipelines", "20"]},
        [Claim("20 seeds in one sweep: time over 20 pipelines'", "sweep", "pipelines", 0.35, 0.4, True, "seconds")],
        rounds=1,
        data="the demo scale",
    ),
    "predict": Bench(
        {side: ["predict", side, "minilm", "10000"] for side in ("ours", "bfloat16", "pipeline", "onnx", "int8")}
        | {f"tiny_{side}": ["predict", side, "tiny", "100000"] for side in ("ours", "pipeline", "onnx")},
        [
            Claim("10,000 rows of a file, MiniLM, float32: against a pipeline", "ours", "pipeline", 1.5, 1),
            Claim("the same against onnxruntime", "ours", "onnx", 1.2, 1),
            Claim("the same in bfloat16, against a pipeline in float32", "bfloat16", "pipeline", 2, 1),
            Claim("100,000 rows, a tiny encoder: against a pipeline", "tiny_ours", "tiny_pipeline", 1.5, 1),
            Claim("the same against onnxruntime", "tiny_ours", "tiny_onnx", 1, 1),
            Claim("ONNX in int8 against float32, MiniLM: rows a second", "int8", "onnx", 1.5, 1),
            Claim("the same: accuracy on dev", "int8", "onnx", 0.995, 0.99, False, "dev_accuracy"),
        ],
        rounds=1,
        data="SST-2's training rows, one thread; rates by the processor's time",
    ),
    "deploy": Bench(
        {side: ["deploy", side, "10"] for side in ("student", "eight")},
        [
            Claim("serving eight tasks: questions a second, one student over eight models", "student", "eight", 6, 3),
            Claim("the same: memory of the servers", "student", "eight", 0.2, 0.5, True, "peak_mib"),
            Claim("the same: median time of a question", "student", "eight", 0.2, 0.5, True, "median_ms"),
        ],
        rounds=3,
        data="pairs of texts; MiniLM, or random weights of its size",
    ),
    "start": Bench(
        {"first_step": ["first_step"], "full_glue": ["full_glue"]},
        [
            Claim("cached demo scale: seconds to the first step", "first_step", "", 6, 8, True, "seconds"),
            Claim("1,077,000 rows: seconds to the first step", "full_glue", "", 10, 10, True, "seconds"),
            Claim("the same: peak memory, MiB", "full_glue", "", 1700, 2048, True, "peak_mib"),
        ],
        data="the demo scale; 1,077,000 generated rows",
    ),
    "gpu": Bench(
        {side: ["gpu", side] for side in ("packed", "compiled", "padded")},
        [
            Claim("BERT-Large on a GPU, 128 rows: share of the peak (MFU)", "packed", "", 0.45, 0.45, False, "mfu"),
            Claim("the same: against padded to the longest", "packed", "padded", 3, 3),
            Claim("the same: with its layers compiled, against packed alone", "compiled", "packed", 1.3, 1),
            Claim("the same, compiled: share of the peak (MFU)", "compiled", "", 0.5, 0.45, False, "mfu"),
            Claim("the same: hours of one student on GLUE, six epochs", "packed", "", 0.23, 0.5, True, "student_hours"),
        ],
        data=GENERATED,
    ),
}
