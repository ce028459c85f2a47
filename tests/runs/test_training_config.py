"""The settings of a run: what they may be, whoever gives them, and what a record keeps of them."""

import dataclasses
import json

import numpy as np
import pytest

import darklens
from darklens.commands import flags
from darklens.errors import UsageError
from darklens.storage.run_record import RunRecord
from darklens.storage.training_config import DEFAULTS, TrainingConfig
from darklens.training.recipes import RECIPES, recipe_of


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"epoch": 1}, "did you mean epochs"),
        ({"epochs": 0}, "of at least 1, found 0"),
        ({"epochs": 1.5}, "expected a whole number, found 1.5"),
        ({"epochs": True}, "expected a whole number, found True"),
        ({"epochs": "five"}, "expected a whole number"),
        ({"lr": float("nan")}, "finite number above 0"),
        ({"lr": "0.1"}, "expected a number"),
        ({"average": 1.0}, "below 1"),
        ({"crop": 30}, "odd number"),
        ({"sym_group": "Dihedron"}, "expected Circular or Dihyderal"),
        ({"use_CNN": "maybe"}, "True or False"),
        ({"data_dir": 3}, "expected text"),
        ({"N": None}, "expected a whole number"),
        ({"demo": True, "resume": "latest"}, "not with --demo"),
        ({"epoch_images": 99}, "goes with --simulate"),
        ({"mode": "Test"}, "no setting mode"),
    ],
)
def test_wrong_settings_are_usage_errors(settings, reason):
    with pytest.raises(UsageError, match=reason):
        darklens.train(**settings)


def test_flags_and_python_mean_the_same():
    words = "--data_dir x --sym_group dihedral --N 8 --lr 1e-3 --recipe seed --balance --average 0 --view both".split()
    settings, _ = flags.parse("", words)
    config = TrainingConfig.of(
        data_dir="x",
        sym_group="Dihyderal",
        N=np.int64(8),
        lr=1e-3,
        recipe="original",
        balance=True,
        average=0,
        view="both",
    )
    assert settings.training_config() == config
    assert config.sym_group == "Dihyderal" and type(config.N) is int


def test_the_recipe_seed_is_now_called_original():
    assert recipe_of(TrainingConfig.of(recipe="seed")) == RECIPES["original"]
    assert recipe_of(TrainingConfig.of(recipe="seed", lr=0.1, use_CNN=True)) == dataclasses.replace(
        RECIPES["original"], lr=0.1
    )


def test_defaults_of_flags_are_those_of_the_configuration():
    settings, _ = flags.parse("", [])
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS == TrainingConfig.of().to_dict()


def test_a_record_goes_through_json():
    config = TrainingConfig.of(data_dir="x", lr=0.25, simulate="j", epoch_images=300)
    record = RunRecord(config=config, recipe=recipe_of(config), classes=["a", "b"], images={"train": 3}, seed=0)
    found = RunRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert found == record.replace(config=config.replace(explicit=frozenset()))
    assert found.seed == 0 and found.config.repeated() == {
        "data_dir": "x",
        "lr": 0.25,
        "simulate": "j",
        "epoch_images": 300,
    }


def test_records_of_the_version_before_are_read():
    """Its arguments held all flags of the program, and the recipe `original` was called `seed`."""
    arguments = {"data_dir": "x", "recipe": "seed", "mode": "Train", "output": "predictions.csv", "list": False}
    record = RunRecord.from_dict({"arguments": arguments | {"deterministic_ranks": True}, "lenses": {"name": "f"}})
    assert record.config.recipe == "original" and record.deterministic_ranks and record.simulation == {"name": "f"}


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"arguments": []},
        {"arguments": {"N": "4"}},
        {"recipe": {"epochs": 3}},
        {"classes": "abc"},
        {"classes": [1]},
        {"images": {"train": "many"}},
        {"threads": 1.5},
        {"preprocess": "none"},
    ],
)
def test_what_no_run_has_written_is_no_record(values):
    with pytest.raises(ValueError):
        RunRecord.from_dict(values)
