"""ResNet-18, the baseline to beat (He et al. 2015, arXiv:1512.03385), from torchvision."""

from torch import nn

SMALLEST = 33  # pixels: below, the last map of a lone image has no spread for its batch norm


def build_resnet(config: dict) -> nn.Module:
    """An untrained ResNet-18 for config["channels"] input channels and config["classes"] classes.

    (B, channels, H, W) -> logits (B, classes). Its parameters have torchvision's names. Raises ValueError for images
    too small for its five subsamplings.
    """
    from torchvision.models import resnet18

    if config["size"] < SMALLEST:
        raise ValueError(f"ResNet-18 needs images of at least {SMALLEST} x {SMALLEST} pixels, found {config['size']}")
    network = resnet18(weights=None, num_classes=config["classes"])
    network.conv1 = nn.Conv2d(config["channels"], 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.config = dict(config)
    return network
