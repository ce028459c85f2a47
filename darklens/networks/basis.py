"""The one place that touches e2cnn: groups, representations and bases of steerable kernels.

e2cnn (Weiler & Cesa 2019, "General E(2)-Equivariant Steerable CNNs", arXiv:1911.08251) solves the kernel
constraint  K(gx) = rho_out(g) K(x) rho_in(g)^-1  analytically. We take its solutions, sampled in float64, as
plain tensors; no e2cnn module runs in our network. The library is no longer maintained, so `import_e2cnn`
mends the three places that newer NumPy and PyTorch broke.
"""

import math
import types
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

GROUPS = {"Circular": "C", "Dihyderal": "D"}  # the original's names (and spelling) of C_N and D_N


@dataclass(frozen=True)
class Symmetry:
    """The point group C_N ("Circular": N turns) or D_N ("Dihyderal": N turns, each with and without a mirror).

    Raises ValueError for a group name that is not in `GROUPS` or an order N below 1.
    """

    group: str
    N: int

    def __post_init__(self):
        if self.group not in GROUPS:
            raise ValueError(f"unknown symmetry group {self.group!r}: expected one of {', '.join(GROUPS)}")
        if isinstance(self.N, bool) or not isinstance(self.N, int) or self.N < 1:
            raise ValueError(f"the order N of the group must be a whole number of at least 1, found {self.N!r}")

    @property
    def mirrored(self) -> bool:
        return self.group == "Dihyderal"

    @property
    def order(self) -> int:
        """Number of group elements, which is the size of the regular representation."""
        return 2 * self.N if self.mirrored else self.N

    @property
    def name(self) -> str:
        return f"{GROUPS[self.group]}{self.N}"

    def exact_elements(self) -> list[tuple[bool, int]]:
        """Elements that map the square pixel grid onto itself, as (mirrored left-right, quarter turns).

        C_N and D_N share the turns by multiples of 360/gcd(N, 4) degrees with the grid: all four quarter turns
        where N is a multiple of 4, half turns where N is only even, none where N is odd.
        """
        step = 4 // math.gcd(self.N, 4)
        mirrors = (False, True) if self.mirrored else (False,)
        return [(mirror, turns) for mirror in mirrors for turns in range(0, 4, step)]


@dataclass(frozen=True)
class SteerableBasis:
    """A sampled basis of the kernels from one field to one regular field.

    kernels: (b, G, G_in, k, k) float64; G_in = 1 for the trivial representation.
    he_std: (b,) standard deviation of each coefficient under the generalised He initialisation for one input
    field (Weiler & Cesa 2018, arXiv:1711.07289, section 3.3; e2cnn.nn.init); divide by sqrt(input fields).
    """

    kernels: torch.Tensor
    he_std: torch.Tensor


def steerable_basis(symmetry: Symmetry, representation: str, kernel_size: int) -> SteerableBasis:
    """Basis of the steerable kernels (representation -> regular) on an odd k x k grid, with e2cnn's default rings,
    widths and frequency cut-off, in e2cnn's order and normalisation."""
    gspace = build_gspace(symmetry)
    source = {"trivial": gspace.trivial_repr, "regular": gspace.regular_repr}[representation]
    from e2cnn.nn.modules.r2_conv.basisexpansion_singleblock import normalize_basis
    from e2cnn.nn.modules.r2_conv.r2convolution import compute_basis_params

    points, keep, rings, sigma, cutoff = compute_basis_params(kernel_size)
    basis = gspace.build_kernel_basis(
        source, gspace.regular_repr, rings=rings, sigma=sigma, maximum_frequency=cutoff, maximum_offset=None
    )
    resolved = np.array([keep(attribute) for attribute in basis])  # on this grid
    attributes = [attribute for attribute, used in zip(basis, resolved, strict=True) if used]
    # (G, G_in, b, k*k) -> (b, G, G_in, k*k)
    kernels = torch.from_numpy(basis.sample_masked(points, mask=resolved)).permute(2, 0, 1, 3).contiguous()
    kernels = normalize_basis(kernels, torch.tensor([float(a["shape"][0]) for a in attributes], dtype=kernels.dtype))
    visible = kernels.square().flatten(1).sum(1) > 1e-2  # e2cnn drops elements that vanish on the grid
    attributes = [attribute for attribute, shows in zip(attributes, visible.tolist(), strict=True) if shows]
    return SteerableBasis(kernels[visible].unflatten(-1, (kernel_size, kernel_size)), _he_std(attributes))


def _he_std(attributes: list[dict]) -> torch.Tensor:
    """1 / sqrt(irreps that reach an output irrep x coefficients of this input irrep there), per basis element."""
    reached: dict[int, set] = {}
    counts: dict[tuple, int] = {}
    for a in attributes:
        reached.setdefault(a["out_irrep_idx"], set()).add(a["in_irrep"])
        pair = a["in_irrep"], a["out_irrep_idx"]
        counts[pair] = counts.get(pair, 0) + 1
    variances = [len(reached[a["out_irrep_idx"]]) * counts[a["in_irrep"], a["out_irrep_idx"]] for a in attributes]
    return torch.tensor(variances, dtype=torch.float64).rsqrt()


def regular_permutation(symmetry: Symmetry, mirror: bool, turns: int) -> torch.Tensor:
    """How an exact element acts on the channels of a regular field: (G,) indices p with (rho(g) f)[i] = f[p[i]]."""
    group = build_gspace(symmetry).fibergroup
    shift = turns * symmetry.N // 4
    element = (int(mirror), shift) if symmetry.mirrored and symmetry.N > 1 else int(mirror) or shift
    return torch.from_numpy(np.asarray(group.regular_representation(element)).argmax(1))


def build_gspace(symmetry: Symmetry) -> Any:  # an e2cnn.gspaces.GSpace
    """The e2cnn space on which the group acts (N = 1 has classes of its own there)."""
    gspaces = import_e2cnn().gspaces
    if symmetry.N == 1:
        return gspaces.Flip2dOnR2() if symmetry.mirrored else gspaces.TrivialOnR2()
    return gspaces.FlipRot2dOnR2(symmetry.N) if symmetry.mirrored else gspaces.Rot2dOnR2(symmetry.N)


class _Mended(types.ModuleType):
    """A module that answers some names with something else."""

    def __init__(self, module: types.ModuleType, **replaced):
        super().__init__(module.__name__)
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


def _old_array(values, *args, copy=True, **options):
    """np.array as before NumPy 2, where copy=False meant "only if needed"."""
    return np.array(values, *args, **options) if copy else np.asarray(values, *args, **options)


def import_e2cnn() -> types.ModuleType:
    """e2cnn, mended for NumPy 2 (`np.array(copy=False)`, `.tostring()`) and torch >= 2.13 (uint8 masks)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import e2cnn
        import e2cnn.kernels.irreps_basis as irreps_basis
        import e2cnn.kernels.utils as kernel_utils
        import e2cnn.nn.modules.r2_conv.basisexpansion_singleblock as singleblock

    kernel_utils.np = _Mended(np, array=_old_array)
    singleblock.np, singleblock.torch = _Mended(np, uint8=np.bool_), _Mended(torch, uint8=torch.bool)
    for name in ("R2Flips", "R2ContinuousRotations", "R2FlipsDiscreteRotations", "R2FlipsContinuousRotations"):
        getattr(irreps_basis, name + "Solution").__hash__ = _hash_solution
    return e2cnn


def _hash_solution(solution) -> int:
    return hash((solution.in_irrep, solution.out_irrep, solution.mu.tobytes(), np.asarray(solution.gamma).tobytes()))
