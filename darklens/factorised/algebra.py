"""Steerable convolutions as few small products: the regular representation in irreducible ones."""

import ctypes
import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH = 8  # fields are padded to a multiple of it
FILTERS = 11  # the harmonics: three of frequency 0, then (cos, sin) twice for frequency 1 and twice for frequency 2
TILE = 2**24  # bytes of steered lanes at a time
OVERHEAD = 1000  # cost of steering and transforming a number, in products of the mixing: measured, docs/factorised.md


def padded(fields: int) -> int:
    """The least multiple of WIDTH that holds so many fields: a vector register takes that many numbers."""
    return -(-fields // WIDTH) * WIDTH


def working_precision(x: Tensor) -> torch.dtype:
    """What a convolution of x works in, which autocast decides."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def harmonics(kernels: Tensor) -> Tensor:
    """The circular harmonics that span `kernels` (..., 5, 5): (11, 5, 5) float64, angles from the mirror axis.

    The profiles f_j(r) are found as those whose harmonics lie in the span. Raises ValueError where there aren't
    three of frequency 0 and two of frequency 1 that, with those two at frequency 2, span the kernels.
    """
    size = kernels.shape[-1]
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    x, y = axis.expand(size, size), -axis[:, None].expand(size, size)
    squares, angle = x * x + y * y, torch.atan2(y, x) - math.pi / 2
    values, vectors = torch.linalg.svd(kernels.flatten(0, -3).flatten(1), full_matrices=False)[1:]
    span = vectors[values > 1e-8 * values[0]]  # (R, k*k)

    def waves(m: int) -> Tensor:
        """cos and sin on each ring of pixels, (1 or 2, rings, k*k)."""
        rings = torch.stack([(squares == r).double() for r in squares.unique() if m == 0 or r > 0])
        rings /= rings.sum((1, 2), keepdim=True).sqrt()
        both = (torch.cos(m * angle), torch.sin(m * angle))[: 1 + (m > 0)]
        return torch.stack([(rings * wave).flatten(1) for wave in both])

    def profiles(m: int) -> Tensor:
        outside = waves(m) - waves(m) @ span.T @ span
        distance, profile = torch.linalg.eigh((outside @ outside.mT).sum(0))
        return profile.T[distance < 1e-12]  # (profiles, rings)

    centre, others = profiles(0), profiles(1)
    pairs = [(others @ waves(m)).transpose(0, 1).flatten(0, 1) for m in (1, 2)]  # cos and sin of each profile
    filters = torch.cat([centre @ waves(0)[0], *pairs])  # (R, k*k)
    if size != 5 or len(centre) != 3 or len(others) != 2 or _outside(span, filters) > 1e-9:
        raise ValueError("the kernels are not spanned by 11 harmonics on 5 x 5 pixels")
    return filters.unflatten(1, (size, size))


def _outside(vectors: Tensor, span: Tensor) -> float:
    return (vectors - vectors @ torch.linalg.pinv(span) @ span).abs().max().item()


def fourier(N: int, mirrored: bool) -> tuple[Tensor, list[int]]:
    """The orthogonal transform over the group, (G, G) float64, and the frequency of each pair of its rows.

    Rows come in pairs, real and imaginary part of a number that a turn by a multiplies with exp(i k a) and a mirror
    conjugates: for D_N each frequency 0 < k < N/2 twice, frequencies 0 and N/2 as the two irreps that they split
    into. For C_N the first pair is the two real irreps, 0 and N/2.
    """
    turns = torch.arange(N, dtype=torch.float64) * 2 * math.pi / N
    cos, sin = (lambda k: torch.cos(k * turns)), (lambda k: torch.sin(k * turns))
    if not mirrored:
        rows, pairs = [cos(0) / math.sqrt(2), cos(N // 2) / math.sqrt(2)], [0]
        for k in range(1, N // 2):
            rows, pairs = [*rows, cos(k), sin(k)], [*pairs, k]
        return torch.stack(rows) * math.sqrt(2 / N), pairs
    rows, pairs = [], []
    for k in range(N // 2 + 1):
        c, s = cos(k), sin(k)
        if k in (0, N / 2):
            rows, pairs = [*rows, torch.cat((c, c)) / math.sqrt(2), torch.cat((c, -c)) / math.sqrt(2)], [*pairs, k]
        else:
            rows += [torch.cat(two) for two in ((c, c), (s, s), (-s, s), (c, -c))]
            pairs += [k, k]
    return torch.stack(rows) / math.sqrt(N), pairs


class _Slots:
    """Gives each steered number its place: (irrep, row, column) in that irrep's matrix."""

    def __init__(self, N: int, mirrored: bool):
        self.N, self.mirrored = N, mirrored
        self.used: dict[tuple[int, int], int] = {}

    def irrep(self, k: int, imaginary: bool) -> tuple[int, int]:
        """(frequency, which of the two that it splits into for a mirrored group)."""
        return (k, int(imaginary and self.mirrored and k in (0, self.N / 2)))

    def real(self, irrep: tuple[int, int], rows: int = 1) -> list[tuple]:
        column = self.used.get(irrep, 0)
        self.used[irrep] = column + 1
        return [(irrep, row, column) for row in range(rows)]

    def complex(self, k: int) -> tuple[list[tuple], int]:
        """The places of both parts of a number of frequency k, and the sign of the second."""
        k, sign = k % self.N, 1
        if 2 * k > self.N:
            k, sign = self.N - k, -1
        if self.mirrored and k not in (0, self.N / 2):
            return self.real((k, 0), rows=2), sign  # both parts share the weights: an irrep of real type
        return self.real(self.irrep(k, False)) + self.real(self.irrep(k, True)), sign


SLOTS = 2 * FILTERS  # what a pair of lanes gives


@dataclass
class Factorisation:
    """How the kernels of one group factorise.

    filters: (11, 5, 5); transform: (G, G); signs: (G/2, 2, 2) of the imaginary parts, per frequency m and product;
    raw: (G/2,) whether the two lanes of a pair are irreps of their own; slots: SLOTS places per pair of lanes;
    lanes: G places; irreps: {(frequency, which): (rows, columns per input field, columns per output field)};
    mixing: (b, sum over irreps of columns in x out), which maps coefficients of the basis to entries.
    """

    filters: Tensor
    transform: Tensor
    signs: Tensor
    raw: Tensor
    slots: list
    lanes: list
    irreps: dict
    mixing: Tensor

    def __post_init__(self):
        self.key = register(self)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def order(self) -> int:
        return len(self.transform)

    @property
    def products(self) -> int:
        """Products of the mixing per pixel and pair of fields."""
        return sum(rows * wide * out for rows, wide, out in self.irreps.values())

    def __deepcopy__(self, memo: dict) -> "Factorisation":
        return self  # nothing in it changes: the layers of a network, and its copies, share it


def factorise(kernels: Tensor, N: int, mirrored: bool) -> Factorisation | None:
    """The factorisation of a basis (b, G, G_in, k, k) float64 of C_N or D_N.

    None where there is none: trivial input, kernels of another size, C_N of odd N. Raises ValueError for kernels that
    don't commute with the group.
    """
    order = (1 + mirrored) * N
    if kernels.shape[1:] != (order, order, 5, 5) or order % 2:
        return None
    filters, (transform, pairs) = harmonics(kernels), fourier(N, mirrored)
    raw = [not mirrored and k == 0 for k in pairs]
    places = _Slots(N, mirrored)
    slots, signs, products = [], torch.ones(len(pairs), 2, 2, dtype=torch.float64), []
    for pair, k in enumerate(pairs):
        pair_slots, signs[pair], table = _products(places, k, raw[pair])
        slots.append(pair_slots)
        products.append(torch.zeros(SLOTS, FILTERS, order, dtype=torch.float64))
        products[-1][:, :, 2 * pair : 2 * pair + 2] = table
    lanes = _lanes(N, mirrored, pairs)
    coefficients = kernels.flatten(3) @ torch.linalg.pinv(filters.flatten(1))  # (b, G, G, 11)
    mixing = torch.einsum("lg,bghs,kh->blsk", transform, coefficients, transform).flatten(2)  # (b, G, 11*G)
    mixing = mixing @ torch.linalg.inv(torch.cat(products).flatten(1))  # (b, G, slots)
    irreps = {}
    for irrep, width in sorted(places.used.items()):
        rows, columns = zip(*((row, column) for place, row, column in lanes if place == irrep), strict=True)
        irreps[irrep] = (1 + max(rows), width, 1 + max(columns))
    entries = _entries(mixing, lanes, [place for pair_slots in slots for place in pair_slots], irreps)
    return Factorisation(filters, transform, signs, torch.tensor(raw), slots, lanes, irreps, entries)


def _products(places: _Slots, k: int, raw: bool) -> tuple[list, Tensor, Tensor]:
    """Places, signs (2, 2) and table (SLOTS, 11, 2 lanes) of the products that a pair of frequency k gives."""
    half = places.N // 2
    slots: list[tuple] = []
    signs, table = torch.ones(2, 2, dtype=torch.float64), torch.zeros(SLOTS, FILTERS, 2, dtype=torch.float64)
    for i in range(3):
        slots += places.real((0, 0)) + places.real((half, 0)) if raw else places.complex(k)[0]
        table[2 * i, i, 0] = table[2 * i + 1, i, 1] = 1
    for j in range(4):
        m, cos, sin, slot = 1 + j // 2, 3 + 2 * j, 4 + 2 * j, 6 + 4 * j
        first, s1 = places.complex(m + k)
        second, s2 = places.complex(m + half if raw else m - k)
        slots += first + second
        signs[m - 1] = torch.tensor([s1, s2])
        rows = table[slot : slot + 4]
        if raw:  # z a and z b of real a and b
            rows[0, cos, 0], rows[1, sin, 0], rows[2, cos, 1], rows[3, sin, 1] = 1, s1, 1, s2
        else:  # z w and z conj(w)
            rows[0, cos, 0], rows[0, sin, 1], rows[1, cos, 1], rows[1, sin, 0] = 1, -1, s1, s1
            rows[2, cos, 0], rows[2, sin, 1], rows[3, sin, 0], rows[3, cos, 1] = 1, 1, s2, -s2
    return slots, signs, table


def _lanes(N: int, mirrored: bool, pairs: list[int]) -> list[tuple]:
    """The place (irrep, row, column) of each row of the transform."""
    places = _Slots(N, mirrored)
    lanes: list[tuple] = []
    for k in pairs:
        raw = not mirrored and k == 0
        lanes += places.real((0, 0)) + places.real((N // 2, 0)) if raw else places.complex(k)[0]
    return lanes


def _entries(mixing: Tensor, lanes: list, slots: list, irreps: dict) -> Tensor:
    """The independent entries of the block-diagonal `mixing` (b, G, slots), (b, sum of columns in x out)."""
    blocks = {irrep: mixing.new_zeros(len(mixing), wide, out) for irrep, (_, wide, out) in irreps.items()}
    for lane, (irrep, row, column) in enumerate(lanes):
        for slot, place in enumerate(slots):
            if place[:2] == (irrep, row) and row == 0:
                blocks[irrep][:, place[2], column] = mixing[:, lane, slot]
    rebuilt = torch.zeros_like(mixing)
    for lane, (irrep, row, column) in enumerate(lanes):
        for slot, place in enumerate(slots):
            if place[:2] == (irrep, row):
                rebuilt[:, lane, slot] = blocks[irrep][:, place[2], column]
    if (rebuilt - mixing).abs().max() > 1e-9 * mixing.abs().max():
        raise ValueError("the kernels do not commute with the group")
    return torch.cat([block.flatten(1) for block in blocks.values()], 1)


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n", "y0", "y1", "width", "rows", "columns", "fields", "pairs")]


def blocks(weight: Tensor, mixing: Tensor, plan: Factorisation) -> list[Tensor]:
    """The matrix of each irrep, (columns in * padded fields in, columns out * padded fields out), from the
    coefficients (F_out, F_in, b). Differentiable."""
    fields_out, fields_in, b = weight.shape
    entries = (weight.reshape(-1, b) @ mixing).view(fields_out, fields_in, -1)
    margins = (0, padded(fields_out) - fields_out, 0, 0, 0, padded(fields_in) - fields_in)
    shapes = [(wide, out) for _, wide, out in plan.irreps.values()]
    pieces = entries.split([wide * out for wide, out in shapes], 2)
    # (F_out, F_in, wide * out) -> (wide, F_in, out, F_out)
    pieces = [piece.unflatten(2, shape).permute(2, 1, 3, 0) for piece, shape in zip(pieces, shapes, strict=True)]
    return [F.pad(piece, margins).flatten(2).flatten(0, 1) for piece in pieces]


PLANS: dict[str, Factorisation] = {}  # by key


def register(plan: Factorisation) -> str:
    """A key for the plan, by which PyTorch operators refer to it: the same for plans that are the same."""
    digest = hashlib.sha256()
    for part in (plan.filters, plan.transform, plan.mixing, plan.signs):
        digest.update(part.contiguous().numpy().tobytes())
    key = digest.hexdigest()[:20]
    PLANS.setdefault(key, plan)
    return key
