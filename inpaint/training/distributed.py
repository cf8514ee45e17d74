"""The processes of a run: torchrun starts them, and each works on its own part of every batch.

All of them hold the same weights and take the same steps; what follows from all parts of a batch is averaged here. In a
run of one process every function is the identity.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inpaint.device import choose_device
from inpaint.errors import InpaintError


def world() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number. Number 0 writes the files."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def own_device(name: torch.device | str) -> torch.device:
    """This process's device: ``choose_device``'s, but "cuda" is a GPU of its own for each process of a machine.

    Raises:
        InpaintError: as for ``choose_device``, or more processes than GPUs.
    """
    device = choose_device(name)
    if device == torch.device("cuda") and world() > 1:
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise InpaintError(
                f"torchrun: expected at most as many processes as GPUs on a machine, got number {local + 1} with "
                f"{count}; give --nproc-per-node {count}"
            )
        return torch.device("cuda", local)
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Joins the run's other processes: NCCL between GPUs, Gloo between CPUs."""
    if world() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        gc.collect()  # what still refers to the group would keep its threads alive, which abort the interpreter's end
        dist.destroy_process_group()


def mean(values: Tensor) -> Tensor:
    """The mean over the processes, element by element."""
    if world() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world()


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in at least one process."""
    return bool(mean(torch.tensor(float(flag), device=device))) if world() > 1 else flag


def union(names: set[str]) -> set[str]:
    """What is in the set of at least one process."""
    if world() == 1:
        return names
    gathered: list[set[str]] = [set()] * world()
    dist.all_gather_object(gathered, names)
    return set.union(*gathered)


def wait() -> None:
    """Until all processes have come here."""
    if world() > 1:
        dist.barrier()


class Loss(nn.Module):
    """A loss that trains ``network``: in its backward pass the network's gradients are averaged over the processes.

    The other networks that the loss makes use of are left alone. ``network`` itself is not wrapped and keeps the names
    of its parameters.
    """

    def __init__(self, network: nn.Module, compute: Callable[..., Any]) -> None:
        super().__init__()
        inner = _Computation(network, compute)
        self.inner: nn.Module = DistributedDataParallel(inner) if world() > 1 else inner

    def forward(self, *arguments: Any) -> Any:
        return self.inner(*arguments)

    def alone(self) -> AbstractContextManager[Any]:
        """Within it gradients are added up in this process, to be averaged in the next backward pass outside of it."""
        return self.inner.no_sync() if isinstance(self.inner, DistributedDataParallel) else nullcontext()


class _Computation(nn.Module):
    def __init__(self, network: nn.Module, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.compute = network, compute

    def forward(self, *arguments: Any) -> Any:
        return self.compute(*arguments)
