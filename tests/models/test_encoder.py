"""Encoders: the same numbers as transformers' own classifiers, and the depth of every parameter."""

import re

import pytest
import torch
import transformers
from safetensors.torch import load_file

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.models.batch import Batch
from bam_lightning.models.encoder import Encoder, from_folder, from_path, from_sizes, load_tokenizer
from bam_lightning.models.heads import ClassificationHead
from bam_lightning.models.safe_loading import shapes
from families import FAMILIES, PACKED, SIZES, batch_of, body, padded, pooled_by_hand


def with_head_of(theirs, linear, folder):
    """Return our encoder and head with the weights of one of transformers' classifiers."""
    theirs.save_pretrained(folder)
    encoder = from_path(str(folder), None, pooling="pooler")
    head = ClassificationHead(encoder.width, ["a", "b", "c"])
    head.linear.load_state_dict(linear.state_dict())
    return encoder.eval(), head.eval()


def wide(model):
    """Draw weights so large that every part of the model matters to the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def test_encoder_and_head_give_the_logits_of_transformers_bert_classifier(tmp_path):
    config = transformers.BertConfig(**SIZES, num_labels=3)
    theirs = wide(transformers.BertForSequenceClassification(config))
    encoder, head = with_head_of(theirs, theirs.classifier, tmp_path)
    batch = batch_of(types=True)
    with torch.no_grad():
        torch.testing.assert_close(head(encoder(batch)), theirs(**padded(batch)).logits, atol=1e-6, rtol=1e-6)


def test_encoder_and_head_give_the_logits_of_transformers_roberta_classifier(tmp_path):
    """RoBERTa's classifier has dense and tanh of its own where BERT has its pooler."""
    config = transformers.RobertaConfig(**SIZES, num_labels=3)
    theirs = wide(transformers.RobertaForSequenceClassification(config))
    encoder, head = with_head_of(theirs, theirs.classifier.out_proj, tmp_path)
    encoder.pooler.load_state_dict(theirs.classifier.dense.state_dict())
    batch = batch_of()
    with torch.no_grad():
        torch.testing.assert_close(head(encoder(batch)), theirs(**padded(batch)).logits, atol=1e-6, rtol=1e-6)


def test_the_attention_of_training_is_transformers_own_where_it_drops_nothing(tmp_path):
    """The smallest dropout takes the path of training, yet rounds to no element dropped."""
    theirs = wide(transformers.BertModel(transformers.BertConfig(**SIZES))).eval()
    theirs.save_pretrained(tmp_path)
    encoder, batch = from_path(str(tmp_path), None, pooling="pooler"), batch_of()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 1e-9
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch), theirs(**padded(batch)).pooler_output, atol=1e-6, rtol=1e-6)


