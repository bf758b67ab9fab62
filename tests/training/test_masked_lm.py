"""Masked-language-model training: the tokenizer's words, which tokens are masked, and the loss on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bam_lightning.data.examples import TaskSplit
from bam_lightning.data.tokenization import encode
from bam_lightning.models.encoder import Encoder, load_tokenizer
from bam_lightning.training.masked_lm import IGNORED, MaskedModule, MaskedSteps, MaskedText, make_tokenizer, mask_tokens
from conftest import WORDS, sentences

MASK, VOCABULARY = 4, 1000


def test_the_commonest_words_are_kept_whole_and_others_spelt_in_characters():
    tokenizer = make_tokenizer(["the cat sat", "the cat ran", "the tact"], vocabulary=2)
    assert tokenizer.tokenize("The cat") == ["the", "cat"]
    assert tokenizer.tokenize("tact ran") == ["t", "##a", "##c", "##t", "r", "##a", "##n"]
    assert tokenizer.tokenize("xyz") == ["[UNK]"]  # letters that no text had


def test_words_equally_common_are_taken_in_alphabetical_order():
    tokenizer = make_tokenizer(["dog cat bird ant"], vocabulary=2)
    assert [tokenizer.tokenize(word)[0] for word in ("ant", "bird", "cat", "dog")] == ["ant", "bird", "c", "d"]


def test_punctuation_is_a_word_of_its_own():
    assert make_tokenizer(["who ? what ."], 10).tokenize("who? what.") == ["who", "?", "what", "."]


@pytest.mark.parametrize("word", ["caf\u00e9", "na\u00efve", "\u00fcber"])
def test_a_common_word_with_an_accent_is_kept_whole(word):
    tokens = make_tokenizer([f"{word} {word}"], vocabulary=1).tokenize(word)
    assert len(tokens) == 1
    assert tokens != ["[UNK]"]


def test_special_tokens_come_first_and_the_same_texts_give_the_same_words():
    texts = sentences(50, 0)
    one, two = make_tokenizer(texts, 12), make_tokenizer(iter(texts), 12)
    assert one.get_vocab() == two.get_vocab()
    assert one.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (one.pad_token_id, one.unk_token_id, one.cls_token_id, one.sep_token_id, one.mask_token_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert sorted(one.get_vocab().values()) == list(range(len(one)))


@pytest.fixture(scope="module")
def draw():
    """Return ids, maskable, inputs and labels of 400,000 tokens, a quarter of them not maskable."""
    rng = np.random.default_rng(0)
    ids = rng.integers(10, VOCABULARY, (800, 500))
    maskable = np.ones_like(ids, dtype=bool)
    maskable[:, ::4] = False
    return ids, maskable, *mask_tokens(ids, maskable, 0.15, MASK, VOCABULARY, np.random.default_rng(1))


def within_four_sigma(count: int, draws: int, share: float) -> bool:
    return abs(count - draws * share) < 4 * (draws * share * (1 - share)) ** 0.5


def test_fifteen_in_a_hundred_maskable_tokens_are_chosen_and_no_other(draw):
    _, maskable, _, labels = draw
    chosen = labels != IGNORED
    assert not (chosen & ~maskable).any()
    assert within_four_sigma(int(chosen.sum()), int(maskable.sum()), 0.15)


def test_of_the_chosen_80_percent_are_masked_10_random_10_left(draw):
    ids, _, inputs, labels = draw
    chosen = labels != IGNORED
    draws = int(chosen.sum())
    masked = int((inputs[chosen] == MASK).sum())
    left = int((inputs[chosen] == ids[chosen]).sum())
    by_chance = 0.1 / VOCABULARY  # a random word may be the mask, or the word that stood there
    assert within_four_sigma(masked, draws, 0.8 + by_chance)
    assert within_four_sigma(left, draws, 0.1 + by_chance)
    assert within_four_sigma(draws - masked - left, draws, 0.1 - 2 * by_chance)


def test_random_words_come_from_the_whole_vocabulary(draw):
    ids, _, inputs, labels = draw
    wild = inputs[(labels != IGNORED) & (inputs != MASK) & (inputs != ids)]
    assert 0 <= wild.min() < 10
    assert VOCABULARY - 10 <= wild.max() < VOCABULARY
    assert abs(wild.mean() - 499.5) < 4 * VOCABULARY / 12**0.5 / len(wild) ** 0.5


def test_labels_are_the_true_words_and_all_other_inputs_stay(draw):
    ids, _, inputs, labels = draw
    chosen = labels != IGNORED
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    np.testing.assert_array_equal(inputs[~chosen], ids[~chosen])


@pytest.fixture
def steps(tiny_bert, tmp_path):
    """Return a function from a seed to 6 steps of 8 texts, half of all tokens masked."""
    tokenizer = load_tokenizer(tiny_bert)
    texts = sentences(20, 0)
    keys = [text.encode().ljust(64)[:64] for text in texts]
    tokens = encode(TaskSplit((texts,), np.zeros(20), keys), tokenizer, 64, tmp_path / "cache")
    rows = np.random.default_rng(0).integers(0, 20, (6, 8)).astype(np.int32)
    rows[1] = rows[0]
    return lambda seed=0: MaskedSteps(tokens, rows, tokenizer, 0.5, seed)


def equal(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_masks_are_a_function_of_seed_and_step(steps):
    forwards = [steps()[step] for step in range(6)]
    np.random.seed(1)
    torch.manual_seed(1)
    again = steps()
    assert all(equal(again[step], forwards[step]) for step in reversed(range(6)))
    assert not torch.equal(forwards[0]["labels"], forwards[1]["labels"])  # the same texts in another step
    assert not torch.equal(steps(seed=1)[0]["labels"], forwards[0]["labels"])


def test_special_tokens_and_padding_are_never_chosen_and_text_is_whole(steps):
    for block in steps():
        ids = torch.where(block["labels"] == IGNORED, block["input_ids"], block["labels"])
        chosen = block["labels"] != IGNORED
        assert 0.3 < chosen.sum() / (block["attention_mask"].sum() - 16) < 0.7
        assert not (chosen & (block["attention_mask"] == 0)).any()
        assert (ids[block["attention_mask"] == 0] == 0).all()
        assert (ids[:, 0] == 2).all()  # [CLS]
        assert ((ids == 3).sum(1) == 1).all()  # [SEP]
        assert (block["labels"][chosen] > 4).all()


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_block_of_one(steps, processes):
    whole, own = steps()[2], steps()
    for rank in range(processes):
        own.rank, own.processes = rank, processes
        assert equal(own[2], {name: value[rank::processes] for name, value in whole.items()})


def test_loader_gives_the_steps_in_their_order(steps):
    blocks = list(MaskedText(steps()).train_dataloader())
    assert len(blocks) == 6
    assert all(equal(block, steps()[step]) for step, block in enumerate(blocks))


def masked_model():
    """Return a module and transformers' own model with the same weights."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        layer_norm_eps=1e-5,  # torch's own, which the head has
    )
    module = MaskedModule(Encoder(BertModel(config), pooling="cls"), learning_rate=1e-3, seed=0, log_every=1).eval()
    other = BertForMaskedLM(config).eval()
    torch.nn.init.normal_(module.bias)
    other.bert.load_state_dict(module.encoder.body.state_dict())
    head = other.cls.predictions
    head.transform.dense.load_state_dict(module.transform[0].state_dict())
    head.transform.LayerNorm.load_state_dict(module.transform[2].state_dict())
    head.bias.data.copy_(module.bias.data)
    head.decoder.bias.data.copy_(module.bias.data)
    head.decoder.weight = other.bert.embeddings.word_embeddings.weight
    return module, other


