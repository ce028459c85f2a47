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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

SHARDS = 8  # with --deterministic_ranks
PATIENCE = datetime.timedelta(minutes=10)  # with a process that is alive but does not answer


class RankError(RuntimeError):
    """The processes of a job cannot go on together; one line."""


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

    def tell(self, make: Callable[[], object]) -> object:
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


# --- batch norm over all processes --------------------------------------------------------------------------


def synchronise(network: nn.Module, ranks: Ranks) -> None:
    """Make the batch norms of a network in training mode see all images of the batch; no name of its state changes.

    With more shards than processes, all else that has no batch norm within it works on one shard at a time.
    """
    if ranks.alone:
        return
    for module in list(network.modules()):
        if hasattr(module, "shared"):  # the field batch norm
            module.shared = functools.partial(_shared_norm, ranks)
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, SharedBatchNorm(child, ranks))
    if ranks.shards > ranks.world:
        _divide(network, ranks)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm of PyTorch's, (N, C, ...) -> same, over the images of all processes.

    A single row, which has no spread, is normalised by the running statistics.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, ranks: Ranks):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias, self.training, self.ranks = norm.weight, norm.bias, norm.training, ranks
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self._is_single(x):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        y, mean, var, count = _shared_norm(self.ranks, x, self.weight, self.bias, 1, self.eps, False)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        return y

    def _is_single(self, x: Tensor) -> bool:
        """One number per channel in all: only possible where the batch has one image."""
        mine = x.numel() // self.num_features
        return self.ranks.whole == 1 and int(self.ranks.total(torch.tensor([[mine]], device=x.device))) == 1


def _shared_norm(
    ranks: Ranks, x: Tensor, weight: Tensor, bias: Tensor, group: int, eps: float, relu: bool = True
) -> tuple[Tensor, Tensor, Tensor, int]:
    """scale * (x - mean) + shift, then ReLU if asked for, with statistics of all images and of the G channels of a
    field: (B, F*G, ...) -> the same, mean (F,), biased variance (F,), and the count of numbers they are of."""
    y, mean, var, count = _SharedNorm.apply(x, weight, bias, group, eps, relu, ranks)
    return y, mean, var, int(count)


class _SharedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, group, eps, relu, ranks):
        rows = torch.stack([_moments(part, len(weight), group, weight) for part in ranks.split(x)])
        count, mean, var = _join_moments(ranks.gather(rows), weight.dtype)
        channels = [t.repeat_interleave(group) for t in (mean, var, weight, bias)]
        ctx.save_for_backward(x, count, *channels)
        ctx.group, ctx.eps, ctx.relu, ctx.ranks = group, eps, relu, ranks
        ctx.mark_non_differentiable(mean, var, count)
        y = F.batch_norm(x, *channels, False, 0.0, eps)
        return y.relu_() if relu else y, mean, var, count

    @staticmethod
    def backward(ctx, grad, *_):
        x, count, mean, var, weight, bias = ctx.saved_tensors
        invstd = (var + ctx.eps).rsqrt()
        if ctx.relu:
            grad = torch.ops.aten.threshold_backward(grad, F.batch_norm(x, mean, var, weight, bias, eps=ctx.eps), 0)

        def sums(x, grad):  # of grad * xhat and of grad, by field: (2, F)
            if not len(x):
                return weight.new_zeros(2, len(weight) // ctx.group)
            statistics = (None, None, mean, invstd, True, ctx.eps)
            parts = torch.ops.aten.native_batch_norm_backward(grad, x, weight, *statistics, [False, True, True])[1:]
            return torch.stack([part.view(-1, ctx.group).sum(1) for part in parts]).to(weight.dtype)

        parts = zip(ctx.ranks.split(x), ctx.ranks.split(grad), strict=True)
        rows = torch.stack([sums(*part) for part in parts])  # (shards, 2, F)
        d_weight, d_bias = tree_sum(rows)  # of this process: they are added up with all other gradients
        # dx = scale * (grad - mean(grad) - xhat * mean(grad * xhat)), the last two as one affine map of x
        slope, offset = (
            -(weight * invstd) * part.repeat_interleave(ctx.group) for part in ctx.ranks.total(rows) / count
        )
        affine = F.batch_norm(x, mean, var, slope.to(weight.dtype), offset.to(weight.dtype), eps=ctx.eps)
        scale = (weight * invstd).to(grad.dtype).view(1, -1, *[1] * (x.ndim - 2))
        return torch.addcmul(affine, grad, scale), d_weight, d_bias, None, None, None, None


def _moments(x: Tensor, fields: int, group: int, like: Tensor) -> Tensor:
    """Count, means and biased variances of the fields of x (B, F*G, ...): (1 + 2F,) float64."""
    if not len(x):
        return like.new_zeros(1 + 2 * fields, dtype=torch.float64)
    unused = torch.zeros(2, x.shape[1], dtype=like.dtype, device=x.device)  # asks for float32 statistics
    mean, var = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)  # (F*G,)
    mean, var = mean.view(-1, group).double(), var.view(-1, group).double()
    field_mean = mean.mean(1)
    field_var = (var + (mean - field_mean[:, None]).square()).mean(1)
    return torch.cat((field_mean.new_tensor([x.numel() // fields]), field_mean, field_var))


def _join_moments(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Those of all shards together, from each one's (S, 1 + 2F): Chan, Golub & LeVeque 1983, doi:10.2307/2683386."""
    counts, (means, variances) = rows[:, :1], rows[:, 1:].chunk(2, 1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    var = (counts * (variances + (means - mean).square())).sum(0) / count
    return count, mean.to(dtype), var.to(dtype)


# --- one shard at a time ------------------------------------------------------------------------------------


def tree_sum(rows: Sequence[Tensor] | Tensor) -> Tensor:
    """Neighbours first, then neighbouring pairs...: a process's part is a branch, whatever their number."""
    rows = list(rows)
    while len(rows) > 1:
        rows = [sum(rows[i : i + 2][1:], rows[i]) for i in range(0, len(rows), 2)]
    return rows[0]


def _divide(module: nn.Module, ranks: Ranks) -> None:
    """Let the largest parts of a module that hold no batch norm work on one shard at a time."""
    for child in module.children():
        if any(hasattr(part, "running_mean") for part in child.modules()):
            if not hasattr(child, "running_mean"):
                _divide(child, ranks)
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
