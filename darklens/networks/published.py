"""Reads the checkpoints that the original project published (bare state_dicts of e2cnn modules, or of ResNet-18).

Group and order are in the keys. Everything that follows from the weights (sampled bases, expanded filters, mask,
blur) is compared with our own and then dropped: a file in which they disagree would have meant another network.
"""

import functools
import re
from collections.abc import Callable

import torch
from torch import Tensor

from darklens.errors import PublishedError
from darklens.networks.conv import SteerableConv
from darklens.networks.equivariant import ARCHITECTURES, Equivariant_Network
from darklens.networks.layers import AntialiasedPool

TOLERANCE = 1e-4  # of the largest value: the files hold float32 that other versions of NumPy computed
SIZE = 129  # pixels, the only size the original knew


def describe(state: dict[str, Tensor]) -> dict:
    """What the keys say: {"sym_group", "N"} of an equivariant network, {"cnn": True} of ResNet-18.

    Raises PublishedError if they fit neither.
    """
    if "conv1.weight" in state and "fc.weight" in state:
        return {"cnn": True}
    orders = {int(m[1]) for key in state if (m := re.search(r"batch_norm_\[(\d+)\]\.weight$", key))}
    trivial = {m[1] for key in state if (m := re.search(r"block_expansion_\('(irrep_[\d,]+)', 'regular'\)", key))}
    if len(orders) != 1 or trivial not in ({"irrep_0"}, {"irrep_0,0"}):
        raise PublishedError(
            "expected a checkpoint of the original's equivariant network or of ResNet-18, found neither"
        )
    order, mirrored = orders.pop(), trivial == {"irrep_0,0"}
    return {"sym_group": "Dihyderal" if mirrored else "Circular", "N": order // 2 if mirrored else order}


def load_equivariant(state: dict[str, Tensor]) -> Equivariant_Network:
    """The network of an original checkpoint, in evaluation mode.

    Raises PublishedError for missing, unknown, misshapen or contradicting entries.
    """
    group = describe(state)
    classes = _shape(state, "fully_net.3.weight")[0]
    network = Equivariant_Network(**group, arch="full", head="flatten", channels=1, classes=classes, size=SIZE)
    learnt, derived = _renamed(network), _derived(network)
    unknown = sorted(set(state) - set(learnt) - set(derived) - _ignored(network))
    missing = sorted((set(learnt) | set(derived)) - set(state))
    if unknown or missing:
        raise PublishedError(f"unexpected entries {unknown[:3]}, missing entries {missing[:3]}")
    target = network.state_dict()
    for key, name in learnt.items():
        if state[key].numel() != target[name].numel():
            raise PublishedError(f"{key}: expected {target[name].numel()} numbers, found {tuple(state[key].shape)}")
    network.load_state_dict({name: state[key].reshape(target[name].shape) for key, name in learnt.items()})
    for key, compute in derived.items():
        _check_equal(key, state[key], compute())
    return network.eval()


def load_resnet(state: dict[str, Tensor], network: torch.nn.Module) -> torch.nn.Module:
    """Fill an untrained ResNet-18 with an original checkpoint. Raises PublishedError if the entries do not fit."""
    expected = network.state_dict()
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    if wrong or set(state) - set(expected):
        raise PublishedError(f"entries that do not fit ResNet-18: {(wrong + sorted(set(state) - set(expected)))[:3]}")
    network.load_state_dict(state)
    return network.eval()


def _shape(state: dict[str, Tensor], key: str) -> torch.Size:
    if key not in state or state[key].ndim != 2:
        raise PublishedError(f"{key} is missing or is no matrix")
    return state[key].shape


def _conv(i: int) -> str:
    """Prefix of the convolution of block i (from 0): the first block begins with the mask."""
    return "block1.1." if i == 0 else f"block{i + 1}.0."


def _norm(i: int, order: int) -> str:
    return ("block1.2." if i == 0 else f"block{i + 1}.1.") + f"batch_norm_[{order}]."


def _renamed(network: Equivariant_Network) -> dict[str, str]:
    """Key in the original's file -> key of ours, for everything that was learnt."""
    names = {}
    order = network.head.group
    for i, block in enumerate(network.blocks):
        names[_conv(i) + "weights"] = f"blocks.{i}.conv.weight"
        names |= {_norm(i, order) + key: f"blocks.{i}.norm.{key}" for key in block.get_submodule("norm").state_dict()}
    for number, part in ((0, "squeeze"), (1, "norm"), (3, "classify")):
        keys = network.head.get_submodule(part).state_dict()
        names |= {f"fully_net.{number}.{key}": f"head.{part}.{key}" for key in keys}
    return names


def _derived(network: Equivariant_Network) -> dict[str, Callable[[], Tensor]]:
    """Key in the original's file -> function that computes what must stand there."""
    trivial = "irrep_0,0" if network.config["sym_group"] == "Dihyderal" else "irrep_0"
    values: dict[str, Callable[[], Tensor]] = {"block1.0.mask": lambda: network.mask.mask.view(1, 1, SIZE, SIZE)}
    for i, conv in enumerate(m for m in network.modules() if isinstance(m, SteerableConv)):
        source = trivial if i == 0 else "regular"
        expansion = f"_basisexpansion.block_expansion_('{source}', 'regular').sampled_basis"
        values[_conv(i) + expansion] = functools.partial(_sampled_basis, conv)
        values[_conv(i) + "filter"] = conv.filters
    pools = [m for m in network.modules() if isinstance(m, AntialiasedPool)]
    for number, (pool, (i, _)) in enumerate(zip(pools, ARCHITECTURES["full"].pools, strict=True), 1):
        key = f"pool{number}.filter" if number == 3 else f"pool{number}.0.filter"
        channels = ARCHITECTURES["full"].fields[i] * network.head.group
        values[key] = functools.partial(_channel_blurs, pool, channels)
    return values


def _channel_blurs(pool: AntialiasedPool, channels: int) -> Tensor:
    return _blur(pool).expand(channels, 1, -1, -1)


def _sampled_basis(conv: SteerableConv) -> Tensor:
    return conv.basis.view(len(conv.basis), *conv.shape).flatten(3)


def _blur(pool: AntialiasedPool) -> Tensor:
    """The two-dimensional Gaussian that a pooling matrix applies in its interior: (5, 5)."""
    row = pool.matrix[len(pool.matrix) // 2]
    taps = row[row > 0]
    return taps[:, None] * taps[None, :]


def _ignored(network: Equivariant_Network) -> set[str]:
    """Index ranges of e2cnn's modules, which our layout makes needless."""
    order = network.head.group
    norms = {_norm(i, order).rsplit("batch_norm", 1)[0] + f"indices_{order}" for i in range(len(network.blocks))}
    trivial = "irrep_0,0" if network.config["sym_group"] == "Dihyderal" else "irrep_0"
    ranges = {
        _conv(i) + f"_basisexpansion.{side}_indices_('{trivial if i == 0 else 'regular'}', 'regular')"
        for i in range(len(network.blocks))
        for side in ("in", "out")
    }
    return norms | ranges | {f"gpool.in_indices_{order}", f"gpool.out_indices_{order}"}


@torch.no_grad()
def _check_equal(key: str, stored: Tensor, expected: Tensor) -> None:
    if stored.shape != expected.shape:
        raise PublishedError(f"{key}: expected the shape {tuple(expected.shape)}, found {tuple(stored.shape)}")
    error = (stored - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    if not error <= TOLERANCE:
        raise PublishedError(f"{key}: does not match the weights (off by {error:.1e}): refused")
