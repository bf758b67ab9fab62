"""Run a transformers model on one row of tokens, without padding, and find out whether it can be.

S texts, N tokens in all of them, D width."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bam_lightning.models import attention
from bam_lightning.models.batch import Batch
from bam_lightning.models.kernels import bert_layers
from bam_lightning.models.packing import Packing, pack, round_to_bucket

PROBE_LENGTH = 128  # tokens of the long text of the probe where no max_length is known
SHORT_LENGTH = 5  # tokens of its short text
TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-5}  # relative to the norm of a text's states
HALF_TOLERANCE = 0.02  # the same in bfloat16 or float16, beyond twice the error of texts that run apart
Pick = Literal["first", "last"]


def encode_tokens(body: Any, batch: Batch, pick: Pick | None = None) -> tuple[Tensor, Packing]:
    """Return the top layer's states ``[N, D]`` of all tokens, or ``[S, D]`` of each text's first or last token.

    Args:
        body: a model for which ``why_not_packed`` returns ``None``.
        batch: the texts, on the model's device.
        pick: the token that suffices; the fused layers then skip the others in the top layer.
    """
    device = batch.input_ids.device
    grouped = device.type == "cpu"
    packing = pack(batch.lengths, grouped).to(device)
    count = len(batch.input_ids)
    fill = round_to_bucket(count) - count if grouped else 0
    row = {"input_ids": batch.input_ids, "position_ids": _positions(body, batch, packing)}
    if batch.token_type_ids is not None:
        row["token_type_ids"] = batch.token_type_ids
    row = {name: (F.pad(ids, (0, fill)) if fill else ids)[None] for name, ids in row.items()}  # [1, N + fill]
    row = accepted(body, row)
    rows = None if pick is None else packing.firsts if pick == "first" else packing.offsets[1:].long() - 1
    if packing.groups and bert_layers.supports_fused(body):
        states = bert_layers.run(body.encoder.layer, _embed(body, row), packing, rows)
        return (states[:count] if rows is None else states), packing
    states = token_states(body(**row, packing=packing))[0]
    return (states[:count] if rows is None else states[rows]), packing


def token_states(output: Any) -> Tensor:
    """Return the states ``[B, T, D]`` of what a model returned: a tensor, or an output of transformers."""
    states: Tensor = output if isinstance(output, Tensor) else output.last_hidden_state
    return states


def accepted(body: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Return the inputs without the segment ids if the model takes none, and ``use_cache=False`` where it has one."""
    names = _arguments(type(body).forward)
    kept: dict[str, Any] = {name: ids for name, ids in inputs.items() if name != "token_type_ids" or name in names}
    return {**kept, "use_cache": False} if "use_cache" in names else kept


@cache
def _arguments(forward: Any) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def why_not_packed(body: Any, usual: str | None, length: int | None = None) -> str | None:
    """Return why the model cannot run on one row of tokens, or ``None`` if it can.

    One long and one short text run apart, with the attention of transformers, and then packed. It can be packed if
    their states agree: positions are an argument, and no operation but attention combines tokens. Nothing is drawn
    from torch's generators.

    Args:
        body: a model with this library's attention; see ``attention.install``.
        usual: name of the attention that it had before.
        length: tokens of the long text; default ``PROBE_LENGTH``. At least as many as a batch will have, since a
            sliding window shows in long texts only.
    """
    if usual is None:
        return "its attention is its own"
    if "position_ids" not in _arguments(type(body).forward):
        return "it takes no positions"
    batch = _texts(body, length)
    with at_rest(body), _autocast_off(batch):
        try:
            packed = encode_tokens(body, batch)[0].split(batch.lengths)
        except Exception as error:  # whatever a family's code raises on input that it was not made for
            return f"a packed row fails in it ({' '.join(str(error).split()) or type(error).__name__})"
        body.set_attn_implementation(usual)
        apart = [token_states(body(**one))[0] for one in _apart(body, batch)]
        body.set_attn_implementation(attention.NAME)
    difference, limit = _largest_error(packed, apart), TOLERANCE.get(apart[0].dtype, HALF_TOLERANCE)
    if difference <= limit:
        return None
    return f"states of packed texts differ by {difference:.1g} from those of texts apart"


