"""Text encoders of the transformers library, reduced to one vector per text, and the depth of their parameters.

B examples, T tokens, D width."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bam_lightning.config.exceptions import ConfigError, ConfigPathError
from bam_lightning.config.hub import ENCODER_HINT, is_local_path
from bam_lightning.config.validation import check_choice
from bam_lightning.models import attention, unpadding
from bam_lightning.models.safe_loading import Shapes, body_shapes, check_config, check_shapes

LAYER = re.compile(r"(?:encoder|transformer)\.layer\.(\d+)\.")
# Parameters outside the numbered layers. DeBERTa's relative positions feed every layer, its convolution the first.
BELOW = ("embeddings.", "embeddings_project.", "encoder.rel_embeddings.", "encoder.LayerNorm.")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model")
FIRST_LAYER = ("encoder.conv.",)


class Encoder(nn.Module):
    """A transformer and, if wanted, BERT's tanh pooler: ``tanh(W h + b)`` of the first token's vector h.

    Section 3.1 says "the vector corresponding to the first input token"; the reference code takes it through
    the pooler. A checkpoint without a pooler gets a new one.
    """

    def __init__(self, body: Any, pooler: bool) -> None:
        super().__init__()
        own = getattr(body, "pooler", None)
        if hasattr(body, "pooler"):
            body.pooler = None
        attention.install(body)
        self.body: Any = body
        self.pooler: nn.Linear | None = None
        if pooler:
            self.pooler = getattr(own, "dense", None) or self._new_pooler()

    def _new_pooler(self) -> nn.Linear:
        layer = nn.Linear(self.width, self.width)
        nn.init.normal_(layer.weight, std=getattr(self.body.config, "initializer_range", 0.02))
        nn.init.zeros_(layer.bias)
        return layer

    @property
    def width(self) -> int:
        """D: size of the vector that heads get."""
        width: int = self.body.config.hidden_size
        return width

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        count: int = self.body.config.num_hidden_layers
        return count

    @property
    def packs(self) -> bool:
        """Whether texts can be computed without their padding."""
        return unpadding.supports_unpadding(self.body)

    def forward(self, inputs: Mapping[str, Tensor], lengths: Sequence[int] = ()) -> Tensor:
        """Return one vector per text, ``[B, D]``, of padded inputs ``[B, T]``.

        With the ``lengths`` of the B texts, an encoder that ``packs`` leaves the padding out. On a GPU it does so in
        bfloat16, for which there is a kernel from Ampere on.
        """
        device = inputs["input_ids"].device
        kernel = device.type == "cpu" or (torch.is_autocast_enabled("cuda") and attention.ampere(device))
        if len(lengths) and self.packs and kernel:
            first = unpadding.encode_cls(self.body, inputs, lengths)
        else:
            first = self.body(**inputs).last_hidden_state[:, 0]  # [B, D]
        return first if self.pooler is None else torch.tanh(self.pooler(first))

    def stack(self) -> list[nn.Module]:
        """Return the transformer layers, the lowest first."""
        return [part for name, part in self.body.named_modules() if LAYER.fullmatch(f"{name}.")]

    def compile_layers(self, **options: Any) -> None:
        """Have torch compile the layers, in place: one graph serves all of them, and texts of any number and length.

        Only for rows without padding on a GPU: groups of texts on a CPU (see ``packing``) would need many graphs.

        Args:
            options: of ``torch.compile``.
        """
        for layer in self.stack():
            layer.compile(dynamic=True, **options)

    def depth(self, name: str) -> int:
        """Return how far a parameter of this module lies above the input: embeddings 0, layer i: i + 1, pooler on top.

        Raises:
            ConfigError: for a parameter of a family whose layers are not known here.
        """
        if name.startswith("pooler."):
            return self.layers + 1
        inner = name.removeprefix("body.")
        layer = LAYER.match(inner)
        if layer:
            return int(layer.group(1)) + 1
        if inner.startswith(BELOW):
            return 0
        if inner.startswith(FIRST_LAYER):
            return 1
        raise ConfigError(
            f"parameter {name!r} of a {type(self.body).__name__} has no known depth, so layer-wise learning rates "
            "cannot be set; add its family to bam_lightning.models.encoder, or choose a BERT, RoBERTa, ELECTRA, "
            "DistilBERT, MiniLM or DeBERTa encoder"
        )


def from_path(path: str, revision: str | None, pooler: bool) -> Encoder:
    """Load a pretrained encoder from the hub or a folder, in float32 whatever its file holds.

    Raises:
        ConfigError: if it is not there, or the hub cannot be reached; says how to use a local folder.
    """
    from transformers import AutoModel

    options = {
        "dtype": torch.float32,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    body, found = _load(AutoModel, path, revision, **options)
    lost = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    for name, theirs, asked in sorted(found["mismatched_keys"]):
        raise ConfigError(
            f"encoder {path!r}: {name} is {list(theirs)} in its weights, {list(asked)} by its config.json; "
            f"{ENCODER_HINT}"
        )
    if lost:
        raise ConfigError(
            f"encoder {path!r}: {len(lost)} of its weights are not in its files, for example {lost[0]!r}; "
            f"{ENCODER_HINT}"
        )
    return Encoder(body.float(), pooler).train()  # it comes in eval mode, without dropout


def from_sizes(sizes: Mapping[str, Any], vocabulary: int, pooler: bool) -> Encoder:
    """Build an untrained encoder: ``model_type`` and any fields of that family's configuration.

    Raises:
        ConfigError: if the family is unknown or its sizes do not fit together.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModel

    fields = {**sizes, "vocab_size": vocabulary}
    try:
        family = fields.pop("model_type")
        known = AutoConfig.for_model(family).to_dict()
        for name in fields:
            check_choice("encoder.sizes", name, known)
        return Encoder(AutoModel.from_config(AutoConfig.for_model(family, **fields)), pooler)
    except (KeyError, ValueError, StrictDataclassError) as error:
        raise ConfigError(f"encoder.sizes cannot be built: {error}") from error


