"""Training by several processes, one per GPU: `torchrun --nproc_per_node=4 main.py ...`, with the flags of one process.

The only place that touches torch.distributed. A batch is divided into `shards` of consecutive images, as many to each
process; where it does not divide, some have one image less, or none. The results are those of one process at the same
batch size, since all that an image contributes to is a sum over all of them:

- gradients: each process takes those of its images' share of the loss, and they are added after the backward pass, in
  one flat tensor. (DistributedDataParallel would average over processes, whatever their numbers of images, and adds
  as many calls as it has buckets to those that the batch norms make in the same backward pass.)
- batch norms: mean and variance of all images, from the (count, mean, variance) of each shard; in the backward pass
  the two sums that the statistics' gradient is made of.
- loss, right answers, logits: gathered. A signal that reached one process stops all of them after the same step.

With as many shards as processes, sums are added in an order that depends on the number of processes: equal to
rounding. With a fixed number of shards (`--deterministic_ranks`) each is worked on by itself and all sums run over the
shards in the same order: 1, 2, 4 or 8 processes with the same number of threads give the same bits.
"""

import contextlib
import datetime
import functools
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from darklens.errors import RankError

SHARDS = 8  # with --deterministic_ranks
PATIENCE = datetime.timedelta(minutes=10)  # with a process that is alive but does not answer


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Around everything that needs the other processes."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise RankError(f"another process of this job has died or hangs; go on with --resume ({reason})") from error


