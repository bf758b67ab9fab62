"""Small encoders of every family, and texts for them."""

from __future__ import annotations

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from bam_lightning.models.batch import Batch

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
DISTIL = {"vocab_size": 50, "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48}
V1 = {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
NORMED = {**V1, "norm_rel_ebd": "layer_norm", "position_buckets": 8}
V2 = {**NORMED, "share_att_key": False, "conv_kernel_size": 3, "conv_act": "gelu"}
V3 = {**NORMED, "share_att_key": True, "position_biased_input": False}
FAMILIES = {
    "bert": ("bert", SIZES),
    "roberta": ("roberta", SIZES),
    "electra": ("electra", {**SIZES, "embedding_size": 16}),
    "distilbert": ("distilbert", DISTIL),
    "deberta-v1": ("deberta", V1),
    "deberta-v2": ("deberta-v2", {**V2, "embedding_size": 16}),
    "deberta-v3": ("deberta-v2", V3),
    "minilm": ("bert", {**SIZES, "hidden_size": 24, "num_hidden_layers": 6, "num_attention_heads": 12}),
}
PACKED = ("bert", "roberta", "electra", "distilbert", "minilm")  # computed without padding


def body(family):
    kind, fields = FAMILIES[family]
    return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **fields))


def batch_of(lengths=(3, 5, 9), types=False):
    """Return random texts of these lengths, shortest first; 1 is RoBERTa's padding, so no token is 0 or 1."""
    lengths = tuple(sorted(lengths))
    ids = torch.randint(2, 50, (sum(lengths),))
    positions = torch.cat([torch.arange(length) for length in lengths])
    return Batch(ids, positions, torch.randint(0, 2, ids.shape) if types else None, lengths, {})


def padded(batch):
    """Return the texts as a transformers model takes them: ``[S, T]`` ids, mask and segment ids."""
    columns = {"input_ids": batch.input_ids, "attention_mask": torch.ones_like(batch.input_ids)}
    if batch.token_type_ids is not None:
        columns["token_type_ids"] = batch.token_type_ids
    filler = {"input_ids": 1, "attention_mask": 0, "token_type_ids": 0}
    return {
        name: pad_sequence(list(row.split(batch.lengths)), batch_first=True, padding_value=filler[name])
        for name, row in columns.items()
    }


def pooled_by_hand(encoder, batch):
    """Return an encoder's vectors ``[S, D]`` of texts that are padded to the longest, by its body's own layers."""
    inputs = padded(batch)
    states = encoder.body(**inputs).last_hidden_state  # [S, T, D]
    if encoder.pooling == "mean":
        return torch.stack([row[:length].mean(0) for row, length in zip(states, batch.lengths, strict=True)])
    return states[:, 0] if encoder.pooler is None else torch.tanh(encoder.pooler(states[:, 0]))
