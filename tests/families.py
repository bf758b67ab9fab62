"""Small encoders of every family, and texts for them.

``FAMILIES`` are those that most tests walk through; ``CHECKPOINTS`` become folders with weights and a tokenizer."""

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


LLAMA = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
GEMMA = {
    **LLAMA,
    "sliding_window": 8,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 1, "num_heads": 2}
BART = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
XLM = {"emb_dim": 32, "n_layers": 3, "n_heads": 2}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "mask_token_id": 4}
# family -> model_type, fields of its configuration, whether texts of it are packed
CHECKPOINTS = {
    "ALBERT": ("albert", {**SIZES, "embedding_size": 16}, True),
    "BERT": ("bert", SIZES, True),
    "CamemBERT": ("camembert", SIZES, True),
    "data2vec": ("data2vec-text", SIZES, True),
    "DistilBERT": ("distilbert", DISTIL, True),
    "ELECTRA": ("electra", {**SIZES, "embedding_size": 16}, True),
    "ERNIE": ("ernie", SIZES, True),
    "EuroBERT": ("eurobert", {**LLAMA, **SPECIAL}, True),
    "Gemma": ("gemma", LLAMA, True),
    "Gemma 2": ("gemma2", GEMMA, True),
    "Gemma 3": ("gemma3_text", GEMMA, True),
    "Gemma 3, two-sided": ("gemma3_text", {**GEMMA, "use_bidirectional_attention": True}, True),
    "GPT-2": ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 2}, True),
    "GPT-NeoX": ("gpt_neox", SIZES, True),
    "GTE": ("gte", SIZES, True),
    "Jina v3": ("jina_embeddings_v3", SIZES, True),
    "Llama": ("llama", LLAMA, True),
    "Mistral": ("mistral", {**LLAMA, "sliding_window": 8}, True),
    "ModernBERT": ("modernbert", {**SIZES, **SPECIAL, "pad_token_id": 0, "local_attention": 8}, True),
    "ModernBERT decoder": ("modernbert-decoder", {**SIZES, **SPECIAL, "pad_token_id": 0, "local_attention": 8}, True),
    "NomicBERT": ("nomic_bert", SIZES, True),
    "OLMo 2": ("olmo2", SIZES, True),
    "OPT": ("opt", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}, True),
    "Phi-3": ("phi3", {**SIZES, "num_key_value_heads": 1}, True),
    "Qwen2": ("qwen2", LLAMA, True),
    "Qwen3": ("qwen3", LLAMA, True),
    "RoBERTa": ("roberta", SIZES, True),
    "RoBERTa-PreLayerNorm": ("roberta-prelayernorm", SIZES, True),
    "SmolLM3": ("smollm3", LLAMA, True),
    "XLM-R": ("xlm-roberta", SIZES, True),
    "XLM-R XL": ("xlm-roberta-xl", SIZES, True),
    "BART": ("bart", BART, False),
    "BLOOM": ("bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 2}, False),
    "ConvBERT": ("convbert", {**SIZES, "embedding_size": 16}, False),
    "DeBERTa": ("deberta", V1, False),
    "DeBERTa-v3": ("deberta-v2", V3, False),
    "FlauBERT": ("flaubert", XLM, False),
    "FNet": ("fnet", SIZES, False),
    "LayoutLM": ("layoutlm", SIZES, False),
    "mBART": ("mbart", BART, False),
    "MobileBERT": (
        "mobilebert",
        {**SIZES, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
        False,
    ),
    "MPNet": ("mpnet", SIZES, False),
    "mT5": ("mt5", T5, False),
    "RemBERT": ("rembert", {**SIZES, "input_embedding_size": 16}, False),
    "RoFormer": ("roformer", {**SIZES, "embedding_size": 32}, False),
    "SqueezeBERT": ("squeezebert", {**SIZES, "embedding_size": 32}, False),
    "T5": ("t5", T5, False),
    "UMT5": ("umt5", T5, False),
    "XLM": ("xlm", XLM, False),
    "XLNet": ("xlnet", {"d_model": 32, "n_layer": 3, "n_head": 2, "d_inner": 48}, False),
}


def checkpoint(family, tokenizer, folder):
    """Write a folder with a random model of a family and a tokenizer; the whole model of an encoder-decoder."""
    kind, fields, _ = CHECKPOINTS[family]
    known = transformers.AutoConfig.for_model(kind).to_dict()
    special = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 2, "eos_token_id": 3, **fields}
    special = {name: value for name, value in special.items() if name in known or name in fields}
    config = transformers.AutoConfig.for_model(kind, **{**special, "vocab_size": len(tokenizer) + 8})  # Qwen's add some
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def body(family):
    kind, fields, *_ = {**CHECKPOINTS, **FAMILIES}[family]
    fields = {"vocab_size": 50, **fields}
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
