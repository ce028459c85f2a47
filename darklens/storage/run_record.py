"""What is written down of a run, in `run.json` and in its checkpoints: enough to understand and repeat it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from darklens.errors import UsageError
from darklens.storage.files import read_json, save_json
from darklens.storage.training_config import TrainingConfig, TrainingRecipe

RUN_FILE = "run.json"
REPORTED = ("arguments", "network", "recipe", "seed", "precision", "device", "threads", "versions")  # in metrics.json
KEYS = {"config": "arguments", "simulation": "lenses"}  # fields whose name in the files is another


@dataclass(frozen=True)
class RunRecord:
    """How a network was trained; what is not known of it, as of the original's checkpoints, is None or empty.

    config: the settings, with what the run decided; network: `kind`, and what the network is built from; simulation:
    the recipe of the lenses it was trained on; preprocess: what was done to the images; images: how many there were
    in each split; fingerprints: of those images, in `run.json` alone; ranks: processes; package, versions: of this
    program and of the libraries; weights: what was taken over from another network; class_weights: what an image of
    each class counted in the loss.
    """

    config: TrainingConfig | None = None
    recipe: TrainingRecipe | None = None
    network: dict[str, Any] = field(default_factory=dict)
    simulation: dict[str, Any] | None = None
    classes: list[str] = field(default_factory=list)
    preprocess: dict[str, Any] | None = None
    images: dict[str, int] = field(default_factory=dict)
    seed: int | None = None
    precision: str | None = None
    device: str | None = None
    threads: int | None = None
    ranks: int = 1
    fingerprints: dict[str, str] = field(default_factory=dict)
    package: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    weights: str | None = None
    class_weights: dict[str, float] | None = None
    original: bool = False
    deterministic_ranks: bool = False  # of runs that summed their batches in eighths, which nothing does any more

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON and a checkpoint hold it."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["config"] = self.config and self.config.to_dict()
        values["recipe"] = self.recipe and asdict(self.recipe)
        return {
            KEYS.get(name, name): value
            for name, value in values.items()
            if not (value is None or value is False or value in ({}, []))
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunRecord:
        """The record in a file, of this version of the program or an earlier one.

        Raises ValueError for what no run has written.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"expected a record, found {type(values).__name__}")
        names = {KEYS.get(f.name, f.name): f.name for f in dataclasses.fields(cls)}
        parsed = {names[key]: value for key, value in values.items() if key in names and value is not None}
        if "config" in parsed:
            arguments = _as_mapping("arguments", parsed["config"])
            try:
                parsed["config"] = TrainingConfig.from_dict(arguments)
            except UsageError as error:
                raise ValueError(str(error)) from error
            parsed["deterministic_ranks"] = arguments.get("deterministic_ranks") is True
        if "recipe" in parsed:
            parsed["recipe"] = _recipe(_as_mapping("recipe", parsed["recipe"]))
        for name, kind in get_type_hints(cls).items():
            if name in parsed and not _is_a(parsed[name], kind):
                raise ValueError(f"{KEYS.get(name, name)} cannot be {str(parsed[name])[:40]!r}")
        return cls(**parsed)

    def replace(self, **changes: Any) -> RunRecord:
        """The same with other values."""
        return dataclasses.replace(self, **changes)

    def reported(self) -> dict[str, Any]:
        """What `metrics.json` repeats of it."""
        return {key: value for key, value in self.to_dict().items() if key in REPORTED}

    def save(self, folder: Path) -> None:
        """Write `run.json`. Raises ResultsError."""
        save_json(folder / RUN_FILE, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """The record in a file that a run wrote. Raises UsageError, in one line, for any other."""
        try:
            values = json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
            record = cls.from_dict(values)
            if record.config is None:
                raise ValueError("no arguments in it")
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path}: expected the {RUN_FILE} of a run ({type(error).__name__}: {error})") from error
        return record

    @classmethod
    def of_folder(cls, folder: Path) -> RunRecord:
        """`run.json`, or what `metrics.json` repeats of it; of what is missing or damaged, an empty record."""
        for name in (RUN_FILE, "metrics.json"):
            try:
                if values := read_json(folder / name):
                    return cls.from_dict(values)
            except ValueError:
                continue
        return cls()


def _as_mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} cannot be {str(value)[:40]!r}")
    return value


def _recipe(values: Mapping[str, Any]) -> TrainingRecipe:
    """The recipe of a record; what later versions added has its default."""
    fields = {f.name: f for f in dataclasses.fields(TrainingRecipe)}
    missing = [name for name, f in fields.items() if name not in values and f.default is dataclasses.MISSING]
    if missing:
        raise ValueError(f"recipe has no {', '.join(missing)}")
    return TrainingRecipe(**{name: values[name] for name in fields if name in values})


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a type such as `dict[str, int] | None`."""
    if kind in (Any, type(value)) or (kind is float and type(value) is int):
        return True
    if get_origin(kind) is dict:
        keys, values = get_args(kind)
        return isinstance(value, dict) and all(_is_a(k, keys) and _is_a(v, values) for k, v in value.items())
    if get_origin(kind) is list:
        return isinstance(value, (list, tuple)) and all(_is_a(item, *get_args(kind)) for item in value)
    return any(_is_a(value, one) for one in get_args(kind))
