"""The other side: Hugging Face Trainer with the same encoder, heads, rows and steps, as one writes it by hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as hf
from sides import WARM, found
from torch import nn
from torch.nn import functional as F
from workload import LONGEST, SHAPES, SIZES, VOCABULARY, Work

from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.models import hardware


class Peer(nn.Module):
    """An encoder with a dropout and a linear head for each task; the loss is the mean over the minibatch."""

    def __init__(self, body: Any, outputs: list[int], dropout: float = 0.1) -> None:
        super().__init__()
        self.body, self.dropout, self.tokens = body, nn.Dropout(dropout), 0
        self.heads = nn.ModuleList(nn.Linear(body.config.hidden_size, size) for size in outputs)

    def forward(self, task: torch.Tensor, labels: torch.Tensor, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the mean loss of the examples."""
        self.tokens += int(inputs["attention_mask"].sum())
        pooled = self.dropout(self.body(**inputs).pooler_output)
        total = torch.zeros((), device=pooled.device)
        for number, head in enumerate(self.heads):
            mine = task == number
            if not mine.any():
                continue
            logits, gold = head(pooled[mine]).float(), labels[mine]
            if logits.shape[1] == 1:
                total = total + F.mse_loss(torch.sigmoid(logits[:, 0]), gold.float() / 5, reduction="sum")
            else:
                total = total + F.cross_entropy(logits, gold.long(), reduction="sum")
        return {"loss": total / len(labels)}


class Rows(torch.utils.data.Dataset):
    """The rows of a stream in its order, as dictionaries."""

    def __init__(self, work: Work) -> None:
        self.tasks = list(work.examples.values())
        firsts = np.cumsum([0, *(len(one.labels) for one in self.tasks)])
        flat = work.stream.rows.reshape(-1)
        self.task = np.searchsorted(firsts, flat, side="right") - 1
        self.row = flat - firsts[self.task]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, place: int) -> dict[str, Any]:
        task, row = int(self.task[place]), self.row[place]
        tokens, labels, _ = self.tasks[task]
        span = slice(tokens.offsets[row], tokens.offsets[row + 1])
        ids = tokens.ids[span].tolist()
        types = [0] * len(ids) if tokens.types is None else tokens.types[span].tolist()
        mask = [1] * len(ids)
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "task": task, "labels": labels[row]}


def padded(pad_id: int) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Return a collator that pads to the longest row, as ``DataCollatorWithPadding`` does."""
    fill = {"input_ids": pad_id, "token_type_ids": 0, "attention_mask": 0}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            key: torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])
            for key, value in fill.items()
        }
        return batch | {key: torch.tensor([float(row[key]) for row in rows]) for key in ("task", "labels")}

    return collate


class Noted(hf.TrainerCallback):
    """Notes when ``WARM`` steps are done, and when all are; counts real tokens from there."""

    def __init__(self, model: Peer) -> None:
        self.model, self.begun, self.ended = model, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = time.perf_counter()
        if state.global_step == WARM:
            self.begun, self.model.tokens = self.ended, 0


def train(work: Work, order: str) -> dict[str, float]:
    """Train with dynamic padding; ``order``: ``random`` or ``group_by_length``."""
    body = hf.AutoModel.from_pretrained(work.encoder, dtype=torch.float32) if work.encoder else random_bert()
    model, rows = Peer(body, [SHAPES[name].outputs for name in work.examples]), Rows(work)
    clock, batch = Noted(model), work.stream.rows.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = hf.TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            learning_rate=5e-5,
            max_steps=len(work.stream.rows),
            bf16=hardware.precision(TrainerConfig()) == "bf16-mixed",
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy=order,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            warmup_steps=4,
            weight_decay=0.01,
            remove_unused_columns=False,
        )
        hf.Trainer(model, settings, train_dataset=rows, data_collator=padded(work.pad_id), callbacks=[clock]).train()
    return found(clock.ended - clock.begun, len(work.stream.rows) - WARM, model.tokens)


def random_bert() -> Any:
    """Return a BERT of MiniLM's sizes with random weights."""
    fields = {name: value for name, value in SIZES.items() if name != "model_type"}
    return hf.BertModel(hf.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=LONGEST, **fields))
