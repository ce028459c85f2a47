"""Training that begins with the weights of a trained network: what is taken over, and what these data change."""

import dataclasses
from argparse import Namespace

from darklens.classifier import saved
from darklens.classifier.classifier import Classifier
from darklens.commands import flags
from darklens.data.folder import LensFolder
from darklens.data.provenance import simulation_of
from darklens.data.transforms import Preprocess
from darklens.errors import UsageError
from darklens.fit.assumptions import smooth_model


def begin_with(settings: Namespace, given: set[str]) -> Classifier:
    """The network of `--weights`; the settings get its kind, group, architecture, head, view and window.

    Raises UsageError where a flag contradicts it, CheckpointError where it cannot be read.
    """
    trained = saved.load_model(saved.find_weights(settings.weights))
    config, seen = trained.network.config, trained.preprocess
    known = {"use_CNN": trained.kind == "resnet", "view": seen.view, "crop": seen.crop}
    known |= {name: config[name] for name in flags.NETWORK_FLAGS if name in config}
    for name in sorted(given & known.keys()):
        if getattr(settings, name) != known[name]:
            raise UsageError(
                f"--{name} {getattr(settings, name)} contradicts --weights {settings.weights}, which has "
                f"{known[name]}: leave --{name} out"
            )
    vars(settings).update(known)
    return trained


def adopted_preprocess(trained: Classifier, data: LensFolder, name: str) -> Preprocess:
    """That of the weights, called `name`; its smooth lens is that of the data set's recipe where one is known.

    Raises UsageError for images that the network cannot take.
    """
    seen, channels = trained.preprocess, trained.channels
    if data.channels != channels:
        raise UsageError(f"--weights {name} takes images of {channels} channels; those in {data.root}: {data.channels}")
    if data.size < seen.window:
        raise UsageError(
            f"--weights {name} looks at {seen.window} pixels a side; the images in {data.root} have {data.size}"
        )
    recipe = simulation_of(data) if seen.smooth_model else None
    lens = dataclasses.replace(smooth_model(recipe), window=seen.crop) if recipe else seen.smooth_model
    return dataclasses.replace(seen, smooth_model=lens)


def describe(name: str, trained: Classifier, preprocess: Preprocess, last_layer: str) -> str:
    """One line of what was taken over. last_layer: as `saved.start_from` says."""
    there = ", ".join(trained.classes)
    found = {
        "kept": "all layers",
        "reordered": f"all layers, the last in the order of these classes (there {there})",
        "new": f"all layers but the last, which is new (its classes were {there})",
    }
    parts = [f"weights {name}: {found[last_layer]}"]
    if preprocess.smooth_model:
        own, scale = (
            preprocess.smooth_model == trained.preprocess.smooth_model,
            trained.preprocess.smooth_model.pixel_scale,
        )
        parts.append("its own smooth lens" if own else "the smooth lens of the data set's recipe")
        now = preprocess.smooth_model.pixel_scale
        parts.append(f'pixels of {now:g}"' + (f', it was trained on {scale:g}"' if now != scale else ""))
    return "; ".join(parts)
