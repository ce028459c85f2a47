"""Training that begins with the weights of a trained network: what is taken over, and what these data change."""

import dataclasses

from darklens.classifier import saved
from darklens.classifier.classifier import Classifier
from darklens.data.folder import LensFolder
from darklens.data.provenance import simulation_of
from darklens.data.transforms import Preprocess
from darklens.errors import UsageError
from darklens.fit.assumptions import smooth_model
from darklens.storage.training_config import NETWORK_SETTINGS, TrainingConfig


def with_weights(config: TrainingConfig) -> tuple[Classifier, TrainingConfig]:
    """The network of `--weights`, and the settings with its kind, group, architecture, head, view and window.

    Raises UsageError where a setting that was given contradicts it, CheckpointError where it cannot be read.
    """
    trained = saved.load_model(saved.find_weights(config.weights))
    network = trained.config
    adopted = {"use_CNN": trained.kind == "resnet", "view": trained.preprocess.view, "crop": trained.preprocess.crop}
    adopted |= {name: network[name] for name in NETWORK_SETTINGS if name in network}
    if (config.view, trained.preprocess.view) == ("flexible", "residual"):
        adopted["view"] = "flexible"  # a residual, too
    for name in sorted(config.explicit & adopted.keys()):
        if getattr(config, name) != adopted[name]:
            raise UsageError(
                f"--{name} {getattr(config, name)} contradicts --weights {config.weights}, which has "
                f"{adopted[name]}: leave --{name} out"
            )
    return trained, config.replace(**adopted)


def adopted_preprocess(trained: Classifier, folder: LensFolder, name: str, view: str) -> Preprocess:
    """That of the weights, called `name`, with the view that `with_weights` settled; its smooth lens is that of the
    data set's recipe where one is known.

    Raises UsageError for images that the network cannot take.
    """
    preprocess, channels = trained.preprocess, trained.channels
    if folder.channels != channels:
        data_channels = f"those in {folder.root}: {folder.channels}"
        raise UsageError(f"--weights {name} takes images of {channels} channels; {data_channels}")
    if folder.size < preprocess.window:
        raise UsageError(
            f"--weights {name} looks at {preprocess.window} pixels a side; the images in {folder.root} have "
            f"{folder.size}"
        )
    recipe = simulation_of(folder) if preprocess.smooth_model else None
    model = preprocess.smooth_model
    if recipe and model:
        model = dataclasses.replace(smooth_model(recipe), window=preprocess.crop, source=model.source)
    if model and view == "flexible":
        model = dataclasses.replace(model, source="flexible")
    return dataclasses.replace(preprocess, view=view, smooth_model=model)


def describe(name: str, trained: Classifier, preprocess: Preprocess, last_layer: str) -> str:
    """One line of what was taken over from the weights called `name`. last_layer: as `saved.start_from` says."""
    classes = ", ".join(trained.classes)
    layers = {
        "kept": "all layers",
        "reordered": f"all layers, the last in the order of these classes (there {classes})",
        "new": f"all layers but the last, which is new (its classes were {classes})",
    }
    parts = [f"weights {name}: {layers[last_layer]}"]
    if preprocess.smooth_model and trained.preprocess.smooth_model:
        same_model = preprocess.smooth_model == trained.preprocess.smooth_model
        parts.append("its own smooth lens" if same_model else "the smooth lens of the data set's recipe")
        scale, trained_scale = preprocess.smooth_model.pixel_scale, trained.preprocess.smooth_model.pixel_scale
        parts.append(
            f'pixels of {scale:g}"' + (f', it was trained on {trained_scale:g}"' if scale != trained_scale else "")
        )
    return "; ".join(parts)
