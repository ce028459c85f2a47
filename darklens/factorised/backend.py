"""The one place that decides how a steerable convolution is computed: dense, in C++ on a CPU, or by Triton on a GPU."""

from torch import Tensor

from darklens.factorised import cpu, triton
from darklens.factorised.algebra import OVERHEAD, Factorisation, padded

CHOICES = ("auto", "dense", "factorised")  # of `--conv`
DENSE, LOOPS, KERNELS = "dense", "C++ loops", "Triton kernels"  # the algorithms


def choose(choice: str, plan: Factorisation | None, fields: tuple[int, int], x: Tensor) -> str:
    """The algorithm of a layer from fields[0] to fields[1] regular fields for inputs like x: DENSE, LOOPS or KERNELS.

    choice: "auto": on a CPU whatever is expected to be `faster`, on a GPU the dense layer, since nobody has measured
    Triton's kernels yet; "factorised": without the filter bank wherever that is possible; "dense". plan: how the layer
    factorises, None where it doesn't. x: an input, or the weights where there is none yet.
    """
    if plan is None or choice == "dense":
        return DENSE
    if (choice == "factorised" or faster(plan, *fields)) and cpu.possible(x):
        return LOOPS
    return KERNELS if choice == "factorised" and triton.possible(x, plan) else DENSE


def faster(plan: Factorisation, fields_in: int, fields_out: int) -> bool:
    """Whether the C++ loops are expected to take less time than the dense layer: products per number read.

    It depends on neither batch nor image, so that a network adds in the same order whatever it is given.
    """
    dense = plan.filters[0].numel() * plan.order * fields_out
    mixing = 1.5 * plan.products / plan.order * padded(fields_out)  # small matrices: two thirds of the rate
    return dense * fields_in > 1.1 * (mixing + OVERHEAD) * padded(fields_in)