def test_without_pooler_the_vector_is_the_first_tokens(tiny_bert):
    encoder = from_path(str(tiny_bert), None, pooling="cls").eval()
    theirs = transformers.BertModel.from_pretrained(tiny_bert).eval()
    batch = batch_of()
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch), theirs(**padded(batch)).last_hidden_state[:, 0], atol=1e-6, rtol=0)
    assert not [name for name, _ in encoder.named_parameters() if "pooler" in name]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_has_the_same_vector_alone_and_beside_longer_ones(family):
    encoder = wide(Encoder(body(family)))
    batch = batch_of((4, 9, 17))
    alone = Batch(batch.input_ids[:4], batch.position_ids[:4], None, (4,), {})
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch)[:1], encoder(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "pooler", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_the_padded_body_pooled_by_hand(family, pooling):
    torch.manual_seed(0)
    encoder = wide(Encoder(body(family), pooling, call_tokens=5)).double()
    batch = batch_of((2, 2, 9, 17, 18))
    assert encoder.packs is (family in PACKED)
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch), pooled_by_hand(encoder, batch), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("generation", "autocast", "packs"), [(7, True, False), (8, True, True), (9, True, True), (9, False, False)]
)
def test_a_gpu_packs_texts_in_bfloat16_from_ampere_on(generation, autocast, packs, monkeypatch):
    """Older ones, and other arithmetic, have no kernel for it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (generation, 0))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: autocast and device == "cuda")
    assert Encoder(body("bert")).packs_on(torch.device("cuda")) is packs
    assert not Encoder(body("deberta-v2")).packs_on(torch.device("cuda"))


@pytest.mark.parametrize("family", FAMILIES)
def test_token_states_are_the_padded_bodys_without_its_padding(family):
    torch.manual_seed(0)
    encoder = wide(Encoder(body(family), call_tokens=5)).double()
    batch = batch_of((2, 2, 9, 17, 18))
    with torch.no_grad():
        inputs = padded(batch)
        expected = encoder.body(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
        torch.testing.assert_close(encoder.token_states(batch), expected, atol=1e-12, rtol=1e-9)


def test_a_checkpoint_without_pooler_gets_a_new_one_of_berts_spread():
    encoder = Encoder(body("electra"), pooling="pooler")
    assert encoder.pooler.weight.shape == (32, 32)
    assert float(encoder.pooler.weight.detach().std()) == pytest.approx(0.02, rel=0.15)  # 1024 draws: 2.2 %
    assert encoder.pooler.bias.tolist() == [0] * 32


def test_weights_are_float32_where_the_file_is_float16(tmp_path):
    transformers.BertModel(transformers.BertConfig(**SIZES)).half().save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float16}
    encoder = from_path(str(tmp_path), None, pooling="pooler")
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}
    assert torch.equal(encoder.pooler.weight, kept["pooler.dense.weight"].float())


@pytest.mark.parametrize("source", ["path", "folder", "sizes"])
def test_a_new_encoder_is_ready_to_train_with_dropout(source, tiny_bert):
    fields = {name: value for name, value in SIZES.items() if name != "vocab_size"}
    encoder = {
        "path": lambda: from_path(str(tiny_bert), None, pooling="pooler"),
        "folder": lambda: from_folder(tiny_bert, "pooler", shapes(tiny_bert / "model.safetensors")),
        "sizes": lambda: from_sizes({"model_type": "bert", **fields}, 50, "pooler"),
    }[source]()
    batch = batch_of()
    assert all(module.training for module in encoder.modules())
    assert not torch.equal(encoder(batch), encoder(batch))


@pytest.mark.parametrize("pooling", ["pooler", "cls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_depth_and_no_depth_is_empty(family, pooling):
    encoder, pooler = Encoder(body(family), pooling), pooling == "pooler"
    assert (encoder.width, encoder.layers) == ((24, 6) if family == "minilm" else (32, 3))
    depths = encoder.depths()
    assert list(depths) == [name for name, _ in encoder.named_parameters()]
    assert set(depths.values()) == set(range(encoder.layers + (2 if pooler else 1)))
    assert {name for name, depth in depths.items() if depth > encoder.layers} == (
        {"pooler.weight", "pooler.bias"} if pooler else set()
    )


OTHERS = {
    "gpt2": {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 2},
    "modernbert": {**SIZES, "pad_token_id": 0},
    "llama": {**SIZES, "num_key_value_heads": 2},
}  # families of which nothing is listed here: their layers are found by structure


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_depth_is_the_first_layer_whose_output_a_parameter_reaches(family):
    """Autograd as the judge: hidden state k (0: embeddings, k: after layer k) depends on depths up to k.

    DeBERTa's relative positions enter in layer 1 and every layer after it, so they count as embeddings.
    """
    if family in OTHERS:
        config = transformers.AutoConfig.for_model(family, **OTHERS[family])
        encoder = Encoder(transformers.AutoModel.from_config(config))
    else:
        encoder = Encoder(body(family))
    named = {name: value for name, value in encoder.named_parameters() if not name.startswith("pooler.")}
    states = encoder.body(**padded(batch_of()), output_hidden_states=True).hidden_states
    assert len(states) == encoder.layers + 1
    first = {}
    for layer, state in enumerate(states):
        found = torch.autograd.grad(state.sum(), list(named.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None:
                first.setdefault(name, layer)
    starts = ("body.encoder.rel_embeddings.", "body.encoder.LayerNorm.")
    relative = {name for name in first if name.startswith(starts)}
    assert len(relative) == {"deberta-v1": 1, "deberta-v2": 3, "deberta-v3": 3}.get(family, 0)
    assert {name: encoder.depths()[name] for name in first} == first | dict.fromkeys(relative, 0)
    assert set(named) - set(first) == set()


def test_berts_depths_written_out_by_hand():
    encoder = Encoder(body("bert"), pooling="pooler")
    after = ["output.dense", "output.LayerNorm"]
    attention = ["self.query", "self.key", "self.value", *after]
    parts = [*(f"attention.{name}" for name in attention), "intermediate.dense", *after]
    expected = {
        **{f"body.embeddings.{name}_embeddings.weight": 0 for name in ("word", "position", "token_type")},
        **{f"body.embeddings.LayerNorm.{kind}": 0 for kind in ("weight", "bias")},
        **{
            f"body.encoder.layer.{number}.{part}.{kind}": number + 1
            for number in range(3)
            for part in parts
            for kind in ("weight", "bias")
        },
        "pooler.weight": 4,
        "pooler.bias": 4,
    }
    assert encoder.depths() == expected


def test_a_body_without_a_list_of_layers_is_refused():
    encoder = Encoder(body("bert"))
    encoder.body.encoder = torch.nn.Linear(2, 2)
    with pytest.raises(
        ValueError,
        match=r"^no list of layers was found in a BertModel; name it by encoder.layers, or use layerwise_decay=1$",
    ):
        encoder.depths()


@pytest.mark.parametrize("load", [lambda path: from_path(path, None, pooling="pooler"), load_tokenizer])
@pytest.mark.parametrize("path", ["/nowhere/bert", "./nowhere", "~/nowhere"])
def test_a_missing_folder_is_named_and_says_what_to_give(load, path):
    message = (
        f"encoder.path: no folder {path}; give encoder.path=DIR, a folder with config.json, model.safetensors and the "
        "tokenizer's files, or a hub id such as google-bert/bert-base-uncased"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load(path)


def test_a_hub_id_out_of_reach_says_how_to_use_a_local_copy():
    message = (
        r"^encoder 'nobody/nothing' could not be loaded from the hub \(.+\); give encoder\.path=DIR, a "
        r"folder with config\.json, model\.safetensors and the tokenizer's files, or a hub id such as google-bert/.*$"
    )  # in brackets: the first line of transformers' own message
    with pytest.raises(ConfigError, match=message):
        from_path("nobody/nothing", None, pooling="pooler")


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"model_type": "bart2"}, "Unrecognized model identifier: bart2"),
        ({"hidden_size": 32}, "'model_type'"),
        ({"model_type": "bert", "hidden_size": 30}, "The hidden size (30) is not a multiple"),
        ({"model_type": "bert", "hidden_size": "wide"}, "Validation error for field 'hidden_size'"),
    ],
)
def test_sizes_that_cannot_be_built_give_the_reason(sizes, reason):
    with pytest.raises(ValueError, match=f"^{re.escape(f'encoder.model_config cannot be built: {reason}')}"):
        from_sizes(sizes, 50, "pooler")  # the rest of the message is transformers' own
