"""Tables that steering by Triton reads: which harmonics make which filter."""

import functools
import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from darklens.factorised.algebra import PLANS, Factorisation

INSTALLED = importlib.util.find_spec("triton") is not None
TYPES = (torch.bfloat16, torch.float32)
TILE = (8, 8)  # rows and columns of pixels that a program works on


@dataclass(frozen=True)
class Unit:
    """Steered numbers that are made alike, two harmonics' (three of frequency 0), for one row of one irrep.

    number = signs[0] * cos harmonic of lanes[0] + signs[1] * sin harmonic of lanes[1]; frequency 0: of lanes[0].
    places: (irrep, row, column) of each.
    """

    order: int
    places: tuple
    lanes: tuple[int, int]
    signs: tuple[float, float]

    @property
    def program(self) -> tuple:
        """The irrep and its row."""
        return self.places[0][:2]

    def terms(self, number: int) -> list[tuple[int, int, float]]:
        """What the number of that index is made of: (harmonic, lane, factor)."""
        if not self.order:
            return [(number, self.lanes[0], 1.0)]
        cos = 4 * self.order - 1 + 2 * number
        return [(cos, self.lanes[0], self.signs[0]), (cos + 1, self.lanes[1], self.signs[1])]


def units(plan: Factorisation) -> list[Unit]:
    """All that a plan steers, by frequency, irrep and row."""
    steered = []
    for p, places in enumerate(plan.slots):
        w, u = 2 * p, 2 * p + 1
        steered += [Unit(0, tuple(places[lane:6:2]), (w + lane, w + lane), (1.0, 0.0)) for lane in range(2)]
        for m in (1, 2):
            s1, s2 = plan.signs[p, m - 1].tolist()
            products = [((w, u), (1.0, -1.0)), ((u, w), (s1, s1)), ((w, u), (1.0, 1.0)), ((u, w), (-s2, s2))]
            if plan.raw[p]:
                products = [((w, w), (1.0, 0.0)), ((w, w), (0.0, s1)), ((u, u), (1.0, 0.0)), ((u, u), (0.0, s2))]
            first = 8 * m - 2
            steered += [Unit(m, tuple(places[first + q : first + 8 : 4]), *products[q]) for q in range(4)]
    return sorted(steered, key=lambda unit: (unit.order, unit.program))


@dataclass(frozen=True)
class Tables:
    """A plan as the kernels read it.

    units: (U, 8) int32: two lanes, two signs, three columns of the weights, the program; programs: (P, 16) int32:
    begin and end of its units of each frequency, the lanes of its outputs, their number; orders: begin and end of the
    units of each frequency; entries: (columns, outputs) the entry of the mixing that each number of the weights is,
    or that number's count where there is none; slots, outputs: (E, rows) where the gradient of each entry is summed
    up, -1 for none; adjoint: (E, E) what makes a layer's entries those of its adjoint; coefficients: of the harmonics.
    """

    units: Tensor
    programs: Tensor
    orders: list[tuple[int, int]]
    entries: Tensor
    slots: Tensor
    outputs: Tensor
    adjoint: Tensor
    coefficients: tuple[float, ...]
    transform: Tensor

    @property
    def order(self) -> int:
        return len(self.transform)


