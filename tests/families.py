"""Small encoders of every family, and texts for them."""

from __future__ import annotations

import torch
import transformers

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


def inputs(lengths=(9, 5, 3)):
    """Return padded ids of texts of these lengths; 1 is RoBERTa's padding, so no real token is 0 or 1."""
    ids = torch.ones(len(lengths), max(lengths), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(2, 50, (length,))
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}
