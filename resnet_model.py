"""ResNet-18, the baseline: `python resnet_model.py` prints its layers.

network = build_resnet({"channels": 1, "classes": 3, "size": 129})     # images (B, 1, 129, 129) -> logits (B, 3)
"""

from darklens.networks.resnet import build_resnet

__all__ = ["build_resnet"]

if __name__ == "__main__":
    network = build_resnet({"channels": 1, "classes": 3, "size": 129})
    print(network)
    print(f"{sum(p.numel() for p in network.parameters() if p.requires_grad):,} trainable parameters")
