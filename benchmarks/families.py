"""Rows a second of encoder families, packed and padded: forward and backward, random weights of MiniLM's size.

    python benchmarks/families.py [--rounds 3]

32 texts a step; lengths are drawn once, with GLUE's median of 27 tokens and at most 128. Padded means batches of like
length, as families run that cannot be packed; whole means one batch padded to the longest. The three take turns in one
process, so that a busy machine slows all of them."""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import numpy as np
import torch
import transformers

from bam_lightning.models.batch import Batch
from bam_lightning.models.encoder import CALL_TOKENS, Encoder, encoder_half

ROWS, WORDS = 32, 1000
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
LLAMA = {**SIZES, "num_key_value_heads": 4, "head_dim": 32}
SPECIAL = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
FAMILIES = {
    "BERT": ("bert", SIZES),
    "ModernBERT": ("modernbert", {**SIZES, **SPECIAL}),
    "NomicBERT": ("nomic_bert", SIZES),
    "Qwen3": ("qwen3", LLAMA),
    "Gemma 3": ("gemma3_text", {**LLAMA, "query_pre_attn_scalar": 32}),
    "GPT-2": ("gpt2", {"n_embd": 384, "n_layer": 6, "n_head": 12, "bos_token_id": 0, "eos_token_id": 0}),
    "MPNet": ("mpnet", SIZES),
    "DeBERTa-v3": ("deberta-v2", {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "T5": ("t5", {"d_model": 384, "d_kv": 32, "d_ff": 1536, "num_layers": 6, "num_heads": 12, "num_decoder_layers": 1}),
}


def make(kind: str, fields: dict) -> Encoder:
    """Return a random encoder of a family."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=WORDS, **fields)
    encoder = Encoder(encoder_half(transformers.AutoModel.from_config(config)), "mean", config=config)
    encoder.max_length = 128
    return encoder.train()


def texts() -> Batch:
    """Return a minibatch."""
    rng = np.random.default_rng(0)
    lengths = tuple(sorted(np.clip(rng.lognormal(np.log(27), 0.7, ROWS), 4, 128).astype(int).tolist()))
    ids = torch.from_numpy(rng.integers(5, WORDS, sum(lengths)))
    return Batch(ids, torch.cat([torch.arange(count) for count in lengths]), None, lengths, {})


def seconds(encoder: Encoder, batch: Batch) -> float:
    """Return the time of a forward and a backward pass."""
    encoder.zero_grad()
    start = time.perf_counter()
    encoder(batch).square().sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print a row for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds, batch = parser.parse_args().rounds, texts()
    print("| family | texts | packed, rows/s | padded, rows/s | whole, rows/s |\n|---|---|---|---|---|", flush=True)
    for name, (kind, fields) in FAMILIES.items():
        encoder, found = make(kind, fields), {"packed": [], "padded": [], "whole": []}
        for turn in range(rounds + 1):  # the first is not counted
            for way, times in found.items():
                if way == "packed" and not encoder.packs:
                    continue
                encoder.call_tokens = CALL_TOKENS if way == "padded" else 1 << 30
                with mock.patch.object(Encoder, "packs_on", lambda *_, way=way: way == "packed"):
                    spent = seconds(encoder, batch)
                times += [spent] * bool(turn)
        rates = [f"{ROWS / statistics.median(times):.0f}" if times else "" for times in found.values()]
        print(f"| {name} | {'packed' if encoder.packs else 'padded'} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
