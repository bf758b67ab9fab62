"""Masked-language-model training: the tokenizer's words, which tokens are masked, and the loss on them."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from bam_lightning.data.collate import Examples, collate
from bam_lightning.data.examples import TaskSplit
from bam_lightning.data.tokenization import encode
from bam_lightning.models.batch import Batch, TaskBatch
from bam_lightning.models.encoder import Encoder, from_path, load_tokenizer
from bam_lightning.training.callbacks import History
from bam_lightning.training.datamodule import ExamplesDataModule
from bam_lightning.training.masked_lm import IGNORED, TASK, MaskedModule, TokenMasker, make_tokenizer
from conftest import WORDS, sentences
from families import FAMILIES, batch_of, padded

CLS, MASK = 2, 4
ALL = torch.ones(8, dtype=torch.bool)  # the texts of a minibatch that a rank trains on


def test_the_commonest_words_are_kept_whole_and_others_spelt_in_characters():
    tokenizer = make_tokenizer(["the cat sat", "the cat ran", "the tact"], vocab_size=2)
    assert tokenizer.tokenize("The cat") == ["the", "cat"]
    assert tokenizer.tokenize("tact ran") == ["t", "##a", "##c", "##t", "r", "##a", "##n"]
    assert tokenizer.tokenize("xyz") == ["[UNK]"]  # letters that no text had


def test_words_equally_common_are_taken_in_alphabetical_order():
    tokenizer = make_tokenizer(["dog cat bird ant"], vocab_size=2)
    assert [tokenizer.tokenize(word)[0] for word in ("ant", "bird", "cat", "dog")] == ["ant", "bird", "c", "d"]


def test_punctuation_is_a_word_of_its_own():
    assert make_tokenizer(["who ? what ."], 10).tokenize("who? what.") == ["who", "?", "what", "."]


@pytest.mark.parametrize("word", ["caf\u00e9", "na\u00efve", "\u00fcber"])
def test_a_common_word_with_an_accent_is_kept_whole(word):
    tokens = make_tokenizer([f"{word} {word}"], vocab_size=1).tokenize(word)
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
    """Return true ids, masked ids, which are to be predicted, and the vocabulary; every fourth token is [CLS]."""
    tokenizer = make_tokenizer([" ".join(f"w{number}" for number in range(1000))], 1000)
    ids = torch.from_numpy(np.random.default_rng(0).integers(10, len(tokenizer), 400_000))
    ids[::4] = CLS
    masked = TokenMasker(tokenizer, 0.15, seed=1)(
        Batch(ids, torch.zeros_like(ids), None, (len(ids),), {}), torch.ones(1, dtype=bool)
    )
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    chosen[masked.tasks[TASK].positions] = True
    assert masked.tasks[TASK].labels.equal(ids[chosen])
    return ids, masked.input_ids, chosen, len(tokenizer)


def within_four_sigma(count: int, draws: int, share: float) -> bool:
    return abs(count - draws * share) < 4 * (draws * share * (1 - share)) ** 0.5


def test_fifteen_in_a_hundred_tokens_are_chosen_and_no_special_one(draw):
    _, _, chosen, _ = draw
    assert not chosen[::4].any()
    assert within_four_sigma(int(chosen.sum()), 300_000, 0.15)


def test_of_the_chosen_80_percent_are_masked_10_random_10_left(draw):
    ids, inputs, chosen, words = draw
    draws = int(chosen.sum())
    masked = int((inputs[chosen] == MASK).sum())
    left = int((inputs[chosen] == ids[chosen]).sum())
    by_chance = 0.1 / words  # a random word may be the mask, or the word that stood there
    assert within_four_sigma(masked, draws, 0.8 + by_chance)
    assert within_four_sigma(left, draws, 0.1 + by_chance)
    assert within_four_sigma(draws - masked - left, draws, 0.1 - 2 * by_chance)


def test_random_words_come_from_the_whole_vocabulary(draw):
    ids, inputs, chosen, words = draw
    wild = inputs[chosen & (inputs != MASK) & (inputs != ids)].double()
    assert 0 <= wild.min() < 10
    assert words - 10 <= wild.max() < words
    assert abs(wild.mean() - (words - 1) / 2) < 4 * words / 12**0.5 / len(wild) ** 0.5


def test_all_other_tokens_stay(draw):
    ids, inputs, chosen, _ = draw
    assert inputs[~chosen].equal(ids[~chosen])


@pytest.fixture
def texts(tiny_bert, tmp_path):
    """Return the tokenizer, and 20 texts as examples."""
    tokenizer, lines = load_tokenizer(tiny_bert), sentences(20, 0)
    keys = [text.encode().ljust(64)[:64] for text in lines]
    tokens = encode(TaskSplit((lines,), np.zeros(20), keys), tokenizer, 64, tmp_path / "cache")
    return tokenizer, Examples(tokens, np.zeros(20))


def test_masks_are_a_function_of_the_seed_and_the_number_of_the_batch(texts):
    tokenizer, examples = texts

    def masked(seed, index):
        batch = collate({TASK: examples}, [TASK] * 8, np.arange(8), index)
        before = batch.input_ids.clone(), torch.get_rng_state()
        found = TokenMasker(tokenizer, 0.5, seed)(batch, ALL)
        assert batch.input_ids.equal(before[0])
        assert torch.get_rng_state().equal(before[1])  # dropout's draws stay what they are
        return found.input_ids.tolist(), found.tasks[TASK].positions.tolist()

    first = masked(0, 0)
    torch.rand(3)
    assert masked(0, 0) == first
    assert first not in (masked(0, 1), masked(1, 0))


def test_special_tokens_are_never_chosen_and_the_text_is_whole(texts):
    tokenizer, examples = texts
    for number in range(6):
        plain = collate({TASK: examples}, [TASK] * 8, np.random.default_rng(number).integers(0, 20, 8), number)
        masked = TokenMasker(tokenizer, 0.5, 0)(plain, ALL)
        part = masked.tasks[TASK]
        assert 0.3 < len(part.positions) / (len(plain.input_ids) - 16) < 0.7
        assert part.labels.equal(plain.input_ids[part.positions])
        assert (part.labels > 4).all()
        restored = masked.input_ids.clone()
        restored[part.positions] = part.labels
        assert restored.equal(plain.input_ids)
        assert (masked.lengths, masked.index) == (plain.lengths, number)


def test_ranks_share_the_masks_of_one(texts):
    tokenizer, examples = texts
    masker, plain = TokenMasker(tokenizer, 0.5, 0), collate({TASK: examples}, [TASK] * 8, np.arange(8))
    whole, owner = masker(plain, ALL), torch.tensor([0, 1, 1, 0, 2, 0, 1, 2])
    predicted = torch.zeros(len(whole.input_ids), dtype=torch.bool)
    predicted[whole.tasks[TASK].positions] = True
    for rank in range(4):  # the last has no text
        mine = masker(plain, owner == rank)
        expected = [text for text, owned in enumerate(owner.tolist()) if owned == rank]
        for field in ("input_ids", "position_ids"):
            texts_of_all = getattr(whole, field).split(whole.lengths)
            found = getattr(mine, field).split(mine.lengths) if expected else ()
            assert [row.tolist() for row in found] == [texts_of_all[text].tolist() for text in expected]
        flags = torch.zeros(len(mine.input_ids), dtype=torch.bool)
        flags[mine.tasks[TASK].positions] = True
        flags_of_all = predicted.split(whole.lengths)
        assert flags.tolist() == [flag for text in expected for flag in flags_of_all[text].tolist()] or not expected
        assert mine.tasks[TASK].labels.equal(whole.tasks[TASK].labels[_texts_of(whole, owner)[predicted] == rank])


def _texts_of(batch, values):
    """Return the value of each token's text."""
    return torch.repeat_interleave(values, torch.tensor(batch.lengths))


