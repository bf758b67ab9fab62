"""Optimizer: layer-wise learning rates, decoupled weight decay, Adam with and without bias correction.

The rate of every group is its ``share`` of the Run's rate at the current progress; see ``schedules``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor, nn

from bam_lightning.config.job_config import OptimizationConfig
from bam_lightning.models.encoder import Encoder
from bam_lightning.training.distributed import processes, shared
from bam_lightning.training.sharding import joint_norm

UNDECAYED = (nn.LayerNorm,)


def parameter_groups(
    encoder: Encoder, heads: nn.ModuleDict, layerwise_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return optimizer groups in which every parameter stands once.

    A head's ``share`` of the learning rate is 1, each layer further down has ``layerwise_decay`` times that of the
    layer above (section 4, "BASE LR * alpha^d"): pooler alpha, top layer alpha^2, ..., embeddings alpha^(L + 2).
    Biases and LayerNorm weights are not decayed (reference code).
    """
    top = encoder.layers + 2
    undecayed = {
        f"{prefix}.{module}.{name}"
        for prefix, part in (("encoder", encoder), ("heads", heads))
        for module, layer in part.named_modules()
        for name, _ in layer.named_parameters(recurse=False)
        if "bias" in name or isinstance(layer, UNDECAYED) or "LayerNorm" in type(layer).__name__
    }
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    named = [(f"encoder.{n}", encoder.depth(n), p) for n, p in encoder.named_parameters()]
    named += [(f"heads.{n}", top, p) for n, p in heads.named_parameters()]
    for name, depth, parameter in named:
        groups.setdefault((depth, name not in undecayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "share": layerwise_decay ** (top - depth),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (depth, decayed), parameters in sorted(groups.items())
    ]


def build_optimizer(groups: list[dict[str, Any]], settings: OptimizationConfig) -> torch.optim.Optimizer:
    """Return AdamW, or BERT's Adam where ``bias_correction`` is off."""
    if settings.bias_correction:
        return torch.optim.AdamW(groups, lr=0.0, eps=settings.epsilon, fused=True)
    return BertAdam(groups, epsilon=settings.epsilon)


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def clip_gradients(parameters: Iterable[Tensor], norm: float, optimizer: Any = None) -> Tensor:
    """Scale all gradients so that their joint norm is at most ``norm``; return the norm before.

    Not in the paper: reference code, which clips the gradient of the minibatch's summed loss at 1.0.

    Args:
        parameters: whose gradients.
        norm: the limit.
        optimizer: to scale them in its next step, as it reads them, which is sooner done, if it can.
    """
    every = [one for one in parameters if one.grad is not None]
    rows = []  # of gradients that are rows of many zeros, see ``word_rows``
    for one in every:
        if one.grad is not None and one.grad.is_sparse:
            one.grad = one.grad.coalesce()
            rows.append(one.grad.values())
    whole = [one for one in every if one.grad is not None and not one.grad.is_sparse]
    if processes() == 1:
        total = nn.utils.get_total_norm([*(one.grad for one in whole if one.grad is not None), *rows], foreach=True)
    else:
        total = joint_norm(whole)
    share = torch.clamp(norm / (total + 1e-6), max=1.0)
    fused = isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["fused"]
    if fused and all(one.dtype == torch.float32 and not shared(one) for one in every):
        optimizer.grad_scale = 1.0 / share  # by which torch's fused kernel divides, for gradients scaled up in float16
        return total
    for kind in (True, False):
        nn.utils.clip_grads_with_norm_([one for one in whole if shared(one) is kind], norm, total, foreach=True)
    for values in rows:
        values.mul_(share)
    return total


def local_gradients(module: pl.LightningModule) -> AbstractContextManager[None]:
    """Keep Lightning's DDP, where somebody trains with it, from averaging gradients: ``sum_step`` adds them up."""
    strategy = module.trainer.strategy
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


def go_back(module: pl.LightningModule, loss: Tensor) -> None:
    """Add the loss's gradients. What was computed in float32, as heads are, has its gradient in float32, too."""
    with torch.autocast(module.device.type, enabled=False):
        module.manual_backward(loss)


class BertAdam(torch.optim.AdamW):
    """Adam without bias correction and with decoupled weight decay, as BERT and the reference code have it.

    Early updates are larger than AdamW's: 3.2 times at step 1, 6.5 at 10, 1.6 at 500.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=epsilon, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = _uncorrected(parameter)
        super().step()
        return loss


def _uncorrected(parameter: Tensor) -> dict[str, Tensor]:
    """Return Adam's state before its first step; after infinitely many steps torch's correction is a factor of 1."""
    return {
        "step": torch.full((), torch.inf, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
