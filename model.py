"""The E(2)-equivariant network: `python model.py --sym_group Dihyderal --N 8` prints it and shows what it keeps.

network = build_network({"sym_group": "Dihyderal", "N": 8})            # images (B, 1, 129, 129) -> logits (B, 3)
"""

import argparse

import torch

from darklens.commands.words import any_case, whole_number
from darklens.data.transforms import default_preprocess
from darklens.networks.basis import GROUPS, Symmetry
from darklens.networks.equivariant import ARCHITECTURES, Equivariant_Network, build_network
from darklens.networks.heads import HEADS
from darklens.reports.equivariance import measure_equivariance
from darklens.simulation.recipes import RECIPES
from darklens.simulation.render import simulate

__all__ = ["ARCHITECTURES", "HEADS", "Equivariant_Network", "build_network"]


def show(network: Equivariant_Network) -> None:
    """Print the layers and the number of trainable parameters."""
    for name, layer in network.named_modules():
        if name and "." not in name.removeprefix("blocks.") and not isinstance(layer, torch.nn.ModuleList):
            count = sum(p.numel() for p in layer.parameters() if p.requires_grad)
            print(f"{name:<10} {count:>10,}  {layer.__class__.__name__}")
    print(f"{'in all':<10} {sum(p.numel() for p in network.parameters() if p.requires_grad):>10,} trainable parameters")


def show_equivariance(network: Equivariant_Network, symmetry: Symmetry) -> None:
    """Print how much the logits of a simulated lens change when it is turned or mirrored."""
    counts = torch.from_numpy(simulate(RECIPES["f"], "vort", [0]))[:, None]  # (1, 150, 150) -> (1, 1, 150, 150)
    image = default_preprocess(counts.shape[-1])(counts)
    with torch.inference_mode():
        found = measure_equivariance(network.eval(), image, symmetry)
    print("\nequivariance error: largest change of a logit, over the largest logit")
    for element in found["exact"]:
        note = "" if element["in_group"] else "   (not in the group)"
        print(f"  {element['name']:<20} {element['relative_logits']:.1e}{note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sym_group", type=any_case(tuple(GROUPS)), choices=tuple(GROUPS), default="Circular")
    parser.add_argument("--N", type=whole_number(1), default=4, help="order of the group (4)")
    parser.add_argument("--arch", choices=tuple(ARCHITECTURES), default="full")
    args = parser.parse_args()
    torch.manual_seed(0)
    network = build_network({"channels": 1, "classes": 3, "size": 129, **vars(args)})
    show(network)
    show_equivariance(network, Symmetry(args.sym_group, args.N))


if __name__ == "__main__":
    main()
