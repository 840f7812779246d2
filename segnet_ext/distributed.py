"""The processes that train one model together, as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
import torch.distributed as dist

# What torchrun tells each process.
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """The group of processes that this one is in, number ``rank`` of ``size``. All of them must call the same methods
    in the same order; in a group of one these do nothing."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the one process that prints and writes."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the processes' tensors, which are of one shape and type."""
        if self.size == 1:
            return tensor
        total = tensor.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def total(self, number: float) -> float:
        """The sum of the processes' numbers, in float64."""
        return self.sum(torch.tensor(number, dtype=torch.float64)).item()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks. Values must be picklable."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


ALONE = Processes()


def under_torchrun() -> bool:
    """Whether ``torchrun`` started this process."""
    return all(name in os.environ for name in _ENVIRONMENT)


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[Processes]:
    """Joins the processes that ``torchrun`` started, until the block is left; without torchrun there is one alone.

    Args:
        device: ``cpu``, which they talk on by gloo, or ``cuda``, by NCCL: each then has the GPU of its number on its
            machine, which ``Processes.device`` names.
    """
    if not under_torchrun():
        yield Processes(device=device)
        return
    backend = "gloo"
    if device.type == "cuda":
        backend = "nccl"
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
        # gloo's threads outlive the group where DistributedDataParallel used it. One that lets go of a collective's
        # tensor must have the interpreter for it, and ends the process if the interpreter is going: here it can get it,
        # and a barrier has no tensor of Python's. Where it is kept waiting for longer, only leave() helps.
        dist.barrier(device_ids=[device.index] if device.type == "cuda" else None)
    finally:
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """Ends the process with an exit status and does not take the interpreter down, which a thread of gloo's may still
    need: see :func:`join`, after which it is to be called."""
    gc.collect()  # what is let go of here, such as a loader with its worker processes, gets no other chance
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it
            stream.flush()
    os._exit(status)