MODELS = ("bert", "roberta", "electra", "distilbert", "deberta-v2")


def masked_model(family):
    """Return a module and transformers' own model with the same weights."""
    kind, fields = FAMILIES[family]
    config = transformers.AutoConfig.for_model(kind, **fields)
    torch.manual_seed(0)
    module = MaskedModule(Encoder(transformers.AutoModel.from_config(config), "cls"), learning_rate=1e-3, seed=0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    other = transformers.AutoModelForMaskedLM.from_config(config)
    body = {f"{other.base_model_prefix}.{name}": value for name, value in module.encoder.body.state_dict().items()}
    found = other.load_state_dict({**module.word_head.state_dict(), **body}, strict=False)
    assert not found.missing_keys
    assert not [name for name in found.unexpected_keys if "pooler" not in name]
    other.tie_weights()
    return module.eval(), other.eval()


def to_predict(batch, positions):
    """Return the batch with tokens to predict, and transformers' labels of the padded one."""
    positions = torch.tensor(positions, dtype=torch.long)
    labels = torch.full_like(batch.input_ids, IGNORED)
    labels[positions] = batch.input_ids[positions]
    batch.tasks = {TASK: TaskBatch(positions, positions, batch.input_ids[positions])}
    return pad_sequence(list(labels.split(batch.lengths)), batch_first=True, padding_value=IGNORED)


@pytest.mark.parametrize("family", MODELS)
def test_masked_loss_and_gradients_are_those_of_transformers_over_padded_texts(family):
    module, other = masked_model(family)
    batch = batch_of((6, 9, 9, 12))
    labels = to_predict(batch, [1, 5, 8, 20, 35])
    loss, count = module.masked_loss(batch)
    expected = other(**padded(batch), labels=labels)
    assert count == 5
    torch.testing.assert_close(loss / count, expected.loss, rtol=0, atol=2e-6)
    flat = torch.nn.functional.cross_entropy(expected.logits.reshape(-1, 50), labels.reshape(-1))
    torch.testing.assert_close(loss / count, flat, rtol=0, atol=2e-6)
    (loss / count).backward()
    expected.loss.backward()
    words = module.encoder.body.get_input_embeddings().weight.grad
    assert words.abs().max() > 0.01
    torch.testing.assert_close(words, other.get_input_embeddings().weight.grad, rtol=1e-4, atol=1e-6)
    theirs = dict(other.named_parameters(remove_duplicate=False))  # tied weights under both names
    for name, parameter in module.word_head.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_word_embeddings_are_those_that_predict_words():
    module, _ = masked_model("bert")
    assert module.word_head.get_output_embeddings().weight is module.encoder.body.get_input_embeddings().weight


def test_a_batch_without_a_token_to_predict_has_no_loss():
    module, _ = masked_model("bert")
    batch = batch_of((3, 4))
    to_predict(batch, [])
    loss, count = module.masked_loss(batch)
    assert (loss.item(), count) == (0.0, 0)


@pytest.mark.filterwarnings("ignore:.*have no `validation_step`.*")
def test_pretraining_lowers_the_loss_and_logs_its_mean_per_token(texts, tiny_bert):
    tokenizer, examples = texts
    module = MaskedModule(from_path(str(tiny_bert), None, "cls"), 1e-2, seed=0)
    masker, history = TokenMasker(tokenizer, 0.3, 0), History()
    data = ExamplesDataModule({TASK: examples}, batch_size=10, transform=masker)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=60,
        max_epochs=-1,
        log_every_n_steps=20,
        callbacks=[history],
        limit_val_batches=0,
        **quiet,
    )
    trainer.fit(module, data)
    assert [row["step"] for row in history.rows] == [20, 40, 60]
    losses = [row["loss"] for row in history.rows]
    assert losses[0] < np.log(len(tokenizer)) + 0.5  # that of a guess
    assert losses[2] < losses[0] - 0.3


def test_words_of_the_tiny_encoder_are_whole(tiny_bert):
    tokenizer = load_tokenizer(tiny_bert)
    assert tokenizer.tokenize(" ".join(WORDS)) == WORDS
