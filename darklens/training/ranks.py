"""Training by several processes, one per GPU: `torchrun --nproc_per_node=4 main.py ...`, with the flags of one process.

The only place that touches torch.distributed. A batch is divided into consecutive images, as many to each process;
where it does not divide, some have one image less, or none. The results are those of one process at the same batch
size, to rounding, since all that an image contributes to is a sum over all of them:

- gradients: each process takes those of its images' share of the loss, and they are added after the backward pass, in
  one flat tensor. (DistributedDataParallel would average over processes, whatever their numbers of images, and adds
  as many calls as it has buckets to those that the batch norms make in the same backward pass.)
- batch norms: mean and variance of all images, from each process's count, mean and variance; in the backward pass the
  two sums that the statistics' gradient is made of (`sync_norm`).
- loss, right answers, logits: gathered. A signal that reached one process stops all of them after the same step.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from darklens.errors import RankError

PATIENCE = datetime.timedelta(minutes=10)  # with a process that is alive but does not answer
T = TypeVar("T")


@contextlib.contextmanager
def _collective() -> Iterator[None]:
    """Around everything that needs the other processes."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise RankError(f"another process of this job has died or hangs; go on with --resume ({reason})") from error


@dataclass(eq=False)
class Ranks:
    """The processes of a job and this one's place among them. batch_size: of the present batch, over all of them."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 0

    def __deepcopy__(self, memo: dict) -> Ranks:
        return self

    @property
    def single_process(self) -> bool:
        """Nothing is divided: the program is what it would be without this file."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """This process is the one that writes, prints and draws."""
        return self.rank == 0

    @property
    def neighbours(self) -> int:
        """Processes on this machine, which share its memory."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def set_batch(self, images: int) -> None:
        """A batch of that many images, over all processes, comes next."""
        self.batch_size = images

    def share(self, images: int, rank: int | None = None) -> slice:
        """Those of a batch's images that a process takes, this one if none is named."""
        rank = self.rank if rank is None else rank
        return slice(images * rank // self.world, images * (rank + 1) // self.world)

    def gather(self, row: Tensor) -> Tensor:
        """One row (m, ...) of each process -> (world, m, ...)."""
        if self.world == 1:
            return row[None]
        rows = row.new_empty(self.world, *row.shape)
        with _collective():
            dist.all_gather_into_tensor(rows, row.contiguous()[None])
        return rows

    def total(self, row: Tensor) -> Tensor:
        """The sum (m, ...) over all processes, in their order: each has the same bits."""
        return self.gather(row).sum(0)

    def gather_images(self, part: Tensor) -> Tensor:
        """This process's images (B, ...) of the batch -> those of all processes, in order."""
        if self.world == 1:
            return part
        lengths = [len(range(self.batch_size)[self.share(self.batch_size, rank)]) for rank in range(self.world)]
        padded = part.new_zeros(max(lengths), *part.shape[1:])
        padded[: len(part)] = part
        return torch.cat([rows[:length] for rows, length in zip(self.gather(padded), lengths, strict=True)])

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with _collective():
            dist.all_reduce(flat)
        for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def all_reduce_max(self, number: int = 0) -> int:
        """The largest of all processes' numbers; none goes on before all have come here."""
        if self.world == 1:
            return number
        largest = torch.tensor([number], device=self.device)
        with _collective():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def broadcast(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process; the others do not call it."""
        values = [make() if self.first else None]
        if self.world > 1:
            with _collective():
                dist.broadcast_object_list(values, device=self.device)
        return values[0]  # type: ignore[return-value]


def world_size() -> int:
    """Processes of this job, as torchrun tells."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine: which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes that torchrun started; one process needs nothing of it.

    Raises RankError where they cannot be reached.
    """
    place = Ranks(int(os.environ.get("RANK", "0")), world_size(), device)
    if place.single_process:
        yield place
        return
    importlib.import_module("torch._dynamo")  # as optimisers do: imported later, it would keep the processes joined
    with _collective():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield place
    dist.destroy_process_group()  # not after an error: it may wait for those that are gone
