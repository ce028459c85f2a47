"""The parts of a run: device, precision, recipe, data, network.

data = dataset.scan("images_f")
device = choose_device()
classifier = new_classifier(data, {"sym_group": "Dihyderal", "N": 8}, device)
batches = open_batches(data, ("train", "val"), classifier.preprocess, 64, device)
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from classifier import NETWORKS, Classifier, load_model
from dataset import Batches, LensFolder, Preprocess, default_preprocess
from flags import UsageError
from model import set_convolution
from trainer import BASELINE_RECIPES, RECIPES, Recipe

PRETRAINED = Path(__file__).resolve().parent / "pretrained"  # networks that come with the program


def choose_device(use_cuda: bool = True, index: int = 0, asked: bool = False) -> torch.device:
    """The GPU of that index, or the CPU; where there is no GPU, with a warning if it was asked for.

    Raises UsageError for an index that no GPU has.
    """
    if not use_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if asked:
            print("warning: --use_cuda True, but there is no GPU that PyTorch can use: on the CPU", file=sys.stderr)
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if index >= count:
        names = ", ".join(f"{i}: {torch.cuda.get_device_name(i)}" for i in range(count))
        raise UsageError(f"--cuda_idx {index}: there are only the GPUs {names}")
    return torch.device("cuda", index)


def choose_precision(asked: str | None, device: torch.device) -> str:
    """What was asked for, else bf16 where the hardware computes in it."""
    if asked:
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() else "fp32"


def choose_recipe(name: str, cnn: bool = False, **changes: float | None) -> Recipe:
    """The recipe of that name, for ResNet-18 if `cnn`, changed in the fields that are given and not None."""
    changes = {key: value for key, value in changes.items() if value is not None}
    return replace((BASELINE_RECIPES if cnn else RECIPES)[name], **changes)


def choose_preprocess(data: LensFolder, crop: int | None = None) -> Preprocess:
    """The usual one for these images, with a window of `crop` pixels if that is given.

    Raises UsageError if the images are smaller.
    """
    if crop and crop > data.size:
        raise UsageError(f"--crop {crop}: the images in {data.root} have {data.size} pixels a side")
    usual = default_preprocess(data.size)
    return replace(usual, crop=crop or usual.crop)


def open_batches(
    data: LensFolder,
    splits: tuple[str, ...],
    preprocess: Preprocess,
    batch_size: int,
    device: str | torch.device = "cpu",
    **options,
) -> dict[str, Batches]:
    """The batches of those of the folder's splits that are asked for; options as `Batches` takes them.

    Raises DataError for a bad image.
    """
    return {
        name: Batches(split, data, preprocess, batch_size, device, train=name == "train", **options)
        for name, split in data.splits.items()
        if name in splits
    }


def new_classifier(
    data: LensFolder,
    config: dict,
    device: str | torch.device = "cpu",
    cnn: bool = False,
    preprocess: Preprocess | None = None,
    conv: str = "auto",
) -> Classifier:
    """An untrained network for these images: ResNet-18 if `cnn`, else equivariant, as `config` says.

    conv: how its steerable layers compute, see `set_convolution`. Raises UsageError for a network that does not fit
    the images.
    """
    preprocess = preprocess or default_preprocess(data.size)
    config = {"channels": data.channels, "classes": len(data.classes), "size": preprocess.crop} | config
    try:
        network = NETWORKS["resnet" if cnn else "equivariant"](config)
    except ValueError as error:
        raise UsageError(f"{error} (images of {data.size} x {data.size} pixels)") from error
    set_convolution(network, conv)
    return Classifier(network.to(device, memory_format=torch.channels_last), list(data.classes), preprocess)


def find_weights(name: str) -> Path:
    """The network of that name that comes with the program, or the checkpoint that it is the path of.

    Raises UsageError where there is neither.
    """
    found = [path for path in (PRETRAINED / f"{name}.pt", Path(name)) if path.is_file()]
    if not found:
        names = ", ".join(sorted(path.stem for path in PRETRAINED.glob("*.pt"))) or "none"
        raise UsageError(f"--weights {name}: expected a checkpoint, or a network that comes with the program: {names}")
    return found[0]


def start_from(classifier: Classifier, path: Path) -> None:
    """Give a new network the weights and statistics of a trained one.

    Raises UsageError if they are different networks, CheckpointError if the file cannot be read.
    """
    trained = load_model(path)
    here, there = classifier.network.config, trained.network.config
    if classifier.kind != trained.kind or here != there:
        known = ", ".join(f"{key} {value}" for key, value in there.items())
        raise UsageError(f"--weights {path}: expected the network that is to be trained, found {trained.kind}: {known}")
    classifier.network.load_state_dict(trained.network.state_dict())
