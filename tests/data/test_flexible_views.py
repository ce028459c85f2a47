"""Views of a flexible source: kept in small files as they are made, so that an interruption costs little."""

import itertools
import shutil

import numpy as np
import pytest

from darklens.data import residual, views
from darklens.data.folder import scan
from darklens.data.transforms import Preprocess
from darklens.fit import SmoothModel, fit
from darklens.simulation.recipes import RECIPES
from darklens.simulation.writer import write_dataset

PREPROCESS = Preprocess(105, view="flexible", smooth_model=SmoothModel(source="flexible"))


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path / "images", RECIPES["j"], {"train": 2, "val": 1}, seed=5, quiet=True)
    return scan(tmp_path / "images")


def test_what_was_made_before_an_interruption_stays(data, monkeypatch):
    """Of three files of two images each, the first is made, then the program ends; the others are made later."""
    fitted = []

    def quick(images, model, **options):  # a Sersic: what is fitted matters here, not how
        fitted.extend(images[:, 0, 0].tolist())
        return fit(images, SmoothModel(window=model.window, free_centre=True, free_halo=True))

    monkeypatch.setattr(residual, "fit_by_source", quick)
    monkeypatch.setitem(views.SIZES, "flexible", views.Sizes(part=2, chunk=1))
    parts = views.make_views(data, ("train",), PREPROCESS, workers=0, show=False)
    assert next(parts)
    parts.close()
    (first,) = views.view_folder(data.root, PREPROCESS).glob("*.npy")
    made, before = len(fitted), first.stat().st_mtime_ns
    assert made == 2
    whole = views.open_views(data, ("train",), PREPROCESS, workers=0, show=False).splits["train"].images
    assert len(fitted) == 6 and first.stat().st_mtime_ns == before and len(whole.parts) == 3
    for number, path in itertools.product(range(2), whole.parts):
        assert np.load(path).shape == (2, 1, 105, 105)
        assert np.array_equal(np.load(path)[number], whole.read(2 * whole.parts.index(path) + number).values)


def test_what_was_fitted_of_an_unfinished_file_stays(data, monkeypatch):
    """Six images in one file: the program ends after three; the others are fitted, the file is that of an unbroken run.

    One of the three is damaged, and fitted again.
    """
    fitted: list[float] = []

    def quick(images, model, **options):
        if len(fitted) == 3 and "again" not in stage:
            raise KeyboardInterrupt
        fitted.extend(images[:, 0, 0].tolist())
        return fit(images, SmoothModel(window=model.window, free_centre=True, free_halo=True))

    stage: list[str] = []
    monkeypatch.setattr(residual, "fit_by_source", quick)
    monkeypatch.setitem(views.SIZES, "flexible", views.Sizes(part=6, chunk=1))
    with pytest.raises(KeyboardInterrupt):
        views.open_views(data, ("train",), PREPROCESS, workers=0, show=False)
    folder = views.view_folder(data.root, PREPROCESS)
    assert len(list(folder.glob("*.pieces/*.npz"))) == 3 and not list(folder.glob("*.npy"))
    damaged = sorted(folder.glob("*.pieces/*.npz"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    stage.append("again")
    first = views.open_views(data, ("train",), PREPROCESS, workers=0, show=False).splits["train"].images
    assert len(fitted) == 3 + 4 and not list(folder.glob("*.pieces"))
    whole = [first.read(i).values for i in range(6)]
    table = first.fits()
    shutil.rmtree(folder)
    again = views.open_views(data, ("train",), PREPROCESS, workers=0, show=False).splits["train"].images
    assert len(fitted) == 7 + 6 and again.fits() == table
    assert all(np.array_equal(again.read(i).values, whole[i]) for i in range(6))


def test_they_have_a_folder_of_their_own(data):
    other = Preprocess(105, view="residual", smooth_model=SmoothModel())
    assert views.view_folder(data.root, other) != views.view_folder(data.root, PREPROCESS)