def from_folder(folder: Path, pooler: bool, there: Shapes) -> Encoder:
    """Build the encoder whose configuration lies in ``folder``; its weights are loaded by the caller.

    Args:
        there: name -> shape of the weights, which the configuration must ask for: it may be a stranger's.

    Raises:
        ConfigError: if the configuration cannot be read, or asks for other shapes; nothing was allocated for it.
    """
    from transformers import AutoConfig, AutoModel

    own = {name.removeprefix("body."): size for name, size in there.items()}
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        asked = body_shapes(config, 2 * len(own) + 100)
    except Exception as error:  # of transformers, for what it was never meant to read
        raise ConfigError(" ".join(str(error).split()) or type(error).__name__) from error
    check_shapes(asked, own)
    return Encoder(AutoModel.from_config(config), pooler)


def check_length(encoder: Encoder, tokens: int, where: str) -> None:
    """Raise ``ConfigError`` where texts of so many tokens have more than the encoder has positions."""
    most: int | None = getattr(encoder.body.config, "max_position_embeddings", None)
    if most is not None:
        most -= unpadding.first_position(encoder.body)
    if most is not None and tokens > most:
        raise ConfigError(f"{where}: texts are to have up to {tokens} tokens, but the encoder has {most} positions")


def check_vocabulary(encoder: Encoder, tokenizer: Any, where: str) -> None:
    """Raise ``ConfigError`` unless every token has its row of the word embeddings, and one is there to pad with."""
    rows = encoder.body.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ConfigError(
            f"{where}: the tokenizer's tokens are numbered up to {largest}, the encoder has embeddings for {rows}; "
            "give the tokenizer that belongs to it"
        )
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{where}: the tokenizer has no padding token, so texts cannot be put together; give it one")


def load_tokenizer(path: str | Path, revision: str | None = None) -> Any:
    """Load the tokenizer that lies beside an encoder.

    Raises:
        ConfigError: as ``from_path`` does; also for a local folder without the tokenizer's files, for which
            transformers would make up a tokenizer that knows no word.
    """
    from transformers import AutoTokenizer

    local = Path(path).expanduser()
    if local.is_dir() and not any((local / name).is_file() for name in VOCABULARIES):
        raise ConfigPathError(f"encoder.path: no tokenizer in {local}; put one of {', '.join(VOCABULARIES)} there")
    return _load(AutoTokenizer, str(path), revision)


def _load(family: Any, path: str, revision: str | None, **options: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # else a table of weights that an encoder has no use for
    local = Path(path).expanduser()
    if is_local_path(path) and not local.is_dir():
        raise ConfigPathError(f"encoder.path: no folder {path}; {ENCODER_HINT}")
    try:
        if local.is_dir():
            check_config(local, sum(one.stat().st_size for one in local.glob("*.safetensors")))
            return family.from_pretrained(local, trust_remote_code=False, **options)
        return family.from_pretrained(path, revision=revision, trust_remote_code=False, **options)
    except Exception as error:  # its readers raise all kinds, tokenizers' a bare Exception
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        if not isinstance(error, (OSError, ValueError, ImportError)):
            reason = f"{type(error).__name__}: {reason}"
        where = "the folder" if local.is_dir() else "the hub"
        raise ConfigError(f"encoder {path!r} could not be loaded from {where} ({reason}); {ENCODER_HINT}") from error
