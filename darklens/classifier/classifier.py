"""A trained network with all that is needed to use it again: classes, preprocessing, temperature, record.

classifier = load_model("images_f_D_8/2026-11-22-10-30-00/best-model-parameters.pt")
probabilities = classifier.predict(images)      # images: (n, H, W), counts or any positive multiple of them
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from darklens.classifier.classify import ImageOptions, PerImage, Sides, classify_images, classify_residuals
from darklens.classifier.exposure import OutlierDetector
from darklens.classifier.features import FeatureHooks
from darklens.classifier.novelty import Novelty, describe
from darklens.classifier.posterior import Inference
from darklens.classifier.predictions import Predictor, as_table, columns_of
from darklens.data.arrays import Images, prepare
from darklens.data.transforms import Preprocess
from darklens.errors import DataError, UsageError
from darklens.fit import Fit
from darklens.machine import autocast
from darklens.metrics.posterior import Posterior
from darklens.networks.equivariant import Equivariant_Network, FoldedNetwork
from darklens.storage.run_record import RunRecord

PUBLISHED_SCALE = 0.05  # arcsec a pixel of Models F and J, which the original's networks were trained on


@dataclass
class Classifier:
    """network: (B, C, crop, crop) preprocessed images -> logits (B, len(classes)).

    temperature: of the calibrated probabilities; record: how it was trained; novelty: what tells images unlike the
    training data; inference: the posterior of how much dark matter there is; outliers: what tells images whose class is
    not to be trusted. None where unknown. structured: the network that answers for images whose sources have structure
    (`with_structured`); no part of a checkpoint.
    """

    network: nn.Module
    classes: list[str]
    preprocess: Preprocess
    temperature: float | None = None
    record: RunRecord = field(default_factory=RunRecord)
    epoch: int | None = None
    novelty: Novelty | None = None
    inference: Inference | None = None
    outliers: OutlierDetector | None = None
    structured: "Classifier | None" = None

    def with_structured(self, other: "Classifier") -> "Classifier":
        """This network, and another that answers where the source of an image has structure.

        An image whose fit is flagged and leaves more than noise is fitted again with a flexible source, in seconds;
        where that describes it, class, probabilities and the lens's columns are of that fit and of `other`, and
        `log_bayes_factor` has a number. Raises UsageError unless `other` sees residuals of a flexible source, and
        both the same classes, pixel scale and window, of a Sersic source's residuals in this one.
        """
        views = self.preprocess.view, other.preprocess.view
        if views != ("residual", "flexible"):
            raise UsageError(f"expected networks of the views residual and flexible, found {', '.join(views)}")
        kinds = [(each.classes, each.pixel_scale, each.preprocess.window) for each in (self, other)]
        if kinds[0] != kinds[1]:
            raise UsageError("the network for sources with structure has other classes, pixels or another window")
        return dataclasses.replace(self, structured=other)

    @property
    def kind(self) -> str:
        return "equivariant" if isinstance(self.network, Equivariant_Network) else "resnet"

    @property
    def config(self) -> dict:
        """The arguments that build its network again."""
        return cast(dict, self.network.config)

    @property
    def channels(self) -> int:
        """Channels of the images that it takes; its network may see others of them."""
        return self.config["channels"] if self.preprocess.view == "image" else 1

    @property
    def pixel_scale(self) -> float | None:
        """Arcsec a pixel of the images that it was trained on; None where that isn't known."""
        if self.preprocess.smooth_model is not None or self.preprocess.stretch == "original":
            return self.preprocess.smooth_model.pixel_scale if self.preprocess.smooth_model else PUBLISHED_SCALE
        scale = ((self.record.simulation or {}).get("image") or {}).get("pixel_scale")
        return scale if isinstance(scale, float) and 0 < scale < math.inf else None

    def predict(self, images: Images, batch_size: int = 64, precision: str = "fp32") -> np.ndarray:
        """Class probabilities (n, K) of raw images, each axis cropped about its own centre.

        images: (n, H, W), (n, C, H, W), (n, H, W, C) or (H, W), or a list of images of any size; as for those in files,
        a border of NaN is filled, and what lies outside of the network's window passed over (`make_picture`).
        Calibrated where the checkpoint holds a temperature. Raises DataError for images that are smaller than the
        window, have other channels, or NaN or infinity in it; it names them by their number, from 0.
        """
        run = evaluator(self.network, next(self.network.parameters()).device, precision)
        batches = prepare(images, self.channels, self.preprocess.window, batch_size)
        logits = [run(self.preprocess(batch)) for batch in batches] or [torch.empty(0, len(self.classes))]
        return torch.softmax(torch.cat(logits) / (self.temperature or 1.0), 1).cpu().numpy()

    @property
    def columns(self) -> list[str]:
        """The columns of `classify`."""
        return self.columns_with("sersic")

    def columns_with(self, source: str) -> list[str]:
        """The columns of `classify` with this source."""
        model, outliers = self.preprocess.smooth_model, self.outliers is not None
        source = "flexible" if self.structured else source
        return columns_of(self.classes, model, self.inference, outliers=outliers, source=source)

    def predictor(self, precision: str = "fp32", device: str | torch.device | None = None) -> Predictor:
        """The network at work, from views to predictions. device: None: where the network is."""
        hooks = FeatureHooks() if self.inference else None
        observe = self.observer(precision, device, hooks)
        scores = self.novelty, self.inference, hooks, self.outliers
        return Predictor(observe, self.classes, self.temperature, *scores)

    def predictors(self, precision: str = "fp32", device: str | torch.device | None = None) -> dict[str, Predictor]:
        """Those of this network and of `structured`, by the source of the fits that each sees."""
        each = {"sersic": self.predictor(precision, device)}
        return each | ({"flexible": self.structured.predictor(precision, device)} if self.structured else {})

    def classify(
        self,
        images: Images,
        *,
        noise: PerImage = None,
        mask: PerImage = None,
        psf: PerImage = None,
        source: str = "sersic",
        batch_size: int = 64,
        precision: str = "fp32",
    ) -> dict[str, np.ndarray]:
        """The table that Predict writes, as columns (n,): class, probabilities, novelty, the smooth lens, flag.

        Parameters
        ----------
        images : as for `predict`.
        noise : (n, H, W) or (H, W), standard deviation of each pixel in the images' unit; not above 0, or not finite:
            the pixel has no weight. None: measured in the image.
        mask : (n, H, W) or (H, W), True where a pixel does not count.
        psf : (n, k, k) or (k, k), the kernel at the images' pixel scale. None: that of the training images.
        source : "flexible" has the column `log_bayes_factor`, of a fit with a flexible source, in seconds a lens; of
            all images, where `with_structured` has it of those that need it.

        Each of the first three may be a list of arrays, one an image. Raises DataError for what doesn't fit the images,
        UsageError for one of the four with a network that sees images, not fits.
        """
        predictors, sides = self.predictors(precision), Sides(noise, mask, psf)
        structured = self.structured.preprocess if self.structured else None
        options = ImageOptions(self.preprocess, self.channels, batch_size, source, structured)
        return as_table(classify_images(predictors, images, sides, options), self.columns_with(source))

    def classify_residual(
        self, residual: np.ndarray | Tensor | Fit, batch_size: int = 64, precision: str = "fp32"
    ) -> dict[str, np.ndarray]:
        """As `classify`, of what your own fit of a smooth lens left: (n, H, W) in standard deviations of the noise.

        residual: at the network's pixel scale, the lens in the middle, 0 where a pixel does not count; or the result of
        `darklens.fit`, which fills the columns of the smooth lens too. Raises DataError for another shape or NaN,
        UsageError for a network that does not see residuals alone.
        """
        predictor = self.predictor(precision)
        return as_table(classify_residuals(predictor, self.preprocess, residual, batch_size), self.columns)

    def infer(self, images: Images, batch_size: int = 64) -> dict[str, dict[str, Posterior]]:
        """How much dark matter: class -> quantity -> posterior of n lenses, given that they are of that class.

        images: as for `predict`. Raises UsageError where the network has no posterior (train it with `--infer`),
        DataError as `predict`.
        """
        if self.inference is None:
            raise UsageError("this network has no posterior of the dark matter: train one with --infer, see docs")
        hooks, features, fits = FeatureHooks(), [], []
        run = self.observer(hooks=hooks)
        for batch in prepare(images, self.channels, self.preprocess.window, batch_size):
            view, fit = self.preprocess.with_fit(batch)
            run(view)
            features.append(hooks.take())
            fits.append(fit.table())
        if not features:
            raise DataError("no images to infer the dark matter of")
        table = {name: np.concatenate([one[name] for one in fits]) for name in fits[0]}
        return self.inference.posteriors(torch.cat(features), table)

    def observer(
        self,
        precision: str = "fp32",
        device: str | torch.device | None = None,
        hooks: FeatureHooks | None = None,
    ) -> Callable[[Tensor], tuple[Tensor, list[Tensor]]]:
        """A function as that of `evaluator`, (B, C, S, S) -> logits (B, K) and the parts that `novelty` scores.

        Parts, float32: what the last linear layer reads (B, D), and the image's own statistics, `novelty.describe`.
        device: None: where the network is. hooks: keep the features of each call, for `inference`.
        """
        device = device or next(self.network.parameters()).device
        frozen, caught = _frozen(self.network).to(device), []
        if hooks and isinstance(frozen, FoldedNetwork):
            hooks.attach(frozen)
        last_linear(frozen).register_forward_pre_hook(lambda layer, inputs: caught.append(inputs[0].float()))
        run = _runner(frozen, device, precision)

        @torch.inference_mode()
        def observe(images: Tensor) -> tuple[Tensor, list[Tensor]]:
            images = images.to(device)
            return run(images), [caught.pop(), describe(images)]

        return observe


def evaluator(network: nn.Module, device: str | torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    """A function (B, C, S, S) -> logits (B, K) of the network as it is now, in evaluation mode, at full speed.

    An equivariant network has its batch norms folded into its filters; `network` itself is left as it was.
    """
    return _runner(_frozen(network), device, precision)


@torch.no_grad()
def _frozen(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode, folded into plain convolutions where the network can be."""
    return network.folded() if isinstance(network, Equivariant_Network) else copy.deepcopy(network).eval()


def _runner(frozen: nn.Module, device: str | torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with autocast(device, precision):
            return frozen(images.to(device, memory_format=torch.channels_last)).float()

    return run


def last_linear(network: nn.Module) -> nn.Linear:
    """The layer that gives the logits, of either kind of network."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