def kernel_error(body: Any, length: int | None = None) -> str | None:
    """Return why the kernel for packed rows cannot be used under the current autocast, or ``None`` if it can."""
    batch = _texts(body, length)
    with at_rest(body):
        with _autocast_off(batch):
            exact = [token_states(body(**one))[0] for one in _apart(body, batch)]
        apart = [token_states(body(**one))[0] for one in _apart(body, batch)]
        try:
            packed = encode_tokens(body, batch)[0].split(batch.lengths)
        except Exception as error:
            return f"the kernel for packed rows fails ({' '.join(str(error).split()) or type(error).__name__})"
    limit = 2 * _largest_error(apart, exact) + HALF_TOLERANCE
    difference = _largest_error(packed, exact)
    return None if difference <= limit else f"the kernel's states differ by {difference:.1g} from those of texts apart"


def padding_matters(body: Any, length: int | None = None) -> bool:
    """Return whether the states of a short text change if it is padded to the length of a long one."""
    batch = _texts(body, length)
    short, long = batch.lengths
    with at_rest(body), _autocast_off(batch):
        inputs = next(_apart(body, batch))
        exact = token_states(body(**inputs))
        padded = {
            name: F.pad(ids, (0, long - short)) if isinstance(ids, Tensor) else ids for name, ids in inputs.items()
        }
        found = token_states(body(**padded))[:, :short]
    return _largest_error(found, exact) > TOLERANCE.get(exact.dtype, HALF_TOLERANCE)


def _texts(body: Any, length: int | None) -> Batch:
    """Return a short and a long text of fixed tokens that are no special ones, with two segments where it has them."""
    device = next(body.parameters()).device
    long = min(length or PROBE_LENGTH, position_limit(body) or PROBE_LENGTH)
    lengths = (min(SHORT_LENGTH, long), long)
    rows = embedding_rows(body)
    draws = torch.randint(rows // 4, rows // 2 + 1, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    segments = getattr(getattr(body, "config", None), "type_vocab_size", 0)
    positions = torch.cat([torch.arange(count) for count in lengths])
    types = (positions >= SHORT_LENGTH // 2).long() if segments > 1 else None
    return Batch(draws, positions, types, lengths, {}).to(device)


def _apart(body: Any, batch: Batch) -> Iterator[dict[str, Any]]:
    """Yield the inputs of each text alone, ``[1, T]``."""
    start = 0
    for count in batch.lengths:
        span = slice(start, start + count)
        inputs = {"input_ids": batch.input_ids[span][None]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids[span][None]
        yield accepted(body, inputs)
        start += count


def _largest_error(found: Any, expected: Any) -> float:
    """Return the largest norm of a text's difference, relative to the norm of its states; infinity if not a number."""
    errors = [float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(found, expected, strict=True)]
    return max((error if error == error else float("inf")) for error in errors)


@contextmanager
def at_rest(body: nn.Module) -> Iterator[None]:
    """Run without dropout, gradients, compiled code and TF32."""
    training = [module for module in body.modules() if module.training]
    compiled = any(module._compiled_call_impl is not None for module in body.modules())
    precision = torch.get_float32_matmul_precision()
    body.eval()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for module in training:
            module.training = True


def _autocast_off(batch: Batch) -> torch.autocast:
    return torch.autocast(batch.input_ids.device.type, enabled=False)


def _positions(body: Any, batch: Batch, packing: Packing) -> Tensor:
    """Return positions ``[N]``; RoBERTa's start behind its padding id and skip tokens that equal it."""
    padding = first_position(body) - 1
    if padding < 0:
        return batch.position_ids
    real = batch.input_ids.ne(padding).long()
    counted = real.cumsum(0)
    before = (counted - real)[packing.firsts]
    lengths = packing.offsets.long().diff()
    return (counted - torch.repeat_interleave(before, lengths, output_size=len(real))) * real + padding


def _embed(body: Any, row: dict[str, Any]) -> Tensor:
    embedded: Tensor = body.embeddings(**{name: ids for name, ids in row.items() if name != "use_cache"})
    widen = getattr(body, "embeddings_project", None)  # ELECTRA's small sizes
    return (embedded if widen is None else widen(embedded))[0]


def first_position(body: Any) -> int:
    """Return the number of a text's first position: RoBERTa counts from behind its padding."""
    table: Any = getattr(getattr(body, "embeddings", None), "position_embeddings", None)
    padding: int | None = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def position_limit(body: Any) -> int | None:
    """Return how many tokens a text may have, or ``None`` if the model sets no limit."""
    most: int | None = getattr(getattr(body, "config", None), "max_position_embeddings", None)
    return None if most is None or most < 0 else most - first_position(body)


def embedding_rows(body: Any) -> int:
    """Return the number of word embeddings; of a module from elsewhere, the rows of its largest table."""
    if hasattr(body, "get_input_embeddings"):
        return len(body.get_input_embeddings().weight)
    return max((part.num_embeddings for part in body.modules() if isinstance(part, nn.Embedding)), default=1)