def block_of_words(chosen: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (4, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = torch.full_like(ids, IGNORED)
    for place in chosen:
        labels[place] = ids[place]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_masked_loss_equals_that_of_transformers_and_torch_over_all_logits():
    module, other = masked_model()
    block = block_of_words([(0, 1), (0, 5), (1, 2), (3, 8)])
    loss, count = module.masked_loss(block)
    expected = other(**block)
    flat = torch.nn.functional.cross_entropy(expected.logits.reshape(-1, 60), block["labels"].reshape(-1))
    assert count == 4
    torch.testing.assert_close(loss / count, expected.loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(loss / count, flat, rtol=0, atol=1e-6)


def test_gradient_of_masked_loss_equals_that_of_transformers():
    module, other = masked_model()
    block = block_of_words([(0, 1), (2, 3)])
    (module.masked_loss(block)[0] / 2).backward()
    other(**block).loss.backward()
    words = module.encoder.body.get_input_embeddings().weight.grad
    torch.testing.assert_close(words, other.bert.embeddings.word_embeddings.weight.grad, rtol=1e-5, atol=1e-6)
    assert module.bias.grad.abs().sum() > 0


def test_block_without_a_masked_token_has_no_loss():
    loss, count = masked_model()[0].masked_loss(block_of_words([]))
    assert (loss.item(), count) == (0.0, 0)


def test_words_of_the_tiny_encoder_are_whole(tiny_bert):
    tokenizer = load_tokenizer(tiny_bert)
    assert tokenizer.tokenize(" ".join(WORDS)) == WORDS
