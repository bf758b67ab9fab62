"""Folders of an encoder that cannot be used: how a good one is spoilt, and the whole of what is said."""

import json

from safetensors.torch import load_file, save_file

HINT = (
    "give encoder.path=DIR, a folder with config.json, model.safetensors and the tokenizer's files, or a hub id such "
    "as google-bert/bert-base-uncased"
)


def edited(name, **values):
    """Return what changes a JSON file of an encoder's folder."""

    def change(folder):
        kept = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**kept, **values}))

    return change


def without(*names):
    """Return what takes files away."""
    return lambda folder: [(folder / name).unlink() for name in names] and None


def spoilt(name, change):
    """Return what changes the bytes of a file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def renamed(folder):
    """Give the weights names that no encoder has."""
    state = load_file(folder / "model.safetensors")
    save_file({f"other.{name}": value for name, value in state.items()}, folder / "model.safetensors", {"format": "pt"})


CASES = {
    "no tokenizer": (
        without("tokenizer.json"),
        (
            "encoder.path: no tokenizer in {tmp}/encoder; put one of tokenizer.json, vocab.txt, vocab.json, "
            "spm.model, sentencepiece.bpe.model, spiece.model there"
        ),
    ),
    "no configuration": (
        without("config.json"),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder (there is no config.json in "
            "{tmp}/encoder); {hint}"
        ),
    ),
    "no weights": (
        without("model.safetensors"),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder (Error no file named model.safetensors "
            "found in directory {tmp}/encoder.); {hint}"
        ),
    ),
    "a configuration that is no JSON": (
        spoilt("config.json", lambda whole: whole[:50]),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder ({tmp}/encoder/config.json is not JSON "
            "(Unterminated string starting at: line 3 column 3 (char 36))); {hint}"
        ),
    ),
    "a configuration that is a list": (
        spoilt("config.json", lambda _: b"[]"),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder ({tmp}/encoder/config.json is not a JSON "
            "object); {hint}"
        ),
    ),
    "a family unknown": (
        edited("config.json", model_type="bart2"),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder (The checkpoint you are trying to load "
            "has model type `bart2` but Transformers does not recognize this architecture. This could be because "
            "of an issue with the checkpoint, or because your version of Transformers is out of date.); {hint}"
        ),
    ),
    "code of its own": (
        edited("config.json", auto_map={"AutoModel": "mine.Model"}),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder ({tmp}/encoder/config.json has auto_map "
            "{{'AutoModel': 'mine.Model'}}: only the code of transformers is used here); {hint}"
        ),
    ),
    "a kernel from elsewhere": (
        edited("config.json", attn_implementation="some/kernel"),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder ({tmp}/encoder/config.json has "
            "attn_implementation 'some/kernel', code from elsewhere, which is not run); {hint}"
        ),
    ),
    "labels by the billion": (
        edited("config.json", num_labels=10**9),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder ({tmp}/encoder/config.json has num_labels "
            "1,000,000,000, but the weights have only 93,048 bytes); {hint}"
        ),
    ),
    "another width": (
        edited("config.json", hidden_size=64),
        ("encoder '{tmp}/encoder': embeddings.LayerNorm.bias is [32] in its weights, [64] by its config.json; {hint}"),
    ),
    "more layers than weights": (
        edited("config.json", num_hidden_layers=3),
        (
            "encoder '{tmp}/encoder': 16 of its weights are not in its files, for example "
            "'encoder.layer.2.attention.output.LayerNorm.bias'; {hint}"
        ),
    ),
    "a width that its attention does not divide": (
        edited("config.json", num_attention_heads=5),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder (The hidden size (32) is not a multiple "
            "of the number of attention heads (5)); {hint}"
        ),
    ),
    "weights cut off": (
        spoilt("model.safetensors", lambda whole: whole[:-1000]),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder (SafetensorError: Error while "
            "deserializing header: incomplete metadata, file not fully covered); {hint}"
        ),
    ),
    "weights that are a picture": (
        spoilt("model.safetensors", lambda _: b"\x89PNG" * 100),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder (SafetensorError: Error while "
            "deserializing header: header too large); {hint}"
        ),
    ),
    "no byte of weights": (
        spoilt("model.safetensors", lambda _: b""),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder (SafetensorError: Error while "
            "deserializing header: header too small); {hint}"
        ),
    ),
    "weights of another model": (
        renamed,
        (
            "encoder '{tmp}/encoder': 37 of its weights are not in its files, for example "
            "'embeddings.LayerNorm.bias'; {hint}"
        ),
    ),
    "a tokenizer that is no JSON": (
        spoilt("tokenizer.json", lambda whole: whole[:100]),
        (
            "encoder '{tmp}/encoder' could not be loaded from the folder ({tmp}/encoder/tokenizer.json is not JSON "
            "(Expecting value: line 7 column 12 (char 100))); {hint}"
        ),
    ),
    "a tokenizer of another form": (
        spoilt("tokenizer.json", lambda _: b"{}"),
        "encoder '{tmp}/encoder' could not be loaded from the folder (KeyError: 'added_tokens'); {hint}",
    ),
    "a tokenizer without padding": (
        edited("tokenizer_config.json", pad_token=None),
        ("encoder '{tmp}/encoder': the tokenizer has no padding token, so texts cannot be put together; give it one"),
    ),
    "a folder that is not there": (
        lambda folder: folder / "nothing",
        "encoder.path: no folder {tmp}/encoder/nothing; {hint}",
    ),
    "a file for a folder": (
        lambda folder: folder / "config.json",
        "encoder.path: no folder {tmp}/encoder/config.json; {hint}",
    ),
    "an id with many slashes": (lambda _: "models/bert/base", "encoder.path: no folder models/bert/base; {hint}"),
    "an id out of reach": (
        lambda _: "nobody/nothing",
        (
            "encoder 'nobody/nothing' could not be loaded from the hub (We couldn't connect to "
            "'https://huggingface.co' to load the files, and couldn't find them in the cached files.); {hint}"
        ),
    ),
}