@functools.cache
def tables(key: str) -> Tables:
    """The tables of the plan that was registered under `key`."""
    plan = PLANS[key]
    steered, names = units(plan), [(irrep, row) for irrep, (rows, _, _) in plan.irreps.items() for row in range(rows)]
    entry, column = _numbered(plan)
    lane = {place: number for number, place in enumerate(plan.lanes)}
    orders = [_span([unit.order == m for unit in steered]) for m in range(3)]
    rows, programs = [], []
    for unit in steered:
        columns = [column[irrep, number] for irrep, _, number in unit.places]
        rows.append(
            [*unit.lanes, *map(int, unit.signs), *columns, *[0] * (3 - len(columns)), names.index(unit.program)]
        )
    for name in names:
        out = [lane[(*name, o)] for o in range(plan.irreps[name[0]][2])]
        spans = [_span([(unit.order, unit.program) == (m, name) for unit in steered]) for m in range(3)]
        programs.append([*sum(spans, ()), out[0], out[-1], len(out), *[0] * 7])
    slots = {(*unit.places[i],): 3 * u + i for u, unit in enumerate(steered) for i in range(len(unit.places))}
    sources = [[slots.get((irrep, row, c), -1) for row in range(2)] for irrep, c, _ in entry]
    return Tables(
        torch.tensor(rows, dtype=torch.int32), torch.tensor(programs, dtype=torch.int32), orders,
        _weights_table(plan, entry, column), torch.tensor(sources), torch.tensor([o for _, _, o in entry]),
        adjoint(plan, steered, entry), _coefficients(plan.filters), plan.transform,
    )  # fmt: skip


def _numbered(plan: Factorisation) -> tuple[dict, dict]:
    """Numbers of the mixing's entries (irrep, column, output), and of all columns (irrep, column)."""
    entries: dict[tuple, int] = {}
    columns: dict[tuple, int] = {}
    for irrep, (_, wide, out) in plan.irreps.items():
        for column in range(wide):
            columns[irrep, column] = len(columns)
            for output in range(out):
                entries[irrep, column, output] = len(entries)
    return entries, columns


def _span(selected: list[bool]) -> tuple[int, int]:
    """First and last + 1 of the selected units, which follow each other."""
    numbers = [number for number, chosen in enumerate(selected) if chosen]
    return (numbers[0], numbers[-1] + 1) if numbers else (0, 0)


def _weights_table(plan: Factorisation, entry: dict, column: dict) -> Tensor:
    outputs = max(out for _, _, out in plan.irreps.values())
    table = torch.full((len(column), outputs), len(entry))
    for (irrep, c, output), number in entry.items():
        table[column[irrep, c], output] = number
    return table


def adjoint(plan: Factorisation, steered: list[Unit], entry: dict) -> Tensor:
    """(E, E): entries (E,) of a kernel K(x) times this are those of its adjoint, the kernel transposed K(-x).

    In the irreps' basis a kernel is, for each lane in and out, a sum of harmonics, and one of frequency m is
    multiplied by (-1)^m.
    """
    lane = {place: number for number, place in enumerate(plan.lanes)}
    slots = [(place, unit.terms(i)) for unit in steered for i, place in enumerate(unit.places)]
    order, count = plan.order, len(plan.filters)
    table = torch.zeros(len(slots), count, order, dtype=torch.float64)
    blocks = torch.zeros(len(entry), order, len(slots), dtype=torch.float64)
    first = torch.zeros_like(blocks)  # the same, the first row of each irrep only
    for s, ((irrep, row, c), terms) in enumerate(slots):
        for harmonic, source, factor in terms:
            table[s, harmonic, source] += factor
        for output in range(plan.irreps[irrep][2]):
            number = entry[irrep, c, output]
            blocks[number, lane[irrep, row, output], s] = 1
            first[number, lane[irrep, row, output], s] = row == 0
    kernels = (blocks @ table.flatten(1)).unflatten(2, (count, order))  # (E, lanes out, harmonics, lanes in)
    parity = torch.tensor([1.0] * 3 + [-1.0] * 4 + [1.0] * 4, dtype=torch.float64)
    turned = kernels.permute(0, 3, 2, 1) * parity[:, None]
    return (turned.flatten(2) @ torch.linalg.inv(table.flatten(1))).flatten(1) @ first.flatten(1).T


def _coefficients(filters: Tensor) -> tuple[float, ...]:
    """[harmonic][row][column - 2] of the right half, flat; what is zero but for rounding is zero."""
    half = filters[:, :, 2:].flatten()
    return tuple(torch.where(half.abs() > 1e-12, half, 0.0).tolist())
