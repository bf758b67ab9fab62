"""A stranger's model: it runs no code, reads nothing outside its folder, and no size in it fills the memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import bam_lightning as bam
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.hydra_errors import is_user_error
from bam_lightning.models import safe_loading
from bam_lightning.models.encoder import from_path, load_tokenizer
from bam_lightning.store.run_dir import file_hash, manifest_digest
from conftest import little_memory

ANEW = "download or copy the model again"


@pytest.fixture(scope="module")
def carried(trained, tmp_path_factory):
    """The student of three tiny tasks, as its owner would send it."""
    return bam.load(trained.id, store=trained.store).save_pretrained(tmp_path_factory.mktemp("hostile") / "carried")


@pytest.fixture
def folder(carried, tmp_path):
    """A copy of it, to change as a stranger would."""
    return Path(shutil.copytree(carried, tmp_path / "carried"))


def edit(folder, name, change):
    """Change a JSON file, and its hash in the manifest as a stranger would."""
    kept = json.loads((folder / name).read_text())
    change(kept)
    (folder / name).write_text(json.dumps(kept))
    sign(folder, name)


def sign(folder, name):
    manifest = json.loads((folder / "run.json").read_text())
    if name != "run.json":
        manifest["files"][name] = file_hash(folder / name)
    (folder / "run.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))


def refusal(folder) -> str:
    with little_memory(600), pytest.raises((ValueError, OSError)) as caught:
        bam.load(folder)
    assert is_user_error(caught.value)
    return str(caught.value)


SIZES = {
    "hidden_size": (10**6, "embeddings.LayerNorm.bias is to be [1000000], the weights have [32]"),
    "vocab_size": (1_000_000, "embeddings.word_embeddings.weight is to be [1000000, 32], the weights have [61, 32]"),
    "max_position_embeddings": (
        900_000,
        "embeddings.position_embeddings.weight is to be [900000, 32], the weights have [64, 32]",
    ),
    "intermediate_size": (
        1_000_000,
        "encoder.layer.0.intermediate.dense.bias is to be [1000000], the weights have [64]",
    ),
    "num_hidden_layers": (1_000_000, "it asks for more than 217 parameters"),
    "num_labels": (
        10**9,
        "{folder}/encoder/config.json has num_labels 1,000,000,000, but the weights have only {bytes} bytes",
    ),
    "auto_map": (
        {"AutoModel": "evil.Model"},
        "{folder}/encoder/config.json has auto_map {{'AutoModel': 'evil.Model'}}: only the code of transformers is "
        "used here",
    ),
    "attn_implementation": (
        "evil/kernel",
        "{folder}/encoder/config.json has attn_implementation 'evil/kernel', code from elsewhere, which is not run",
    ),
    "hidden_act": ("exec", "'exec'"),
    "model_type": ("evil", None),
}


@pytest.mark.parametrize("name", SIZES)
def test_an_encoder_that_its_weights_do_not_have_is_refused_before_it_is_built(folder, name):
    value, said = SIZES[name]
    edit(folder, "encoder/config.json", lambda kept: kept.update({name: value}))
    found = refusal(folder)
    assert found.startswith(f"{folder}: its encoder cannot be built: ")
    assert found.endswith(f"; {ANEW}")
    if said is not None:
        size = f"{(folder / 'model.safetensors').stat().st_size:,}"
        assert found == f"{folder}: its encoder cannot be built: {said.format(folder=folder, bytes=size)}; {ANEW}"


def test_label_names_that_no_weights_stand_for_are_refused_before_the_head_is_built(folder):
    names = [str(number) for number in range(100_000)]
    edit(folder, "run.json", lambda kept: kept["spec"]["tasks"]["rte"]["head"].update(label_names=names))
    said = refusal(folder)
    assert said.startswith(f"{folder}: the weights of head 'rte' do not fit")
    assert "torch.Size([2, 32]) from checkpoint, the shape in current model is torch.Size([100000, 32])" in said


def test_a_text_longer_than_the_encoder_reads_is_refused_on_loading(folder):
    edit(folder, "run.json", lambda kept: kept["spec"].update(max_length=10**9))
    assert refusal(folder) == (f"{folder}: texts are to have up to 1000000000 tokens, but the encoder has 64 positions")


LINKS = ["run.json", "model.safetensors", "encoder/config.json", "encoder", "README.md", "history.json"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path, name):
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    said = refusal(folder)
    assert " is a link out of its folder, to " in said
    assert said.endswith(f"; {ANEW}")


def test_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    snapshot = tmp_path / "models--me--mine" / "snapshots" / "0123"
    blobs = tmp_path / "models--me--mine" / "blobs"
    blobs.mkdir(parents=True)
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        place, blob = snapshot / path.relative_to(folder), blobs / file_hash(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, blob)
        place.symlink_to(blob)
    assert bam.load(snapshot).tasks


def test_a_file_that_the_manifest_does_not_name_is_refused(folder):
    (folder / "encoder" / "added_tokens.json").write_text("{}")
    assert refusal(folder) == f"{folder}/encoder/added_tokens.json is none of the files that run.json names; {ANEW}"


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(folder):
    path = folder / "encoder" / "tokenizer.json"
    kept = json.loads(path.read_text())
    kept["model"]["vocab"]["stranger"] = 5_000
    path.write_text(json.dumps(kept))
    sign(folder, "encoder/tokenizer.json")
    assert refusal(folder) == (
        f"{folder}: the tokenizer's tokens are numbered up to 5000, the encoder has embeddings for 61; "
        "give the tokenizer that belongs to it"
    )


def test_a_link_in_the_folder_to_save_in_is_not_written_through(trained, folder, tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link out of its folder"):
        bam.load(trained.id, store=trained.store).save_pretrained(folder)
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_score_edited_in_a_copied_model_is_found(folder):
    manifest = json.loads((folder / "run.json").read_text())
    manifest["metrics"]["rte"]["accuracy"] = 1.0
    (folder / "run.json").write_text(json.dumps(manifest))
    assert refusal(folder) == f"{folder}/run.json is damaged (it was edited after the Run had finished); {ANEW}"


@pytest.mark.parametrize("name", ["encoder.body.embeddings.LayerNorm.weight", "heads.rte."])
def test_weights_that_are_nan_are_named(folder, name):
    state = load_file(folder / "model.safetensors")
    name = next(full for full in state if full.startswith(name))
    state[name].view(-1)[0] = float("nan")
    save_file(state, folder / "model.safetensors")
    sign(folder, "model.safetensors")
    assert refusal(folder) == (
        f"{folder}/model.safetensors: 1 of the {state[name].numel():,} weights {name!r} are NaN or infinite, so it "
        "predicts nothing; train it again with other options"
    )


def test_an_encoder_with_nan_weights_is_refused(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "encoder"))
    state = load_file(folder / "model.safetensors")
    state["encoder.layer.1.output.dense.bias"][3] = float("inf")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    said = "1 of the 32 weights 'encoder.layer.1.output.dense.bias' are NaN or infinite"
    with pytest.raises(ConfigError, match=said):
        from_path(str(folder), None, True)


PATHS = [
    ("vocab_file", "/etc/passwd"),
    ("tokenizer_file", "../../other/tokenizer.json"),
    ("fast_tokenizer_files", ["../tokenizer.9.json"]),
    ("merges_file", "..\\merges.txt"),
]


@pytest.mark.parametrize(("key", "value"), PATHS)
def test_a_path_in_a_tokenizers_configuration_does_not_lead_out_of_the_folder(folder, key, value):
    edit(folder, "encoder/tokenizer_config.json", lambda kept: kept.update({key: value}))
    path = folder / "encoder" / "tokenizer_config.json"
    shown = value[0] if isinstance(value, list) else value
    assert f"{path} has {key} {shown!r}, a file outside its folder" in refusal(folder)


def bomb(regex):
    return {"type": "Replace", "pattern": {"Regex": regex}, "content": ""}


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaa"}
TOKENIZERS = {
    "regex that backtracks": ({"normalizer": bomb("(a|aa)+$")}, "retry-limit-in-match over"),
    "text that grows": (
        {"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 12}}, "a few short texts take it more than "
    ),
    "many tokens per byte": (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": " the cat"}, "pre_tokenizer":
         {"type": "WhitespaceSplit"}}, None
    ),
    "special tokens that are no rows": (
        {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
         {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
         {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [10**6],
         "tokens": ["[CLS]"]}}}}, "a text gets token 1,000,000, but the vocabulary ends at 60"
    ),
    "a frame of a million tokens": (
        {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
         {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
         {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2] * 10**6,
         "tokens": ["[CLS]"] * 10**6}}}}, "tokens"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TOKENIZERS)
def test_a_tokenizer_that_takes_too_much_is_refused_within_limits(tiny_bert, tmp_path, what, monkeypatch):
    monkeypatch.setattr(safe_loading, "CPU_SECONDS", 1)
    changes, said = TOKENIZERS[what]
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "encoder"))
    kept = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(kept | changes))
    if said is None:
        assert load_tokenizer(folder)
        return
    with little_memory(600), pytest.raises(ConfigError) as caught:
        load_tokenizer(folder)
    assert f"{folder}/tokenizer.json cannot be used: " in str(caught.value)
    assert said in str(caught.value)


DAMAGE = {
    "deep manifest": ("run.json", b"[" * 100_000, "run.json is damaged (maximum recursion depth exceeded"),
    "list for a manifest": ("run.json", b"[]", "run.json is damaged (not a JSON object)"),
    "files that are a list": ("run.json", b'{"files": []}', "run.json is damaged (files is no mapping"),
    "no configuration": ("encoder/config.json", b"junk", "encoder/config.json is not JSON (Expecting value"),
    "deep configuration": ("encoder/config.json", b"[" * 100_000, "encoder/config.json is not JSON (maximum recursion"),
    "a header of 2 ** 60 bytes": ("model.safetensors", b"\0" * 7 + b"\x10" + b"{}", "model.safetensors is not a whole"),
    "a header that ends nowhere": ("model.safetensors", b"\x10" + b"\0" * 7, "model.safetensors is not a whole"),
    "a tokenizer that is none": ("encoder/tokenizer.json", b"{}", "could not be loaded from the folder ("),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_file_that_is_none_of_ours_is_named(folder, what):
    name, content, said = DAMAGE[what]
    (folder / name).write_bytes(content)
    if name != "run.json":
        sign(folder, name)
    assert said in refusal(folder)


class Evil:
    def __reduce__(self):
        return (exec, ("open('pwned', 'w').close()",))


def test_pickled_weights_are_not_read(tiny_bert, tmp_path):
    import torch

    folder = tmp_path / "encoder"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(
        ConfigError, match=r"^encoder '.*' could not be loaded from the folder \(.*; give encoder\.path=DIR"
    ):
        from_path(str(folder), None, True)
    assert not (tmp_path / "pwned").exists()


def test_an_encoder_without_its_weights_is_not_filled_with_chance(tiny_bert, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_bert, folder)
    state = load_file(folder / "model.safetensors")
    save_file({f"other.{name}": value for name, value in state.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError) as caught:
        from_path(str(folder), None, True)
    assert str(caught.value) == (
        f"encoder {str(folder)!r}: 37 of its weights are not in its files, for example 'embeddings.LayerNorm.bias'; "
        "give encoder.path=DIR, a folder with config.json, model.safetensors and the tokenizer's files, or a hub id "
        "such as google-bert/bert-base-uncased"
    )


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_an_encoder_that_names_code_is_refused(tiny_bert, tmp_path, name):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_bert, folder)
    kept = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**kept, "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    with pytest.raises(ConfigError, match=r"auto_map .* only the code of transformers is used here"):
        load_tokenizer(folder)