@dataclass(eq=False)
class Ranks:
    """The processes of a job, this one's place among them, and the shards of the batch that is being worked on."""

    rank: int = 0
    world: int = 1
    shards: int = 1
    device: torch.device = torch.device("cpu")
    sizes: list[int] = field(default_factory=list)  # images in each of this process's shards
    whole: int = 0  # images in all shards of all processes

    def __deepcopy__(self, memo: dict) -> "Ranks":
        return self

    @property
    def alone(self) -> bool:
        """Nothing is divided: the program is what it would be without this file."""
        return self.shards == 1

    @property
    def first(self) -> bool:
        """This process is the one that writes, prints and draws."""
        return self.rank == 0

    @property
    def neighbours(self) -> int:
        """Processes on this machine, which share its memory."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    # --- what is whose --------------------------------------------------------------------------------------

    def begin(self, images: int) -> None:
        """A batch of that many images, over all processes, comes next."""
        mine, bounds = self.shards // self.world, self._bounds(images)
        cut = bounds[self.rank * mine : (self.rank + 1) * mine + 1]
        self.sizes, self.whole = [stop - start for start, stop in zip(cut, cut[1:], strict=False)], images

    def share(self, images: int, rank: int | None = None) -> slice:
        """Those of a batch's images that a process takes, this one if none is named."""
        rank, mine, bounds = self.rank if rank is None else rank, self.shards // self.world, self._bounds(images)
        return slice(bounds[rank * mine], bounds[(rank + 1) * mine])

    def _bounds(self, images: int) -> list[int]:
        return [images * shard // self.shards for shard in range(self.shards + 1)]

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """This process's images (B, ...) by shard; (c * B, ...) where each image has c consecutive rows."""
        copies = len(x) // max(sum(self.sizes), 1)
        return x.split([copies * size for size in self.sizes])

    # --- what is of all -------------------------------------------------------------------------------------

    def gather(self, rows: Tensor) -> Tensor:
        """(shards of this process, m) -> (shards of all, m), in the order of the images."""
        if self.world == 1:
            return rows
        rows = rows.contiguous()
        found = rows.new_empty(self.world * len(rows), *rows.shape[1:])
        with _together():
            dist.all_gather_into_tensor(found, rows)
        return found

    def total(self, rows: Tensor) -> Tensor:
        """(shards of this process, m) -> (m,), the sum over all shards."""
        return self.gather(rows).sum(0)

    def join(self, part: Tensor) -> Tensor:
        """This process's images (B, ...) of the batch -> all of them."""
        if self.world == 1:
            return part
        lengths = [len(range(self.whole)[self.share(self.whole, rank)]) for rank in range(self.world)]
        padded = part.new_zeros(max(lengths), *part.shape[1:])
        padded[: len(part)] = part
        pieces = self.gather(padded).split(max(lengths))
        return torch.cat([piece[:length] for piece, length in zip(pieces, lengths, strict=True)])

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        if self.shards == self.world:
            with _together():
                dist.all_reduce(flat)
        else:
            flat = tree_sum(self.gather(flat[None]))
        pieces = flat.split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def agree(self, number: int = 0) -> int:
        """The largest of all processes' numbers; none goes on before all have come here."""
        if self.world == 1:
            return number
        found = torch.tensor([number], device=self.device)
        with _together():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def broadcast(self, make: Callable[[], object]) -> object:
        """What `make` gives in the first process; the others do not call it."""
        found = [make() if self.first else None]
        if self.world > 1:
            with _together():
                dist.broadcast_object_list(found, device=self.device)
        return found[0]


def world_size() -> int:
    """Processes of this job, as torchrun tells."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine: which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def ranks(device: torch.device, deterministic: bool = False) -> Iterator[Ranks]:
    """Join the other processes that torchrun started; one process needs nothing of it.

    Raises RankError where they cannot be reached, or their number does not divide the fixed number of shards.
    """
    world = world_size()
    if deterministic and SHARDS % world:
        raise RankError(f"--deterministic_ranks: expected 1, 2, 4 or {SHARDS} processes, found {world}")
    place = Ranks(int(os.environ.get("RANK", "0")), world, SHARDS if deterministic else world, device)
    if world == 1:
        yield place
        return
    importlib.import_module("torch._dynamo")  # as optimisers do: imported later, it would keep the processes joined
    with _together():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield place
    dist.destroy_process_group()  # not after an error: it may wait for those that are gone


def tree_sum(rows: Sequence[Tensor] | Tensor) -> Tensor:
    """Neighbours first, then neighbouring pairs...: a process's part is a branch, whatever their number."""
    rows = list(rows)
    while len(rows) > 1:
        rows = [sum(rows[i : i + 2][1:], rows[i]) for i in range(0, len(rows), 2)]
    return rows[0]


def divide(module: nn.Module, ranks: Ranks) -> None:
    """Let the largest parts of a module that hold no batch norm work on one shard at a time."""
    for child in module.children():
        if any(hasattr(part, "running_mean") for part in child.modules()):
            if not hasattr(child, "running_mean"):
                divide(child, ranks)
        elif not getattr(child, "inplace", False):  # a ReLU that writes into its input: the same whatever the shards
            child.forward = functools.partial(_by_shard, child, ranks)


def _by_shard(module: nn.Module, ranks: Ranks, x: Tensor) -> Tensor:
    if not module.training or not len(x):
        return type(module).forward(module, x)
    names, values = [name for name, _ in module.named_parameters()], list(module.parameters())
    copies = [_Copies.apply(value, len(ranks.sizes)) for value in values]
    found = []
    for number, part in enumerate(ranks.split(x)):
        if len(part):
            own = {name: copy[number] for name, copy in zip(names, copies, strict=True)}
            found.append(functional_call(_Plain(module), {f"module.{k}": v for k, v in own.items()}, (part,)))
    return torch.cat(found)


class _Plain(nn.Module):
    """A module with the forward of its class."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return type(self.module).forward(self.module, x)


class _Copies(torch.autograd.Function):
    """A parameter as often as there are shards, so that their gradients can be added in a fixed order."""

    @staticmethod
    def forward(ctx, parameter, number):
        return tuple(parameter.view_as(parameter) for _ in range(number))

    @staticmethod
    def backward(ctx, *gradients):
        return tree_sum(gradients), None
