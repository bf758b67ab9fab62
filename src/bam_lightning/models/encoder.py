"""Text encoders of the transformers library, reduced to one vector per text, and the depth of their parameters.

S texts, N tokens in all of them, T tokens of the longest, D width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bam_lightning.config.data_config import POOLINGS
from bam_lightning.config.exceptions import ConfigError, ConfigPathError
from bam_lightning.config.hub import ENCODER_HINT, is_local_path
from bam_lightning.config.validation import check_choice
from bam_lightning.models import attention, unpadding
from bam_lightning.models.batch import Batch
from bam_lightning.models.packing import split_by_length
from bam_lightning.models.safe_loading import Shapes, body_shapes, check_config, check_shapes

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model")
# Parameters that are registered after the layers but act below them: DeBERTa's relative positions feed every layer.
BELOW = ("encoder.rel_embeddings.", "encoder.LayerNorm.")
FIRST_LAYER = ("encoder.conv.",)  # DeBERTa's convolution
CALL_TOKENS = 256  # fixed cost of an encoder call, in tokens, for an encoder that has to pad


class Encoder(nn.Module):
    """A transformer and its pooling: one vector per text.

    Args:
        body: a transformers model that returns token states.
        pooling: ``cls`` is the first token's state ("the vector corresponding to the first input token", section 3.1);
            ``pooler`` takes it through BERT's layer ``tanh(W h + b)``, as the reference code does (a checkpoint
            without one gets a new one); ``mean`` averages the states of all tokens.
        call_tokens: fixed cost of an encoder call, in tokens, where texts have to be padded: more means fewer, larger
            calls.
    """

    def __init__(self, body: Any, pooling: str = "pooler", call_tokens: int = CALL_TOKENS) -> None:
        super().__init__()
        check_choice("encoder.pooling", pooling, POOLINGS)
        theirs = getattr(body, "pooler", None)
        if hasattr(body, "pooler"):
            body.pooler = None
        attention.install(body)
        self.body: Any = body
        self.pooling, self.call_tokens = pooling, call_tokens
        self.pooler: nn.Linear | None = None
        if pooling == "pooler":
            self.pooler = getattr(theirs, "dense", None) or self._new_pooler()

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
        return len(self.stack())

    @property
    def packs(self) -> bool:
        """Whether texts can be computed without their padding."""
        return unpadding.supports_unpadding(self.body)

    def packs_on(self, device: torch.device) -> bool:
        """Return whether they can on this device: on a GPU only in bfloat16, from Ampere on, for lack of a kernel."""
        kernel = device.type == "cpu" or (torch.is_autocast_enabled("cuda") and attention.ampere(device))
        return self.packs and kernel

    def forward(self, batch: Batch) -> Tensor:
        """Return one vector per text, ``[S, D]``."""
        if not self.packs_on(batch.input_ids.device):
            pooled = torch.cat([self._pool_padded(group) for group in self._padded(batch)])
        elif self.pooling == "mean":
            states, _ = unpadding.encode_tokens(self.body, batch)
            pooled = _segment_means(states, batch.lengths)
        else:
            pooled, _ = unpadding.encode_tokens(self.body, batch, first_only=True)
        return pooled if self.pooler is None else torch.tanh(self.pooler(pooled))

    def forward_padded(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return one vector per text, ``[s, D]``, of padded inputs ``[s, T]``; for exports, which cannot pack."""
        pooled = self._pool_padded(inputs)
        return pooled if self.pooler is None else torch.tanh(self.pooler(pooled))

    def token_states(self, batch: Batch) -> Tensor:
        """Return the top layer's states of all tokens, ``[N, D]``."""
        if self.packs_on(batch.input_ids.device):
            return unpadding.encode_tokens(self.body, batch)[0]
        parts = []
        for inputs in self._padded(batch):
            states = self.body(**inputs).last_hidden_state  # [s, T, D]
            parts.append(states[inputs["attention_mask"].bool()])
        return torch.cat(parts)

    def _pool_padded(self, inputs: Mapping[str, Tensor]) -> Tensor:
        states = self.body(**inputs).last_hidden_state  # [s, T, D]
        if self.pooling != "mean":
            first: Tensor = states[:, 0]
            return first
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)

    def _padded(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """Yield the texts as padded blocks of like length, ``[s, T]`` each, in the order of the batch."""
        device, filler = batch.input_ids.device, self.body.config.pad_token_id or 0
        offsets = np.concatenate([[0], np.cumsum(batch.lengths)])
        for start, end in split_by_length(batch.lengths, self.call_tokens):
            lengths = torch.tensor(batch.lengths[start:end])
            mask = (torch.arange(int(lengths[-1]))[None] < lengths[:, None]).to(device)  # [s, T]
            span = slice(int(offsets[start]), int(offsets[end]))

            def block(row: Tensor, value: int, mask: Tensor = mask, span: slice = span) -> Tensor:
                return torch.full(mask.shape, value, dtype=row.dtype, device=device).masked_scatter_(mask, row[span])

            inputs = {"input_ids": block(batch.input_ids, filler), "attention_mask": mask.long()}
            if batch.token_type_ids is not None:
                inputs["token_type_ids"] = block(batch.token_type_ids, 0)
            yield inputs

    def stack(self) -> list[nn.Module]:
        """Return the transformer layers, the lowest first: the longest list of modules of one class."""
        return list(self._stack()[1])

    def _stack(self) -> tuple[str, nn.ModuleList]:
        lists = [
            (name, part)
            for name, part in self.body.named_modules()
            if isinstance(part, nn.ModuleList) and len({type(layer) for layer in part}) == 1
        ]
        if not lists:
            raise ValueError(f"no list of layers was found in a {type(self.body).__name__}")
        return max(lists, key=lambda entry: len(entry[1]))

    def compile_layers(self, **options: Any) -> None:
        """Compile the layers in place: one graph serves all of them, and texts of any number and length.

        Only for rows without padding on a GPU: groups of texts on a CPU (see ``packing``) would need many graphs.

        Args:
            options: of ``torch.compile``.
        """
        for layer in self.stack():
            layer.compile(dynamic=True, **options)

    def depths(self) -> dict[str, int]:
        """Return how far each parameter lies above the input: embeddings 0, layer i: i + 1, the pooler on top.

        What is registered before the layers counts as embeddings, what is registered after them as the top layer.
        """
        prefix, layers = self._stack()
        found, passed = {}, False
        for name, _ in self.named_parameters():
            inner = name.removeprefix("body.")
            if name.startswith("pooler."):
                found[name] = len(layers) + 1
            elif inner.startswith(f"{prefix}."):
                passed = True
                found[name] = int(inner[len(prefix) + 1 :].split(".")[0]) + 1
            elif inner.startswith(FIRST_LAYER):
                found[name] = 1
            else:
                found[name] = len(layers) if passed and not inner.startswith(BELOW) else 0
        return found


def _segment_means(states: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Return the mean state ``[S, D]`` of each text's tokens ``[N, D]``."""
    sizes = torch.tensor(lengths, device=states.device)
    text = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), sizes, output_size=len(states))
    sums = states.new_zeros(len(lengths), states.shape[-1]).index_add(0, text, states)
    return sums / sizes.unsqueeze(-1).to(states.dtype)


def from_path(path: str, revision: str | None, pooling: str = "pooler") -> Encoder:
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
    return Encoder(body.float(), pooling).train()  # it comes in eval mode, without dropout


def from_sizes(sizes: Mapping[str, Any], vocabulary: int, pooling: str = "pooler") -> Encoder:
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
            check_choice("encoder.model_config", name, known)
        return Encoder(AutoModel.from_config(AutoConfig.for_model(family, **fields)), pooling)
    except (KeyError, ValueError, StrictDataclassError) as error:
        raise ConfigError(f"encoder.model_config cannot be built: {error}") from error


def from_folder(folder: Path, pooling: str, there: Shapes) -> Encoder:
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
    return Encoder(AutoModel.from_config(config), pooling)


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
