"""An encoder whose weights, gradients and optimizer states are shared out among the processes: torch's FSDP.

A layer's weights are put together where it is computed, and its gradients are summed where each share lies. Heads stay
whole: a process may have no row of a task. Arithmetic is that of one process. P processes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bam_lightning.models.encoder import Encoder
from bam_lightning.training import distributed
from bam_lightning.training.distributed import shared


def shard(encoder: Encoder) -> Encoder:
    """Share an encoder's weights out, in place; return its like without any, for ``join``.

    The first process's weights count. Needs the group of processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.same_weights(encoder)
    empty = {id(one): nn.Parameter(one.to("meta"), one.requires_grad) for one in encoder.parameters()}
    blank = copy.deepcopy(encoder, dict(empty))
    mesh = init_device_mesh(next(encoder.parameters()).device.type, (distributed.processes(),))
    for part in (*encoder.stack(), encoder):
        one: Any = fully_shard(part, mesh=mesh)
        one.set_gradient_divide_factor(1.0)  # a sum, as one process has it
        one.set_force_sum_reduction_for_comms(True)
    return blank


def join(encoder: Encoder, blank: Encoder) -> Encoder:
    """Return the encoder that ``shard`` took apart, whole in every process."""
    weights = {name: whole(one.detach()) for name, one in encoder.named_parameters()}
    blank.load_state_dict(weights, strict=False, assign=True)
    return blank


def whole(tree: Any, device: torch.device | None = None) -> Any:
    """Return a tree of dicts and lists with whole tensors for those that are shared; all processes must ask for it.

    Args:
        tree: for example a checkpoint.
        device: where to put them; by default they stay where their shares are.
    """
    if isinstance(tree, Mapping):
        return {name: whole(one, device) for name, one in tree.items()}
    if isinstance(tree, list):
        return [whole(one, device) for one in tree]
    if not shared(tree):
        return tree
    found = tree.full_tensor()
    return found if device is None else found.to(device)


def share_states(optimizer: torch.optim.Optimizer) -> None:
    """Share out what was restored whole: the states of parameters that are shared."""
    from torch.distributed.tensor import distribute_tensor

    for parameter, state in optimizer.state.items():
        if not shared(parameter):
            continue
        of_parameter: Any = parameter
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and not shared(value):
                state[name] = distribute_tensor(value, of_parameter.device_mesh, of_parameter.placements)


def joint_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients, shared or whole."""
    kinds: dict[bool, list[Tensor]] = {True: [], False: []}
    for one in parameters:
        if one.grad is not None:
            kinds[shared(one)].append(one.grad)
    norms = [whole(nn.utils.get_total_norm(kind, foreach=True)) for kind in kinds.values() if kind]
    return torch.linalg.vector_norm(torch.stack(norms))
