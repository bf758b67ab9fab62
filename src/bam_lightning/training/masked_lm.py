"""Masked-language-model training of an encoder on plain text (Devlin et al. 2019, section 3.1).

The recipe's first stage where an encoder has no weights yet, or is to learn a user's own kind of text first.
B texts, T tokens, V words of the vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from bam_lightning.data.tokenization import Tokens
from bam_lightning.models.encoder import Encoder
from bam_lightning.training import distributed, step_clock
from bam_lightning.training.datamodule import StepLoader
from bam_lightning.training.history import Record
from bam_lightning.training.optimizer import clip_gradients, go_back, local_gradients
from bam_lightning.training.schedules import linear_rate

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
IGNORED = -100  # label of a token that is not to be predicted
TASK = "text"  # the name under which the loss is recorded


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a BERT tokenizer of the commonest ``vocabulary`` words; other words are spelt in characters."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertTokenizer

    normal, split = BertNormalizer(), BertPreTokenizer()  # what the tokenizer does before it looks a word up
    counts = Counter(word for text in texts for word, _ in split.pre_tokenize_str(normal.normalize_str(text)))
    letters = sorted({letter for word in counts for letter in word})
    common = sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary]
    words = [*SPECIAL, *dict.fromkeys([*common, *letters, *(f"##{letter}" for letter in letters)])]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=True)


def mask_tokens(
    ids: np.ndarray, maskable: np.ndarray, share: float, mask_id: int, vocabulary: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and labels ``[B, T]``: of a ``share`` of tokens, 80 % masked, 10 % random, 10 % left.

    Args:
        ids: ``[B, T]`` token ids.
        maskable: ``[B, T]`` true where a token is neither special nor padding.
    """
    chosen = (rng.random(ids.shape) < share) & maskable
    labels = np.where(chosen, ids, IGNORED)
    fate = rng.random(ids.shape)
    inputs = np.where(chosen & (fate < 0.8), mask_id, ids)
    wild = rng.integers(0, vocabulary, ids.shape)
    return np.where(chosen & (fate >= 0.9), wild, inputs), labels


class MaskedSteps(Dataset[dict[str, Tensor]]):
    """Item s: the masked texts of optimizer step s; which tokens are masked is a function of (seed, s)."""

    def __init__(self, tokens: Tokens, rows: np.ndarray, tokenizer: Any, masked: float, seed: int) -> None:
        self.tokens, self.rows, self.masked, self.seed = tokens, rows, masked, seed
        self.rank, self.processes = 0, 1
        self.pad_id, self.mask_id, self.size = tokenizer.pad_token_id, tokenizer.mask_token_id, len(tokenizer)
        self.special = np.asarray(sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rows = self.rows[step]
        lengths = self.tokens.lengths[rows]
        ids = np.full((len(rows), lengths.max()), self.pad_id, dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[place]] = self.tokens.ids[self.tokens.offsets[row] : self.tokens.offsets[row + 1]]
        real = np.arange(ids.shape[1])[None, :] < lengths[:, None]
        rng = np.random.default_rng([self.seed, 3, step])
        inputs, labels = mask_tokens(ids, real & ~np.isin(ids, self.special), self.masked, self.mask_id, self.size, rng)
        block = {"input_ids": inputs, "attention_mask": real.astype(np.int64), "labels": labels}
        mine = slice(self.rank, None, self.processes)
        return {name: torch.from_numpy(np.ascontiguousarray(values[mine])) for name, values in block.items()}


class MaskedText(pl.LightningDataModule):
    """The masked steps, from the one on that the trainer stands at."""

    def __init__(self, steps: MaskedSteps, workers: int = 0) -> None:
        super().__init__()
        self.steps, self.workers = steps, workers

    def train_dataloader(self) -> StepLoader:
        """Return the steps that are still to be done."""
        done = 0
        if self.trainer:
            done = self.trainer.global_step
            self.steps.rank, self.steps.processes = distributed.rank(), distributed.processes()
        return StepLoader(self.steps, done, self.workers)


class MaskedModule(pl.LightningModule):
    """An encoder with BERT's word-prediction head, tied to the word embeddings."""

    def __init__(self, encoder: Encoder, learning_rate: float, seed: int, log_every: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.encoder = encoder
        embeddings = encoder.body.get_input_embeddings()
        self.transform = nn.Sequential(
            nn.Linear(encoder.width, embeddings.embedding_dim), nn.GELU(), nn.LayerNorm(embeddings.embedding_dim)
        )
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))
        self.learning_rate, self.seed = learning_rate, seed
        self.record = Record([TASK], log_every)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW without decay on the pooler, which masked words do not train."""
        return torch.optim.AdamW(self.parameters(), lr=0.0, weight_decay=0.01, fused=True)

    def masked_loss(self, block: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return the cross-entropy summed over the masked tokens, and their number."""
        inputs = {name: value for name, value in block.items() if name != "labels"}
        states = self.encoder.body(**inputs).last_hidden_state  # [B, T, D]
        chosen = block["labels"] != IGNORED
        words = self.encoder.body.get_input_embeddings().weight  # [V, D]
        logits = self.transform(states[chosen]) @ words.T + self.bias  # [masked, V]
        return F.cross_entropy(logits.to(self.bias.dtype), block["labels"][chosen], reduction="sum"), int(chosen.sum())

    def training_step(self, block: dict[str, Tensor], _: int) -> None:
        """Take one optimizer step."""
        optimizer = self.optimizers()
        progress = step_clock.progress(self.trainer)
        rate = self.learning_rate * linear_rate(progress, 0.1)
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = rate
        step_clock.seed_step(self.trainer, self.seed)
        some = len(block["labels"]) > 0  # a process may have no text of a small step
        loss, count = self.masked_loss(block) if some else (torch.zeros((), device=self.device), 0)
        (whole,) = distributed.sum_numbers([count], self)
        if some:
            with local_gradients(self):
                go_back(self, loss / max(1, whole))
        own = [(TASK, loss.detach(), count)]
        for task, total, number in distributed.sum_step(self, [TASK], own):
            self.record.add(task, total, number)
        norm = clip_gradients(self.parameters(), 1.0)
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.record.write(self.trainer, {"progress": progress, "learning_rate": rate, "gradient_norm": norm})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is logged."""
        checkpoint["record"] = self.record.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the record up again."""
        self.record.load_state_dict(checkpoint["record"])
