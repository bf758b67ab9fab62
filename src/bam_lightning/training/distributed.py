"""Sums, gathering and agreement over the processes that train one Run together; one process needs none of it.

Lightning sees one device in each process. So nothing is averaged, wrapped or saved behind our back, and a signal
that reaches one process leaves the others in step. P parameters, T tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from bam_lightning.config.exceptions import TrainingError

V = TypeVar("V")
BUCKET = 1 << 23  # numbers that are sent at a time: 32 MiB of gradients
Losses = list[tuple[str, Tensor, int]]  # task, loss summed over its examples, their number


def processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if _joined() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return distributed.get_rank() if _joined() else 0


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def shared(tensor: Any) -> bool:
    """Return whether each process has but its share of a tensor; see ``sharding``."""
    if processes() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def sum_step(module: nn.Module, tasks: Sequence[str], losses: Losses) -> Losses:
    """Add up the gradients and the ``losses`` of one optimizer step over all processes; return the losses.

    A parameter that no process has a gradient for keeps none, so that the optimizer passes it by as it does in one
    process. Which these are, and the counts, go over the CPU: no device has to be waited for. Gradients of weights that
    are shared are added up already.
    """
    if processes() == 1:
        return losses
    parameters = [one for one in module.parameters() if one.requires_grad and not shared(one)]
    sums = torch.zeros(len(tasks), device=parameters[0].device)
    counts = dict.fromkeys(tasks, 0)
    for task, loss, count in losses:
        sums[tasks.index(task)] += loss.detach()
        counts[task] += count
    told = sum_numbers([*(int(one.grad is not None) for one in parameters), *counts.values()], module)  # P + T
    gradients = []
    for one, there in zip(parameters, told, strict=False):
        if there:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
            gradients.append(one.grad)
    _sum_in_place([*gradients, sums])
    found = zip(tasks, sums, told[len(parameters) :], strict=True)
    return [(task, loss, count) for task, loss, count in found if count]


def sum_numbers(numbers: Sequence[int], module: nn.Module) -> list[int]:
    """Return the sums of whole numbers over all processes."""
    if processes() == 1:
        return list(numbers)
    own = torch.tensor(numbers, device=_device(module))
    distributed.all_reduce(own)
    return [int(total) for total in own.tolist()]


def most(number: int, module: nn.Module) -> int:
    """Return the largest of all processes' whole numbers."""
    own = torch.tensor(number, device=_device(module))
    distributed.all_reduce(own, op=distributed.ReduceOp.MAX)
    return int(own)


def _device(module: nn.Module) -> torch.device:
    """Return where small sums are made: on the CPU, unless the group is of GPUs only."""
    on_cpu = "cpu" in distributed.get_backend_config()
    return torch.device("cpu") if on_cpu else next(module.parameters()).device


def _sum_in_place(tensors: Sequence[Tensor]) -> None:
    for bucket in _buckets(tensors):
        flat = torch.cat([one.reshape(-1) for one in bucket])
        distributed.all_reduce(flat)
        for one, total in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
            one.copy_(total.view_as(one))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for one in tensors:
        if bucket and (one.dtype != bucket[0].dtype or size + one.numel() > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(one)
        size += one.numel()
    yield bucket


def gather(value: V) -> list[V]:
    """Return the ``value`` of every process, in their order."""
    if processes() == 1:
        return [value]
    found: list[Any] = [None] * processes()
    distributed.all_gather_object(found, value)
    return found


def of_first(value: V) -> V:
    """Return the ``value`` of the first process, in all of them."""
    if processes() == 1:
        return value
    kept = [value]
    distributed.broadcast_object_list(kept, src=0)
    return kept[0]


def same_start(module: nn.Module, step: int) -> None:
    """Give all processes the first one's weights.

    Raises:
        TrainingError: unless all of them stand at the same optimizer step.
    """
    if processes() == 1:
        return
    steps = gather(step)
    if len(set(steps)) > 1:
        raise TrainingError(
            f"the processes would go on at different optimizer steps: {', '.join(map(str, steps))}; all of them must "
            "see the same files, so paths.store must lie on a file system that all nodes share"
        )
    same_weights(module)


def same_weights(module: nn.Module) -> None:
    """Give all processes the first one's weights, but for those that are shared among them."""
    for tensor in (*module.parameters(), *module.buffers()):
        if not shared(tensor):
            distributed.broadcast(tensor.data, src=0)
