"""Masked-language-model training of an encoder on plain text (Devlin et al. 2019, section 3.1), without padding.

S texts, N tokens in all of them, M of them to predict, D width, V words."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bam_lightning.models.batch import Batch, TaskBatch
from bam_lightning.models.encoder import Encoder
from bam_lightning.training.lightning import pl
from bam_lightning.training.module import seed_dropout
from bam_lightning.training.schedules import linear_rate

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TASK = "text"  # the name under which examples and loss are kept
IGNORED = -100  # label of a token that is not to be predicted
WARMUP = 0.1


def make_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Return a BERT tokenizer of the commonest ``vocab_size`` words; other words are spelt in characters."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertTokenizer

    normalizer, splitter = BertNormalizer(), BertPreTokenizer()  # what the tokenizer does before it looks a word up
    counts: Counter[str] = Counter()
    for part, count in Counter(part for text in texts for part in text.split(" ")).items():  # few differ
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(part)):
            counts[word] += count
    letters = sorted({letter for word in counts for letter in word})
    common = sorted(counts, key=lambda word: (-counts[word], word))[:vocab_size]
    words = [*SPECIAL, *dict.fromkeys([*common, *letters, *(f"##{letter}" for letter in letters)])]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=True)


class TokenMasker:
    """Mask the tokens of a batch with transformers' collator: a pure function of (seed, number of the batch).

    Args:
        tokenizer: of the texts.
        probability: share of the tokens to predict; of these 80 % are masked, 10 % replaced, 10 % left.
        seed: of the choice.
    """

    def __init__(self, tokenizer: Any, probability: float, seed: int) -> None:
        from transformers import DataCollatorForLanguageModeling

        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)
        self.special = torch.tensor(sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}))
        self.seed = seed

    def __call__(self, batch: Batch, keep: Tensor) -> Batch:
        """Mask a whole minibatch and return the texts to keep, with the tokens to predict as one task's examples.

        Args:
            batch: S texts.
            keep: ``[S]`` which of them this rank trains on.
        """
        special = torch.isin(batch.input_ids, self.special)[None]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, 3, batch.index]).generate_state(1)[0]))
            ids, labels = self.collator.torch_mask_tokens(batch.input_ids[None].clone(), special)
        lengths = torch.tensor(batch.lengths)
        tokens = torch.repeat_interleave(keep, lengths)  # [N]
        ids, labels, types = ids[0][tokens], labels[0][tokens], batch.token_type_ids
        positions = (labels != IGNORED).nonzero()[:, 0]
        return replace(
            batch,
            input_ids=ids if len(ids) else batch.input_ids[:1],
            position_ids=batch.position_ids[tokens] if len(ids) else batch.position_ids[:1],
            token_type_ids=None if types is None else types[tokens] if len(ids) else types[:1],
            lengths=tuple(lengths[keep].tolist()) or (1,),
            tasks={TASK: TaskBatch(positions, positions, labels[positions])},
        )


class _GivenStates(nn.Module):
    """Stands in a masked-language model's place of the encoder: returns states that were computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.states: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=self.states)


class MaskedModule(pl.LightningModule):
    """An encoder with the word-prediction head of its family in transformers, tied to the word embeddings.

    Args:
        encoder: to train.
        learning_rate: at its peak.
        seed: of dropout.
    """

    def __init__(self, encoder: Encoder, learning_rate: float, seed: int) -> None:
        super().__init__()
        from transformers import AutoModelForMaskedLM

        self.encoder = encoder
        model = AutoModelForMaskedLM.from_config(copy.deepcopy(encoder.body.config))
        model.set_input_embeddings(encoder.body.get_input_embeddings())
        model.tie_weights()
        self.given = _GivenStates()
        setattr(model, model.base_model_prefix, self.given)
        self.word_head = model
        self.learning_rate, self.seed = learning_rate, seed
        self.logged: dict[str, float] | None = None
        self._loss: Tensor | None = None
        self._count = 0

    @property
    def _lightning(self) -> Any:
        """The Trainer, whichever Lightning it comes from."""
        return self.trainer

    def setup(self, stage: str) -> None:
        """Freeze the pooler, which masked words do not train: DDP refuses parameters without a gradient."""
        if self.encoder.pooler is not None:
            self.encoder.pooler.requires_grad_(False)

    def on_fit_end(self) -> None:
        """Let the pooler be trained again."""
        if self.encoder.pooler is not None:
            self.encoder.pooler.requires_grad_(True)

    def masked_loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the cross-entropy summed over the M tokens to predict, and M."""
        part = batch.tasks[TASK]
        self.given.states = self.encoder.token_states(batch)[part.positions][None]  # [1, M, D]
        dummy = torch.zeros((1, len(part.positions)), dtype=torch.long, device=self.device)
        logits = self.word_head(input_ids=dummy).logits[0]  # [M, V]
        self.given.states = None
        return F.cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)), part.labels, reduction="sum"
        ), len(part.labels)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the tokens to predict, over all ranks."""
        seed_dropout(self.seed, self._lightning.global_rank, batch.index, self.device)
        loss, count = self.masked_loss(batch)
        total = count
        if self._lightning.world_size > 1:
            counts = self._lightning.strategy.reduce(torch.tensor(float(count), device=self.device), reduce_op="sum")
            total = int(counts)
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        self._count += count
        return loss * (self._lightning.world_size / max(1, total))

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the gradient at norm 1, as BERT does; log where a row is due."""
        from bam_lightning.training.optimizer import clip_gradients

        norm = clip_gradients(self.parameters(), 1.0, "norm", getattr(optimizer, "optimizer", optimizer))
        step = self._lightning.global_step + 1
        every = self._lightning.log_every_n_steps  # 0: never
        if (every and step % every == 0) or step == self._lightning.max_steps:
            values = {"loss": float(self._loss or 0.0) / max(1, self._count), "gradient_norm": float(norm)}
            self.log_dict({f"train/{name}": value for name, value in values.items()}, on_step=True, on_epoch=False)
            self.logged = {"step": float(step), **values, f"loss/{TASK}": values["loss"]}
            self._loss, self._count = None, 0
            if not np.isfinite(values["loss"]):
                from bam_lightning.config.exceptions import TrainingError

                raise TrainingError(f"Non-finite loss of pretraining at step {step}; try a lower learning_rate")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what has been summed for the next log."""
        loss = None if self._loss is None else self._loss.cpu()
        checkpoint["bam"] = {"loss": loss, "count": self._count}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it."""
        saved = checkpoint.get("bam", {"loss": None, "count": 0})
        self._loss = None if saved["loss"] is None else saved["loss"].to(self.device)
        self._count = saved["count"]

    def configure_optimizers(self) -> Any:
        """Return AdamW with a learning rate that rises over the first tenth and falls to 0."""
        steps = self._lightning.estimated_stepping_batches
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.learning_rate,
            weight_decay=0.01,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: linear_rate(min(1.0, step / steps), WARMUP)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
