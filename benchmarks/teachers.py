"""Training time of single-task teachers beside Hugging Face Trainer's: the same encoder, examples, batch and steps.

Prediction, written before the first run: at most 1.0 times Trainer's time on every task, since both train on
batches of one task and Trainer's are grouped by length; less where attention dropout is a large part (RTE).

    python benchmarks/teachers.py --data DIR --encoder DIR [--steps 40] [--rounds 2] [--tasks cola,mrpc,stsb,rte]

Both sides run in turn, in processes of their own, bfloat16 where `trainer.precision=auto` chooses it, and the clock
counts training only. Needs `pip install accelerate` for the peer."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TEXTS = {
    "cola": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
}


def ours(task: str, data: str, encoder: str, steps: int) -> float:
    """Return the seconds of ``steps`` optimizer steps of this library."""
    from bam_lightning.compose import compose
    from bam_lightning.job import run_recipe

    with tempfile.TemporaryDirectory() as folder:
        config = compose(
            [
                "recipe=single",
                "scale=small",
                f"data.root={data}",
                f"encoder.path={encoder}",
                f"suite.only=[{task}]",
                f"trainer.max_steps={steps}",
                f"paths.store={folder}",
                "logger=none",
                f"suite.tasks.{task}.dev_rows=8",
            ]
        )
        seconds: float = run_recipe(config, Path(folder) / "out")["runs"][0]["train_seconds"]
    return seconds


def peers(task: str, data: str, encoder: str, steps: int) -> float:
    """Return the seconds of the same steps of Hugging Face Trainer, batches grouped by length."""
    import datasets
    import torch
    import transformers as hf

    bf16 = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    rows = datasets.load_dataset("parquet", data_files=f"{data}/{task}/train.parquet", split="train")
    tokenizer = hf.AutoTokenizer.from_pretrained(encoder)
    columns = TEXTS[task]
    rows = rows.map(
        lambda batch: tokenizer(*(batch[c] for c in columns), truncation=True, max_length=128), batched=True
    )
    rows = rows.select_columns([*tokenizer.model_input_names, "label"]).rename_column("label", "labels")
    labels = 1 if task == "stsb" else 2
    model = hf.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=labels, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        settings = hf.TrainingArguments(
            folder,
            per_device_train_batch_size=32,
            learning_rate=5e-5,
            max_steps=steps,
            bf16=bf16,
            use_cpu=True,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            warmup_steps=steps // 10,
            weight_decay=0.01,
        )
        trainer = hf.Trainer(model, settings, train_dataset=rows, data_collator=hf.DataCollatorWithPadding(tokenizer))
        return float(trainer.train().metrics["train_runtime"])


def main() -> None:
    """Run both sides in turn and print a table of seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tasks", default="cola,mrpc,stsb,rte")
    parser.add_argument("--one", choices=["ours", "peers"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side = ours if options.one == "ours" else peers
        print(json.dumps(side(options.tasks, options.data, options.encoder, options.steps)))
        return
    print(f"{'task':8}{'ours s':>10}{'Trainer s':>12}{'ratio':>8}")
    for task in options.tasks.split(","):
        seconds: dict[str, list[float]] = {"ours": [], "peers": []}
        for _ in range(options.rounds):
            for side, found in seconds.items():
                command = [
                    sys.executable,
                    __file__,
                    "--one",
                    side,
                    "--data",
                    options.data,
                    "--encoder",
                    options.encoder,
                    "--steps",
                    str(options.steps),
                    "--tasks",
                    task,
                ]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env={**os.environ, "GOMP_SPINCOUNT": "1000"}
                )  # ours sets it itself
                lines = [line for line in done.stdout.splitlines() if line.replace(".", "").isdigit()]
                found.append(float(lines[-1]))
        ratios = [one / other for one, other in zip(seconds["ours"], seconds["peers"], strict=True)]
        one, other = (statistics.median(found) for found in seconds.values())
        print(f"{task:8}{one:10.1f}{other:12.1f}{statistics.median(ratios):8.2f}", flush=True)


if __name__ == "__main__":
    main()
