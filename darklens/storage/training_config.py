"""What a training run is asked to do: the settings that flags, Python and `run.json` all give."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darklens.errors import UsageError
from darklens.storage.setting_kinds import Choice, FilePath, Kind, Positive, Switch, Text, Whole

DEMO = {"data_dir": "images_demo", "sym_group": "Dihyderal", "N": 4, "arch": "compact", "recipe": "fast", "epochs": 5}
NETWORK_SETTINGS = ("sym_group", "N", "use_CNN", "arch", "head")  # what a checkpoint knows better
NOT_REPEATED = {"resume", "results_dir", "quiet", "demo"}  # by --config


def setting(default: Any, kind: Kind) -> Any:
    """A field of a configuration: its default, which may be None where the run decides, and what it may be."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings of a training run, each as the flag of its name (docs/flags.md).

    None: the run decides. explicit: the names of the settings that somebody gave; the others give way to what the
    network of `weights`, or the run to `resume`, has.
    """

    # data
    data_dir: str = setting("images_f", FilePath())
    num_workers: int | None = setting(None, Whole(0))
    simulate: str | None = setting(None, Text())
    epoch_images: int = setting(12_000, Whole(3, 10**9))
    demo: bool = setting(False, Switch())
    # network
    sym_group: str = setting("Circular", Choice(("Circular", "Dihyderal"), (("dihedral", "Dihyderal"),)))
    N: int = setting(4, Whole(1, 64))
    use_CNN: bool = setting(False, Switch())
    arch: str = setting("full", Choice(("full", "compact")))
    head: str | None = setting(None, Choice(("flatten", "pooled", "rings", "orbit", "lifted")))
    view: str | None = setting(None, Choice(("image", "residual", "both", "flexible")))
    crop: int | None = setting(None, Whole(29, odd=True))
    weights: str = setting("", Text())
    # training
    recipe: str = setting("original", Choice(("original", "fast"), (("seed", "original"),)))
    epochs: int | None = setting(None, Whole(1))
    batch_size: int | None = setting(None, Whole(1))
    lr: float | None = setting(None, Positive())
    average: float | None = setting(None, Positive(share=True))
    balance: bool = setting(False, Switch())
    infer: bool = setting(False, Switch())
    seed: int = setting(0, Whole(0, 2**63 - 1))
    # machine
    precision: str | None = setting(None, Choice(("fp32", "bf16")))
    use_cuda: bool = setting(True, Switch())
    cuda_idx: int = setting(0, Whole(0))
    conv: str = setting("auto", Choice(("auto", "dense", "factorised")))
    compile: bool = setting(False, Switch())
    # results
    results_dir: str = setting(".", FilePath())
    resume: str = setting("", Text())
    tensorboard: bool = setting(False, Switch())
    quiet: bool = setting(False, Switch())

    explicit: frozenset[str] = frozenset()

    @classmethod
    def of(cls, **settings: Any) -> TrainingConfig:
        """The configuration with these settings, and the usual ones for what they imply.

        Raises UsageError for a setting that there is not, a value that it cannot have, and settings that contradict
        each other.
        """
        values = check_values(settings)
        implied = DEMO if values.get("demo") else {}
        if values.get("simulate"):
            implied = implied | {"data_dir": simulated_folder(values["simulate"])}
        config = cls(**{**implied, **values}, explicit=frozenset(values))
        config._check_contradictions()
        return config

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainingConfig:
        """The configuration of a record; what it does not know is passed over. Raises UsageError for wrong values."""
        return cls(**check_values({name: settings[name] for name in KINDS if name in settings}))

    def to_dict(self) -> dict[str, Any]:
        """What a record keeps of it."""
        return {name: getattr(self, name) for name in KINDS}

    def repeated(self) -> dict[str, Any]:
        """The settings that a run like this one is started with, where they differ from the defaults."""
        values = self.to_dict().items()
        return {name: value for name, value in values if name not in NOT_REPEATED and value != DEFAULTS[name]}

    def replace(self, **changes: Any) -> TrainingConfig:
        """The same with other values."""
        return dataclasses.replace(self, **changes)

    @property
    def cuda_asked(self) -> bool:
        """Somebody asked for a GPU, rather than taking one if it is there."""
        return bool({"use_cuda", "cuda_idx"} & self.explicit) and self.use_cuda

    def _check_contradictions(self) -> None:
        wrong = {
            "--resume goes on with a training run: not with --demo": self.resume and self.demo,
            "--simulate: not with --demo, which has images of its own": self.simulate and self.demo,
            "--epoch_images goes with --simulate": "epoch_images" in self.explicit and not self.simulate,
            "--infer: not with --simulate, whose lenses are not kept": self.infer and self.simulate,
        }
        if reasons := [reason for reason, happens in wrong.items() if happens]:
            raise UsageError(reasons[0])


KINDS: dict[str, Kind] = {f.name: f.metadata["kind"] for f in dataclasses.fields(TrainingConfig) if f.metadata}
DEFAULTS: dict[str, Any] = {name: getattr(TrainingConfig, name) for name in KINDS}


def check_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with values of the right types. Raises UsageError, in one line, for names and values that cannot
    be."""
    values = {}
    for name, value in settings.items():
        if name not in KINDS:
            alike = difflib.get_close_matches(name, KINDS, n=1)
            raise UsageError(f"there is no setting {name}" + (f" (did you mean {alike[0]}?)" if alike else ""))
        try:
            values[name] = None if value is None and DEFAULTS[name] is None else KINDS[name].check(value)
        except ValueError as error:
            raise UsageError(f"--{name}: {error}") from error
    return values


def simulated_folder(recipe: str) -> str:
    """Where the images of --simulate lie that it validates on."""
    return f"simulated_{Path(recipe).stem}"


@dataclass(frozen=True)
class TrainingRecipe:
    """How a network is trained: what `--recipe` stands for, with what the other flags change in it.

    lr: the peak learning rate; smoothing: of the labels; recalibrate: training batches from which the batch norms'
    statistics are taken anew before each evaluation (0: the running ones, which lag behind a fast learner); shift:
    pixels by which training crops may be off centre (None: as far as the image goes); average: what a step leaves of
    the running average of the weights, which is then what is evaluated and kept (0: the last weights).
    """

    optimiser: str
    lr: float
    weight_decay: float
    schedule: str
    epochs: int
    batch_size: int
    smoothing: float = 0.0
    recalibrate: int = 0
    shift: int | None = None
    average: float = 0.0
