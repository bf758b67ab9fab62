"""Word embeddings whose gradient is rows: the same update as with a whole one, for words read and unread."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from bam_lightning.config.job_config import OptimizationConfig
from bam_lightning.models.encoder import Encoder
from bam_lightning.models.kernels.sparse_embedding_grad import SparseEmbeddingGrad
from bam_lightning.training.optimizer import build_optimizer, clip_gradients, parameter_groups, set_rates
from families import FAMILIES, body, inputs

LENGTHS = (9, 5, 3)


def encoder_of(family="bert"):
    torch.manual_seed(0)
    return Encoder(body(family), pooler=True).double().eval()


def words_of(encoder):
    return encoder.body.get_input_embeddings()


def gradient(encoder, seed, parts=1):
    """Go back through texts of half the words, in so many calls of the encoder."""
    torch.manual_seed(seed)
    block = inputs(LENGTHS)
    block["input_ids"] = block["input_ids"] // 2 * 2
    for part in range(parts):
        mine = {name: value[part::parts] for name, value in block.items()}
        (encoder(mine, LENGTHS[part::parts]) ** 2).sum().backward()


def trained(encoder, rows, corrected, parts):
    """Return the norms of four steps."""
    groups = parameter_groups(encoder, nn.ModuleDict(), 0.9, 0.01)
    optimizer, norms = build_optimizer(groups, OptimizationConfig(bias_correction=corrected)), []
    set_rates(optimizer, 1e-2)
    for step in range(4):
        gradient(encoder, step, parts)
        assert words_of(encoder).weight.grad.is_sparse is (rows is not None)
        norms.append(clip_gradients(encoder.parameters(), 0.5))
        if rows is None:
            optimizer.step()
        else:
            with rows.whole():
                assert not words_of(encoder).weight.grad.is_sparse
                optimizer.step()
        optimizer.zero_grad()
    return torch.stack(norms)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_update_is_that_of_a_whole_gradient(family, corrected, parts):
    plain, ours = encoder_of(family), encoder_of(family)
    norms = trained(plain, None, corrected, parts)
    torch.testing.assert_close(
        trained(ours, SparseEmbeddingGrad(ours), corrected, parts), norms, atol=1e-12, rtol=1e-12
    )
    assert norms.min() > 0.5  # so all were clipped
    for (name, one), two in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=0, msg=name)


def test_a_word_that_was_read_once_moves_on_and_one_that_never_was_decays():
    encoder = encoder_of()
    rows, weight = SparseEmbeddingGrad(encoder), words_of(encoder).weight
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, weight_decay=0.5)
    for ids in ([3, 4], [4, 5]):
        (encoder({"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, 2)}, (2,)) ** 2).sum().backward()
        with rows.whole():
            assert sorted(weight.grad.abs().sum(1).nonzero().flatten().tolist()) == ids
            optimizer.step()
        assert weight.grad is None
    torch.testing.assert_close(weight[7], before[7] * 0.95**2)
    assert (weight[3] - before[3] * 0.95**2).abs().min() > 0.1  # two steps of about 0.1 each, the second by momentum


def test_a_closed_one_leaves_whole_gradients():
    encoder = encoder_of()
    SparseEmbeddingGrad(encoder).close()
    gradient(encoder, 0)
    assert not words_of(encoder).weight.grad.is_sparse


class Longer(nn.Embedding):
    """Whose gradient nobody knows."""


def scaled(words):
    words.scale_grad_by_freq = True
    return words


def bounded(words):
    words.max_norm = 1e6
    return words


def longer(words):
    return Longer(words.num_embeddings, words.embedding_dim)


@pytest.mark.parametrize("change", [scaled, bounded, longer])
def test_what_torch_does_not_do_with_rows_stays_whole(change):
    model = transformers.BertModel(transformers.BertConfig(**FAMILIES["bert"][1]))
    model.embeddings.word_embeddings = change(model.embeddings.word_embeddings)
    encoder = Encoder(model, pooler=True).eval()
    rows = SparseEmbeddingGrad(encoder)
    gradient(encoder, 0)
    whole = words_of(encoder).weight.grad
    assert not whole.is_sparse
    with rows.whole():
        assert words_of(encoder).weight.grad is whole
    assert words_of(encoder).weight.grad is whole


def test_frozen_words_have_no_gradient():
    encoder = encoder_of()
    words_of(encoder).weight.requires_grad_(False)
    rows = SparseEmbeddingGrad(encoder)
    gradient(encoder, 0)
    with rows.whole():
        assert words_of(encoder).weight.grad is None
