"""Fused layers of BERT's family on a CPU, with hand-written gradients: a third of autograd's operations.

Each layer computes what the layer of ``transformers`` computes, on packed tokens, with the same products in the same
precision. Under autocast the products use its type, and the states between layers are float32. After its attention the
top layer continues with the first token of each text only, since the other tokens are not used.

N tokens, M of them wanted, H heads, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bam_lightning.models import kernels
from bam_lightning.models.attention import attention_backward, attention_forward
from bam_lightning.models.kernels.dropout import dropout_mask
from bam_lightning.models.packing import Packing

aten = torch.ops.aten
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
PARTS = (nn.Linear, nn.LayerNorm)


class Settings(NamedTuple):
    """Options of a layer. ``rows`` are the tokens to return; ``None`` returns all."""

    packing: Packing
    heads: int
    scale: float
    epsilon: float
    attention_dropout: float
    dropout: float
    half: torch.dtype
    rows: Tensor | None


def supports_fused(body: Any) -> bool:
    """Return whether the fused layers can replace those of a transformers model.

    Hooks (such as FSDP's), adapters in place of linear layers and gradient checkpointing need the model's own code.
    """
    config = body.config
    if (
        not kernels.enabled()
        or config.model_type not in FAMILIES
        or config.hidden_act != "gelu"
        or getattr(config, "is_decoder", False)
    ):
        return False
    layers = body.encoder.layer
    plain = all(type(part) in PARTS for layer in layers for part in _parts(layer))
    return plain and not any(map(_altered, (body, body.encoder, *layers.modules())))


def _parts(layer: Any) -> tuple[Any, ...]:
    """Return the modules of a layer that have weights, in the order of ``Layer``'s arguments."""
    attention = layer.attention
    return (
        attention.self.query, attention.self.key, attention.self.value, attention.output.dense,
        attention.output.LayerNorm, layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm,
    )  # fmt: skip


def _altered(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or getattr(module, "gradient_checkpointing", False)


def run(layers: Sequence[nn.Module], states: Tensor, packing: Packing, rows: Tensor | None) -> Tensor:
    """Return the top layer's states ``[M, D]`` of embedded tokens ``[N, D]``: all, or the M tokens ``rows``."""
    half = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype
    for number, layer in enumerate(layers):
        one: Any = layer
        attention = one.attention.self
        settings = Settings(
            packing,
            attention.num_attention_heads,
            attention.scaling,
            one.output.LayerNorm.eps,
            attention.dropout.p if one.training else 0.0,
            one.output.dropout.p if one.training else 0.0,
            half,
            rows if number + 1 == len(layers) else None,
        )
        weights = (tensor for part in _parts(one) for tensor in (part.weight, part.bias))
        states = Layer.apply(states, settings, *weights)
    return states


class Layer(torch.autograd.Function):
    """One layer: attention, its output, two feed-forward products, each half with dropout, residual and LayerNorm."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, settings: Settings, *weights: Tensor) -> Tensor:
        """Return ``[M, D]`` of ``[N, D]``; weights and biases as ``run`` orders them."""
        with torch.autocast("cpu", enabled=False):
            half = settings.half
            joint, bias = (torch.cat([one.to(half) for one in weights[kind:6:2]]) for kind in (0, 1))
            out, out_bias, up, up_bias, down, down_bias = (weights[n].to(half) for n in (6, 7, 10, 11, 12, 13))
            tokens = states.to(half)
            parts = torch.addmm(bias, tokens, joint.t()).view(len(states), 3, settings.heads, -1)
            mixed, kept = attention_forward(parts, settings.packing.groups, settings.scale, settings.attention_dropout)
            mixed, residual = mixed.view(states.shape), states
            if settings.rows is not None:
                mixed, residual = mixed[settings.rows], residual[settings.rows]
            middle, *first = _end(torch.addmm(out_bias, mixed, out.t()), residual, settings, *weights[8:10])
            tokens_up = middle.to(half)
            raised = torch.addmm(up_bias, tokens_up, up.t())
            bent = aten.gelu(raised)
            end, *second = _end(torch.addmm(down_bias, bent, down.t()), middle, settings, *weights[14:16])
        ctx.settings, ctx.size = settings, len(kept)
        ctx.save_for_backward(
            tokens, parts, mixed, tokens_up, raised, bent, joint, out, up, down, *weights[8:10], *weights[14:16],
            *first, *second, *kept,
        )  # fmt: skip
        return end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the states and of the weights."""
        tokens, parts, mixed, tokens_up, raised, bent, joint, out, up, down, *more = ctx.saved_tensors
        norms, first, second, kept = more[:4], more[4:8], more[8:12], more[12:]
        settings, full = ctx.settings, gradient.dtype
        with torch.autocast("cpu", enabled=False):
            to_middle, flow, *of_second = _end_back(gradient, settings, *norms[2:], *second)
            of_down = _of_weight(flow, bent, full)
            flow = aten.gelu_backward(flow @ down, raised)
            of_up = _of_weight(flow, tokens_up, full)
            to_residual, flow, *of_first = _end_back(to_middle.add_(flow @ up), settings, *norms[:2], *first)
            of_out = _of_weight(flow, mixed, full)
            flow = _spread(flow @ out, settings.rows, len(tokens))
            flow = attention_backward(
                flow.view(parts[:, 0].shape),
                parts,
                kept,
                settings.packing.groups,
                settings.scale,
                settings.attention_dropout,
            ).view(len(tokens), -1)
            of_joint = _of_weight(flow, tokens, full)
            end = _spread(to_residual, settings.rows, len(tokens)).add_(flow @ joint)
        three = zip(*(one.chunk(3) for one in of_joint), strict=True)
        return end, None, *(one for pair in three for one in pair), *of_out, *of_first, *of_up, *of_down, *of_second


def _end(values: Tensor, residual: Tensor, settings: Settings, weight: Tensor, bias: Tensor) -> tuple[Any, ...]:
    """Return LayerNorm of the residual plus dropped values, and what ``_end_back`` needs."""
    p, keep = settings.dropout, None
    if p:
        keep = dropout_mask(values.shape, p)
        values *= keep.to(values.dtype)
    total = torch.add(residual, values, alpha=1.0 / (1.0 - p))
    return (*_norm(total, weight, bias, settings.epsilon), keep)


def _norm(total: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    end, mean, deviation = aten.native_layer_norm(total, [total.shape[-1]], weight, bias, epsilon)
    return end, total, mean, deviation


def _end_back(
    gradient: Tensor, settings: Settings, weight: Tensor, bias: Tensor, total: Tensor, mean: Tensor,
    deviation: Tensor, keep: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of the residual, of the values, and of LayerNorm's weight and bias."""
    size = [total.shape[-1]]
    to_residual, of_weight, of_bias = aten.native_layer_norm_backward(
        gradient.contiguous(), total, size, mean, deviation, weight, bias, [True, True, True]
    )
    flow = to_residual.to(settings.half, copy=True)
    if keep is not None:
        flow.mul_(keep.to(flow.dtype)).mul_(1.0 / (1.0 - settings.dropout))
    return to_residual, flow, of_weight, of_bias


def _of_weight(flow: Tensor, inputs: Tensor, full: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the gradients of a linear layer's weight and bias."""
    return (flow.t() @ inputs).to(full), flow.sum(0).to(full)


def _spread(values: Tensor, rows: Tensor | None, count: int) -> Tensor:
    """Return ``[M, D]`` at their rows of ``[N, D]``."""
    return values if rows is None else values.new_zeros(count, values.shape[-1]).index_copy_(0, rows, values)
