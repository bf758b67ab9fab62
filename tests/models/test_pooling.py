"""Pooling: what a checkpoint says, else by family; the same vectors whichever side is padded."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.models.encoder import Encoder, check_vocabulary, encoder_notes, from_path, load_tokenizer
from bam_lightning.models.pooling import choose_pooling, family_of
from families import CHECKPOINTS, SIZES, batch_of


def sentence_transformers_folder(folder, **modes):
    (folder / "1_Pooling").mkdir(parents=True)
    modules = [{"path": "", "type": "models.Transformer"}, {"path": "1_Pooling", "type": "models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    return folder


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_max_tokens": True}, "pooler"),  # there is none like it here
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "pooler"),  # both, one after the other
    ],
)
def test_a_checkpoint_says_what_it_was_trained_with(modes, expected, tmp_path):
    folder = sentence_transformers_folder(tmp_path / "minilm", **modes)
    chosen = choose_pooling(None, "bert", str(folder))
    assert chosen.name == expected
    assert ("1_Pooling" in chosen.reason) is (expected != "pooler")
    assert choose_pooling("cls", "bert", str(folder)).name == "cls"  # what is given wins


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", "pooler"), ("modernbert", "pooler"), ("deberta-v2", "pooler"), ("t5", "pooler"), ("bart", "pooler")]
    + [(name, "last") for name in ("gpt2", "llama", "qwen3", "gemma3_text", "xlnet", "modernbert-decoder")]
    + [("", "mean")],
)
def test_a_checkpoint_that_says_nothing_is_pooled_as_its_family(family, expected, tmp_path):
    assert choose_pooling(None, family, str(tmp_path)).name == expected


def test_damaged_files_of_a_checkpoint_are_named(tmp_path):
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ConfigError, match=r"modules.json is not JSON .*; mend it, or give encoder.pooling$"):
        choose_pooling(None, "bert", str(tmp_path))


def test_the_family_is_that_of_config_json(tiny_bert, tmp_path):
    assert family_of(str(tiny_bert)) == "bert"
    assert family_of(str(tmp_path)) == ""


def test_the_first_token_of_a_decoder_is_refused():
    with pytest.raises(
        ConfigError, match=r"^encoder.pooling=cls: the first token of a qwen3 model sees no other token"
    ):
        choose_pooling("cls", "qwen3", None)


def decoder(family, pooling):
    kind, fields, _ = CHECKPOINTS[family]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**fields, "vocab_size": 50})
    encoder = Encoder(transformers.AutoModel.from_config(config), pooling).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder


@pytest.mark.parametrize("pooling", ["last", "mean", "pooler"])
@pytest.mark.parametrize("family", ["Llama", "BERT", "XLNet"])
@torch.no_grad()
def test_vectors_are_those_of_the_chosen_tokens_whichever_side_is_padded(family, pooling):
    """Positions are given, so that padding on the left moves no text."""
    encoder, batch = decoder(family, pooling), batch_of((3, 5, 9))
    found = encoder(batch)
    width = max(batch.lengths)
    for side in ("left", "right"):
        ids, mask, positions = (torch.zeros((3, width), dtype=torch.long) for _ in range(3))
        expected = []
        for row, text in enumerate(batch.input_ids.split(batch.lengths)):
            span = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
            ids[row, span], mask[row, span] = text, 1
            positions[row, span] = torch.arange(len(text))
            alone = encoder.body(input_ids=text[None], attention_mask=torch.ones_like(text[None]))
            states = alone.last_hidden_state[0]
            token = 0 if family == "BERT" and pooling == "pooler" else -1
            vector = states.mean(0) if pooling == "mean" else states[token]
            expected.append(vector if encoder.pooler is None else torch.tanh(encoder.pooler(vector)))
        inputs = {"input_ids": ids, "attention_mask": mask}
        if family != "XLNet":  # its positions are relative
            inputs["position_ids"] = positions
        torch.testing.assert_close(encoder.forward_padded(inputs), torch.stack(expected), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_a_decoders_tokenizer_pads_with_its_end_of_text(tiny_bert, tmp_path):
    words = len(load_tokenizer(tiny_bert))
    config = transformers.GPT2Config(
        vocab_size=words + 1, n_embd=32, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3
    )
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    backend = transformers.AutoTokenizer.from_pretrained(tiny_bert).backend_tokenizer
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", padding_side="left")
    assert plain.pad_token is None
    plain.save_pretrained(tmp_path)
    tokenizer, encoder = load_tokenizer(tmp_path), from_path(str(tmp_path), None)
    assert tokenizer.pad_token == "[SEP]"
    check_vocabulary(encoder, tokenizer, "here")
    assert encoder_notes(encoder, tokenizer) == [
        "pooling last: gpt2 reads from left to right",
        "the tokenizer pads with '[SEP]', its end of a text; padding is masked",
    ]


def test_a_pooling_that_was_given_is_not_worth_a_note(tiny_bert):
    assert encoder_notes(from_path(str(tiny_bert), None, "mean"), load_tokenizer(tiny_bert)) == []


def test_the_encoder_half_of_an_encoder_decoder_is_kept(tmp_path):
    config = transformers.T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2)
    whole = transformers.T5Model(config)
    whole.save_pretrained(tmp_path)
    encoder = from_path(str(tmp_path), None)
    assert encoder.config.is_encoder_decoder
    assert not [name for name, _ in encoder.named_parameters() if "decoder" in name]
    for name, value in whole.encoder.state_dict().items():
        assert torch.equal(encoder.body.state_dict()[name], value), name


def test_albert_keeps_its_own_pooler(tmp_path):
    whole = transformers.AlbertModel(transformers.AlbertConfig(**SIZES, embedding_size=16))
    whole.save_pretrained(tmp_path)
    encoder, batch = from_path(str(tmp_path), None, "pooler").eval(), batch_of((4,))
    assert torch.equal(encoder.pooler.weight, whole.pooler.weight)
    with torch.no_grad():
        theirs = whole.eval()(input_ids=batch.input_ids[None]).pooler_output
        torch.testing.assert_close(encoder(batch), theirs, atol=1e-6, rtol=1e-6)
