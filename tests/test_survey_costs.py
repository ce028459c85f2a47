"""benchmarks/survey_costs.py: what it changes in a recipe, and its table at toy size."""

import sys

import numpy as np
import pytest
from conftest import ROOT

from darklens.simulation.recipes import changed, load_recipe


@pytest.fixture
def costs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import survey_costs

    yield survey_costs
    del sys.modules["survey_costs"]


@pytest.mark.parametrize("name", ["euclid", "hst", "j"])
def test_changes_are_what_they_are_called(costs, name):
    recipe = load_recipe(name)
    found = {title: changed(recipe, keys) for title, keys in costs.changes(recipe).items()}
    assert found["as it is"] == recipe
    dark = [title for title, other in found.items() if other.lens_light is None]
    assert dark == (list(found) if name == "j" else ["no lens light", "all of these"])
    assert ("Gaussian PSF of the same width" in found) == (name == "hst")
    narrow = found["PSF half as wide"].psf
    assert narrow.kind == recipe.psf.kind and narrow.fwhm.quantile(0.3) == recipe.psf.fwhm.quantile(0.3) / 2
    then, now = (r.noise for r in (recipe, found["noise halved"]))
    assert now.exposure_time.quantile(0.5) == 4 * then.exposure_time.quantile(0.5)
    assert now.exposures == 4 * then.exposures and now.read_noise == then.read_noise
    assert found["all of these"].psf.fwhm == narrow.fwhm and found["all of these"].noise == now


def test_priors_are_scaled(costs):
    assert costs.scaled({"normal": [2.0, 0.5]}, 2) == {"normal": [4.0, 1.0]}
    assert costs.scaled([1, 3], 0.5) == [0.5, 1.5] and costs.scaled(3, 2) == 6
    raw = {"noise": {"background_rms": 0.2, "peak_snr": [10, 20]}}
    found = costs.less_noise(raw)
    assert found["noise.background_rms"] == 0.1 and found["noise.peak_snr"] == [20, 40]
    assert found["noise.exposure_time"] == 4


def test_table_at_toy_size(costs, tmp_path, monkeypatch, capsys):
    """Two changes of a recipe, trained and tested; what is there is not done again."""
    monkeypatch.setenv("LENS_PICTURES", "none")
    (tmp_path / "tiny.toml").write_text('name = "tiny"\nbase = "euclid"\n[image]\npixels = 40\n')
    words = ["--recipe", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--train", 4, "--val", 2, "--test", 3]
    words += ["--epochs", 1, "--changes", "as it is", "noise halved"]
    costs.main([str(word) for word in words])
    first = capsys.readouterr().out
    assert "tiny, 4 images a class, 1 passes, 3 test images a class" in first
    table = first[first.index("| change") :].splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| as it is", "| noise halved"]
    monkeypatch.setattr(costs, "program", None)
    costs.main([str(word) for word in words])
    assert capsys.readouterr().out.endswith("\n".join(table) + "\n")


def test_signal_at_toy_size(costs, capsys):
    assert not costs.main(["--recipe", "euclid", "--signal", "2", "--changes", "noise halved"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("| noise halved | ")
    smooth = costs.signal(load_recipe("euclid"), "no", 2, 0)
    assert np.all(smooth < 1)  # nothing is left of what the smooth lens is
