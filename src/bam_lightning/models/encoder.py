"""Text encoders of the transformers library, reduced to one vector per text, and the depth of their parameters.

S texts, N tokens in all of them, T tokens of the longest, D width."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bam_lightning.config.data_config import POOLINGS
from bam_lightning.config.exceptions import ConfigError, ConfigPathError, StoreError
from bam_lightning.config.hub import ENCODER_HINT, is_local_path
from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.validation import check_choice
from bam_lightning.models import attention, unpadding
from bam_lightning.models.batch import Batch
from bam_lightning.models.packing import split_by_length
from bam_lightning.models.pooling import choose_pooling, reads_left_to_right
from bam_lightning.models.safe_loading import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    Shapes,
    body_shapes,
    check_config,
    check_finite,
    check_shapes,
    check_tokenizer,
)

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model", "spiece.model")
PROBING = threading.RLock()  # a test changes the model while it runs
CALL_TOKENS = 256  # fixed cost of an encoder call, in tokens, for an encoder that has to pad


class Encoder(nn.Module):
    """A transformer and its pooling: one vector per text.

    Args:
        body: a transformers model, or any module, that takes ``input_ids`` and ``attention_mask`` ``[B, T]`` and
            returns token states ``[B, T, D]``, or an output with ``last_hidden_state``.
        pooling: ``cls`` is the first token's state ("the vector corresponding to the first input token", section 3.1);
            ``last`` the last token's, the only one that has seen all of the text in a decoder; ``pooler`` takes the
            first token (in a decoder the last) through BERT's layer ``tanh(W h + b)``, as the reference code does (a
            checkpoint without one gets a new one); ``mean`` averages the states of all tokens. ``None`` chooses by
            family, see ``models.pooling``.
        call_tokens: fixed cost of an encoder call, in tokens, where texts have to be padded: more means fewer, larger
            calls.
        config: of the whole checkpoint, where ``body`` is the encoder half of an encoder-decoder.

    Attributes:
        max_length: tokens of the longest text to come, where it is known; a test of packing takes a text as long.
        layer_list: dotted name of the list of layers in ``body``; ``None`` finds it.
        source: the ``_target_`` form of ``body``, where it is no model of transformers.
        peft: the ``_target_`` form of its adapters' configuration, if it has any; see ``models.adapters``.
        adapters: names of their parameters.
        base: ``path`` and ``revision`` of the checkpoint that the adapters belong to, where the other weights are its.
    """

    def __init__(
        self, body: Any, pooling: str | None = "pooler", call_tokens: int = CALL_TOKENS, config: Any = None
    ) -> None:
        super().__init__()
        self.config: Any = getattr(body, "config", None) if config is None else config
        family = str(getattr(self.config, "model_type", ""))
        self.pooling = choose_pooling(pooling, family, None).name
        check_choice("encoder.pooling", self.pooling, POOLINGS)
        theirs = getattr(body, "pooler", None)
        if theirs is not None:
            body.pooler = nn.Identity()  # some families call it without looking
        for part in body.modules():
            if "Sinusoidal" in type(part).__name__:  # a formula's, which transformers' loading forgets
                part.requires_grad_(False)
        self._usual_attention = attention.install(body)
        self.body: Any = body
        self.call_tokens = call_tokens
        self.max_length: int | None = None
        self.layer_list: str | None = None
        self.pooling_reason = ""
        self.source: dict[str, Any] | None = None
        self.peft: dict[str, Any] | None = None
        self.adapters: frozenset[str] = frozenset()
        self.base: dict[str, str | None] | None = None
        self._refusals: dict[str, str | None] = {}  # device and dtype -> why texts cannot be packed there
        self._padding_matters: bool | None = None
        self._depths: dict[str, int] | None = None
        self.width = self._find_width()
        last = self.pooling == "last" or (self.pooling == "pooler" and bool(family) and reads_left_to_right(family))
        self.pick: unpadding.Pick = "last" if last else "first"
        self.pooler: nn.Linear | None = None
        if self.pooling == "pooler":
            dense = theirs if isinstance(theirs, nn.Linear) else getattr(theirs, "dense", None)  # ALBERT's, BERT's
            self.pooler = dense or self._new_pooler()

    def _new_pooler(self) -> nn.Linear:
        layer = nn.Linear(self.width, self.width)
        nn.init.normal_(layer.weight, std=getattr(self.config, "initializer_range", 0.02))
        nn.init.zeros_(layer.bias)
        return layer

    def _find_width(self) -> int:
        """Return D: size of the vector that heads get."""
        for owner in (getattr(self.body, "config", None), self.body):
            if isinstance(width := getattr(owner, "hidden_size", None), int):
                return width
        ids = torch.zeros((1, 2), dtype=torch.long)
        with torch.no_grad():
            return int(unpadding.token_states(self.body(input_ids=ids, attention_mask=torch.ones_like(ids))).shape[-1])

    def forget_findings(self) -> None:
        """Find out anew whether texts can be packed, and how deep parameters lie: the layers have changed."""
        self._refusals, self._padding_matters, self._depths = {}, None, None

    def describe(self) -> dict[str, Any]:
        """Return what the encoder is built from, in plain types: a configuration of transformers, or ``source``."""
        return dict(self.source) if self.source is not None else dict(self.config.to_dict())

    @property
    def layers(self) -> int:
        """Number of transformer layers; layers that share their weights, as ALBERT's, count once."""
        return len(self.stack())

    @property
    def packs(self) -> bool:
        """Whether texts can be computed without their padding."""
        return self.why_not_packed is None

    @property
    def why_not_packed(self) -> str | None:
        """Why texts have to be padded, or ``None``; found out by a test, see ``unpadding.why_not_packed``."""
        parameter = next(self.body.parameters())
        key = f"{parameter.device.type} {parameter.dtype}"
        if key not in self._refusals:
            with PROBING:
                if key not in self._refusals:
                    reason = unpadding.why_not_packed(self.body, self._usual_attention, self.max_length)
                    if reason is not None and self._usual_attention is not None:
                        self.body.set_attn_implementation(self._usual_attention)
                    self._refusals[key] = reason
        return self._refusals[key]

    @property
    def padding_matters(self) -> bool:
        """Whether a text's states change with its padding, as FNet's do; then only texts of one length run together."""
        if self._padding_matters is None:
            with PROBING:
                self._padding_matters = unpadding.padding_matters(self.body, self.max_length)
        return self._padding_matters

    def packs_on(self, device: torch.device) -> bool:
        """Return whether they can on this device: on a GPU only under autocast, from Ampere on, as the kernel asks."""
        if not self.packs:
            return False
        if device.type == "cpu":
            return True
        if not (torch.is_autocast_enabled("cuda") and attention.ampere(device)):
            return False
        if next(self.body.parameters()).device.type != device.type:
            return True  # before the weights are moved there
        key = f"{device.type} {torch.get_autocast_dtype('cuda')} kernel"
        if key not in self._refusals:
            with PROBING:
                self._refusals[key] = unpadding.kernel_error(self.body, self.max_length)
        return self._refusals[key] is None

    @property
    def findings(self) -> dict[str, str | None]:
        """What was found out about packing so far: device and dtype -> why not, or ``None``."""
        return dict(self._refusals)

    def adopt(self, findings: Mapping[str, str | None]) -> None:
        """Take over what another rank found out, so that all of them do the same."""
        self._refusals = dict(findings)
        if self._usual_attention is not None:
            packs = self.refusal() is None
            self.body.set_attn_implementation(attention.NAME if packs else self._usual_attention)

    def refusal(self) -> str | None:
        """Return why texts are padded, if they are, among what was found out so far."""
        return next((reason for reason in self._refusals.values() if reason is not None), None)

    def forward(self, batch: Batch, tokens: bool = False) -> Any:
        """Return one vector per text, ``[S, D]``; with ``tokens`` also the states of all tokens, ``[N, D]``."""
        if tokens:
            states = self.token_states(batch)
            return self.pool(states, batch.lengths), states
        if not self.packs_on(batch.input_ids.device):
            groups = self._padded(batch)
            pooled = torch.cat([self._pool_padded(self._run(group), group["attention_mask"]) for group in groups])
        elif self.pooling == "mean":
            states, _ = unpadding.encode_tokens(self.body, batch)
            pooled = _segment_means(states, batch.lengths)
        else:
            pooled, _ = unpadding.encode_tokens(self.body, batch, self.pick)
        return self._through_pooler(pooled)

    def forward_padded(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return one vector per text, ``[s, D]``, of inputs ``[s, T]`` padded on either side; for exports."""
        return self.encode_padded(inputs)[0]

    def encode_padded(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return one vector per text, ``[s, D]``, and the states of all tokens, ``[s, T, D]``."""
        states = self._run(inputs)
        return self._through_pooler(self._pool_padded(states, inputs["attention_mask"])), states

    def token_states(self, batch: Batch) -> Tensor:
        """Return the top layer's states of all tokens, ``[N, D]``."""
        if self.packs_on(batch.input_ids.device):
            return unpadding.encode_tokens(self.body, batch)[0]
        return torch.cat([self._run(inputs)[inputs["attention_mask"].bool()] for inputs in self._padded(batch)])

    def pool(self, states: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """Return one vector per text, ``[S, D]``, of all tokens' states ``[N, D]``."""
        if self.pooling == "mean":
            return _segment_means(states, lengths)
        ends = torch.tensor(lengths, device=states.device).cumsum(0)
        places = ends - 1 if self.pick == "last" else F.pad(ends[:-1], (1, 0))
        return self._through_pooler(states[places])

    def _through_pooler(self, pooled: Tensor) -> Tensor:
        return pooled if self.pooler is None else torch.tanh(self.pooler(pooled))

    def _run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return unpadding.token_states(self.body(**unpadding.accepted(self.body, dict(inputs))))  # [s, T, D]

    def _pool_padded(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "mean":
            weights = mask.unsqueeze(-1).to(states.dtype)
            return (states * weights).sum(1) / weights.sum(1)
        places = torch.arange(mask.shape[1], device=mask.device) * mask if self.pick == "last" else mask
        index = places.argmax(1)[:, None, None].expand(-1, 1, states.shape[-1])
        return states.gather(1, index).squeeze(1)

    def _padded(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """Yield the texts as padded blocks of like length, ``[s, T]`` each, in the order of the batch."""
        device, filler = batch.input_ids.device, getattr(self.config, "pad_token_id", None) or 0
        offsets = np.concatenate([[0], np.cumsum(batch.lengths)])
        parts = split_by_length(batch.lengths, self.call_tokens)
        if self.padding_matters:
            changes = np.flatnonzero(np.diff(batch.lengths)) + 1
            parts = list(pairwise([0, *changes.tolist(), len(batch.lengths)]))
        for start, end in parts:
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
        """Return the transformer layers, the lowest first: the longest list of modules of one class.

        Raises:
            ConfigError: if there is none, or ``encoder.layers`` names something else.
        """
        return list(self._stacks()[0][1])

    def _stacks(self) -> list[tuple[str, nn.ModuleList]]:
        """Return the lists of layers by name; XLM's parts of a layer lie in several lists of one length."""
        family = type(self.body).__name__
        if self.layer_list is not None:
            named = dict(self.body.named_modules()).get(self.layer_list)
            if not isinstance(named, nn.ModuleList):
                raise ConfigError(
                    f"encoder.layers={self.layer_list} is not a list of layers in a {family}; "
                    f"lists there: {', '.join(name for name, _ in self._lists()) or 'none'}"
                )
            return [(self.layer_list, named)]
        lists = self._lists()
        if not lists:
            raise ConfigError(
                f"no list of layers was found in a {family}; name it by encoder.layers, or use layerwise_decay=1"
            )
        longest = max(len(part) for _, part in lists)
        return [(name, part) for name, part in lists if len(part) == longest]

    def _lists(self) -> list[tuple[str, nn.ModuleList]]:
        """Return the lists of modules of one class that lie in no other such list."""
        lists: list[tuple[str, nn.ModuleList]] = []
        for name, part in self.body.named_modules():
            alike = isinstance(part, nn.ModuleList) and len({type(layer) for layer in part}) == 1
            if alike and not any(name.startswith(f"{outer}.") for outer, _ in lists):
                lists.append((name, part))
        return lists

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

        A parameter outside the layers has the number of layers below it: it counts as embeddings if an input of the
        first layer depends on it, and as the top layer if no layer's input does.
        """
        if self._depths is None:
            stacks = self._stacks()
            top = len(stacks[0][1])
            inside = {
                f"body.{prefix}.{number}.{name}": number + 1
                for prefix, layers in stacks
                for number, layer in enumerate(layers)
                for name, _ in layer.named_parameters()
            }
            outside = self._depths_outside(stacks[0][1], inside)
            self._depths = {
                name: top + 1 if name.startswith("pooler.") else inside[name] if name in inside else outside[name]
                for name, _ in self.named_parameters()
            }
        return self._depths

    def _depths_outside(self, layers: nn.ModuleList, inside: Mapping[str, int]) -> dict[str, int]:
        """Return the depths of parameters outside the layers, by autograd: which layers' inputs depend on them."""
        inputs: dict[int, list[Tensor]] = {}

        def keep(number: int, args: Any, options: Any) -> None:
            inputs.setdefault(number, list(_tensors([args, options])))  # of the first call, where weights are shared

        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, options, number=number: keep(number, args, options), with_kwargs=True
            )
            for number, layer in enumerate(layers)
        ]
        named = {
            name: parameter
            for name, parameter in self.named_parameters()
            if name not in inside and not name.startswith("pooler.")
        }
        frozen = [parameter for parameter in named.values() if not parameter.requires_grad]
        found = dict.fromkeys(named, len(layers))
        ids = torch.arange(4, device=next(self.body.parameters()).device)[None] % unpadding.embedding_rows(self.body)
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            with unpadding.at_rest(self.body), torch.enable_grad():
                self._run({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
                for number in sorted(inputs, reverse=True):
                    sums = [part.float().sum() for part in inputs[number] if part.requires_grad]
                    if not sums:
                        continue
                    reached = torch.autograd.grad(
                        torch.stack(sums).sum(), list(named.values()), retain_graph=True, allow_unused=True
                    )
                    found |= {name: number for name, part in zip(named, reached, strict=True) if part is not None}
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in frozen:
                parameter.requires_grad_(False)
        if not inputs:  # SqueezeBERT calls their ``forward``: what is registered before them lies below them
            order = [name for name, _ in self.named_parameters()]
            found |= {name: 0 for name in named if order.index(name) < order.index(next(iter(inside)))}
        return found


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _segment_means(states: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Return the mean state ``[S, D]`` of each text's tokens ``[N, D]``."""
    sizes = torch.tensor(lengths, device=states.device)
    text = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), sizes, output_size=len(states))
    sums = states.new_zeros(len(lengths), states.shape[-1]).index_add(0, text, states)
    return sums / sizes.unsqueeze(-1).to(states.dtype)


def from_path(path: str, revision: str | None, pooling: str | None = None) -> Encoder:
    """Load a pretrained encoder from the hub or a folder, in float32 whatever its file holds.

    Of an encoder-decoder it is the encoder half. ``pooling`` of ``None`` is chosen, see ``choose_pooling``.

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
    config, half = body.config, encoder_half(body)
    names = {name for name, _ in half.named_parameters()}
    prefix = "" if half is body else next(name for name, part in body.named_modules() if part is half) + "."

    def used(name: str) -> bool:
        return name.removeprefix(prefix) in names and name.startswith(prefix) and not name.startswith("pooler.")

    for name, theirs, asked in sorted(entry for entry in found["mismatched_keys"] if used(entry[0])):
        raise ConfigError(
            f"encoder {path!r}: {name} is {list(theirs)} in its weights, {list(asked)} by its config.json; "
            f"{ENCODER_HINT}"
        )
    if lost := sorted(name for name in found["missing_keys"] if used(name)):
        raise ConfigError(
            f"encoder {path!r}: {len(lost)} of its weights are not in its files, for example {lost[0]!r}; "
            f"{ENCODER_HINT}"
        )
    try:
        check_finite(half.named_parameters())
    except StoreError as error:
        raise ConfigError(f"encoder {path!r}: {error}; {ENCODER_HINT}") from error
    chosen = choose_pooling(pooling, config.model_type, path, revision)
    encoder = Encoder(half.float(), chosen.name, config=config).train()  # it comes in eval mode, without dropout
    if pooling is None:
        encoder.pooling_reason = chosen.reason
    encoder.base = {"path": str(path), "revision": revision}
    return encoder


def from_target(source: Mapping[str, Any], pooling: str | None) -> Encoder:
    """Build an encoder from the ``_target_`` form of a module that returns token states.

    Raises:
        ConfigError: if it cannot be built, is no module, or does not take ``input_ids`` and ``attention_mask``.
    """
    body = instantiate("encoder", source, nn.Module)
    try:
        encoder = Encoder(body, pooling)
    except (TypeError, AttributeError, IndexError) as error:
        raise ConfigError(
            f"encoder._target_={source.get('_target_')} must take input_ids and attention_mask [B, T] and return token "
            f"states [B, T, D]: {error}"
        ) from error
    encoder.source = dict(source)
    return encoder


def encoder_half(body: Any) -> Any:
    """Return the encoder of an encoder-decoder such as T5 or BART; another model as it is."""
    both = all(isinstance(getattr(body, part, None), nn.Module) for part in ("encoder", "decoder"))
    return body.get_encoder() if both and body.config.is_encoder_decoder else body


def from_config(config: Any, pooling: str | None) -> Encoder:
    """Build the untrained encoder of a transformers configuration."""
    from transformers import AutoModel

    return Encoder(encoder_half(AutoModel.from_config(config)), pooling, config=config)


def from_sizes(sizes: Mapping[str, Any], vocabulary: int, pooling: str | None = None) -> Encoder:
    """Build an untrained encoder: ``model_type`` and any fields of that family's configuration.

    Raises:
        ConfigError: if the family is unknown or its sizes do not fit together.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    fields = {**sizes, "vocab_size": vocabulary}
    try:
        family = fields.pop("model_type")
        known = AutoConfig.for_model(family).to_dict()
        for name in fields:
            check_choice("encoder.model_config", name, known)
        return from_config(AutoConfig.for_model(family, **fields), pooling)
    except (KeyError, ValueError, StrictDataclassError) as error:
        raise ConfigError(f"encoder.model_config cannot be built: {error}") from error


def from_folder(folder: Path, pooling: str, there: Shapes, adapted: bool = False) -> Encoder:
    """Build the encoder whose configuration lies in ``folder``; its weights are loaded by the caller.

    Args:
        there: name -> shape of the weights, which the configuration must ask for: it may be a stranger's.
        adapted: whether there are weights of adapters, too.

    Raises:
        ConfigError: if the configuration cannot be read, or asks for other shapes; nothing was allocated for it.
    """
    from transformers import AutoConfig

    own = {name.removeprefix("body.").replace(".base_layer", ""): size for name, size in there.items()}
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        asked = body_shapes(config, 3 * len(own) + 100, encoder_half)
    except Exception as error:  # of transformers, for what it was never meant to read
        raise ConfigError(" ".join(str(error).split()) or type(error).__name__) from error
    check_shapes(asked, {name: size for name, size in own.items() if name in asked} if adapted else own)
    return from_config(config, pooling)


def check_length(encoder: Encoder, tokens: int, where: str) -> None:
    """Tell the encoder how long texts will be; raise ``ConfigError`` if it has fewer positions."""
    most = unpadding.position_limit(encoder.body)
    if most is not None and tokens > most:
        raise ConfigError(f"{where}: texts are to have up to {tokens} tokens, but the encoder has {most} positions")
    encoder.max_length = tokens


def check_vocabulary(encoder: Encoder, tokenizer: Any, where: str) -> None:
    """Raise ``ConfigError`` unless every token has its row of the word embeddings, and one is there to pad with."""
    rows = unpadding.embedding_rows(encoder.body)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ConfigError(
            f"{where}: the tokenizer's tokens are numbered up to {largest}, the encoder has embeddings for {rows}; "
            "give the tokenizer that belongs to it"
        )
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{where}: the tokenizer has no padding token, so texts cannot be put together; give it one")


def encoder_notes(encoder: Encoder, tokenizer: Any) -> list[str]:
    """Return what was chosen for the user: the pooling, and a padding token where the tokenizer has none."""
    notes = [f"pooling {encoder.pooling}: {encoder.pooling_reason}"] if encoder.pooling_reason else []
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
        notes.append(f"the tokenizer pads with {tokenizer.eos_token!r}, its end of a text; padding is masked")
    return notes


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
    _check_tokenizer(str(path), revision)
    tokenizer = _load(AutoTokenizer, str(path), revision)
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders' tokenizers have none; padding is masked anyway
    return tokenizer


def _check_tokenizer(path: str, revision: str | None) -> None:
    """Raise ``ConfigError`` for a tokenizer that is not safe to load; what is missing is left to ``_load``."""
    from transformers.utils import cached_file

    local, files = Path(path).expanduser(), []
    for name in (TOKENIZER_CONFIG, TOKENIZER):
        with suppress(OSError, ValueError):  # not on the hub, or the hub is out of reach
            found = local / name if local.is_dir() else cached_file(path, name, revision=revision)
            files += [Path(found)] if found else []
    try:
        check_tokenizer(files)
    except (ValueError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise ConfigError(f"encoder {path!r} could not be loaded: {error}; {ENCODER_HINT}") from error


def _load(family: Any, path: str, revision: str | None, **options: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # else a table of weights that an encoder has no use for
    local = Path(path).expanduser()
    if is_local_path(path) and not local.is_dir():
        raise ConfigPathError(f"encoder.path: no folder {path}; {ENCODER_HINT}")
    try:
        if local.is_dir():
            size = sum(one.stat().st_size for one in local.glob("*.safetensors"))
            check_config(local, size, required=family.__name__ != "AutoTokenizer")
            return family.from_pretrained(local, trust_remote_code=False, **options)
        return family.from_pretrained(path, revision=revision, trust_remote_code=False, **options)
    except Exception as error:  # its readers raise all kinds, tokenizers' a bare Exception
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        if not isinstance(error, (OSError, ValueError, ImportError)):
            reason = f"{type(error).__name__}: {reason}"
        where = "the folder" if local.is_dir() else "the hub"
        raise ConfigError(f"encoder {path!r} could not be loaded from {where} ({reason}); {ENCODER_HINT}") from error
