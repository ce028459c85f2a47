"""sensitivity.py: recovers what a known network sees, from parameters that the simulator wrote."""

import json

import numpy as np
import pytest
import simulated
import torch
from simulated import F, edited

from darklens.errors import DataError
from darklens.reports import sensitivity
from darklens.reports.sensitivity import completeness, reached, threshold
from darklens.simulation import draw, writer
from darklens.simulation import truth as lenses_truth
from darklens.simulation.deflect import deflection
from darklens.simulation.truth import read_truth, ring_distance, ring_radius

SMALL = edited(F, image={"pixels": 30, "pixel_scale": 0.2, "supersample": 1})
CLASSES = ("no", "sphere", "vort")
COUNT = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A simulated test split, 240 tiny images a class."""
    path = tmp_path_factory.mktemp("simulated") / "images_s"
    writer.write_dataset(path, SMALL, {"test": COUNT}, seed=3, device="cpu", workers=1, quiet=True)
    return path


@pytest.fixture
def names():
    return [f"{name}/{i:06d}.npy" for name in CLASSES for i in range(COUNT)]


LABELS = np.repeat(np.arange(3), COUNT)


def logits_of(seen: np.ndarray) -> np.ndarray:
    """A network that calls an image its own class where it is seen, `no` otherwise; no two outputs are equal.

    It is a little less sure of images that are `no`, so that its false positives are among those.
    """
    logits = np.random.default_rng(0).uniform(0, 0.5, (len(seen), 3))
    logits[np.arange(len(seen)), np.where(seen, LABELS, 0)] += 4
    logits[LABELS == 0, 0] -= 1.5
    return logits


def lens(**values):
    """One lens: Einstein radius 1.2 arcsec, nothing else but what is given."""
    mass = 1.2**2 / draw.mass_scale(F, draw.draw(F, "no", 0, "train", [0]).values)[0]
    plain = {"lens__shear": 0, "source__x": 0, "source__y": 0, "source__effective_radius": 0.1}
    plain |= {"lens__total_mass": mass, "lens__einstein_radius": 1.2}
    return simulated.lens("no", F, **plain | values)


# --- what the simulator knows ---


def test_truth_is_what_was_drawn_in_the_order_asked(folder):
    truth = read_truth(folder, "test", ["vort/000007.npy", "sphere/000100.npy", "no/000003.npy", "sphere/000002.npy"])
    drawn = {name: draw.draw(SMALL, name, 3, "test", range(COUNT)) for name in CLASSES}
    assert truth.recipe == SMALL
    for row, (name, i) in enumerate([("vort", 7), ("sphere", 100), ("no", 3), ("sphere", 2)]):
        for key, value in drawn[name][i : i + 1].arrays().items():
            found = truth.parameters.arrays()[key][row]
            if value.ndim == 2:
                assert np.array_equal(found[: value.shape[1]], value[0]) and not found[value.shape[1] :].any()
            else:
                assert np.array_equal(found, value[0], equal_nan=True)


@pytest.mark.parametrize("name", ["sphere/999999.npy", "sphere/my_image.npy", "sphere/²³.npy"])
def test_unknown_image_is_refused(folder, name):
    with pytest.raises(DataError, match="know no image sphere/") as caught:
        read_truth(folder, "test", ["no/000001.npy", name])
    assert "\n" not in str(caught.value)


def test_other_data_is_refused_in_one_line(folder, tmp_path, images, names):
    copy = tmp_path / "copy"
    (copy / "parameters").mkdir(parents=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change in ({"new_physics": 1.0}, {"lens": {"distances": "guessed"}}):
        (copy / "manifest.json").write_text(json.dumps(manifest | {"recipe": manifest["recipe"] | change}))
        with pytest.raises(DataError, match="manifest.json: not a recipe of this simulator"):
            read_truth(copy, "test", names)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="test_no.npz: not found"):
        read_truth(copy, "test", names)
    whole = (folder / "parameters" / "test_no.npz").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"PK" + whole[2:1000], whole.replace(b"lens.shear", b"lens.sheer")):
        (copy / "parameters" / "test_no.npz").write_bytes(content)
        with pytest.raises(DataError, match="test_no.npz: expected the simulator's parameters") as caught:
            read_truth(copy, "test", names[:3])
        assert "\n" not in str(caught.value)
    np.savez(copy / "parameters" / "test_no.npz", index=np.arange(3), **lens().arrays())
    with pytest.raises(DataError, match="expected 3 numbers psf.fwhm, found float64 \\(1,\\)"):
        read_truth(copy, "test", names[:3])
    with pytest.raises(DataError, match="manifest.json: not found: only data sets that simulate.py wrote"):
        read_truth(images, "val", ["no/0001.npy"])
    assert lenses_truth.is_simulated(folder) and not lenses_truth.is_simulated(images)


# --- geometry ---


def test_ring_without_shear_and_offset_is_the_einstein_ring():
    angle = np.linspace(0, 6, 7)[None]
    np.testing.assert_allclose(ring_radius(lens(), angle), 1.2, rtol=1e-15)
    np.testing.assert_allclose(ring_distance(lens(), np.array([0.0]), np.array([-1.5])), 0.3, rtol=1e-14)


def test_ring_is_where_rays_pass_the_source_closest():
    """Against the simulator's own deflection on a fine polar grid."""
    p = lens(lens__shear=0.25, lens__shear_angle=23, source__x=0.3, source__y=-0.35)
    radius, angle = np.linspace(0.2, 3, 5601), np.linspace(0, 2 * np.pi, 13)[:-1]
    x = torch.from_numpy(radius[:, None] * np.cos(angle))[None]
    y = torch.from_numpy(radius[:, None] * np.sin(angle))[None]
    ax, ay = deflection(p, F, x, y)
    miss = torch.hypot(x - ax - 0.3, y - ay + 0.35)[0]  # (radius, angle)
    np.testing.assert_allclose(ring_radius(p, angle[None])[0], radius[miss.argmin(0).numpy()], atol=3e-4)


def test_mass_near_the_ring():
    """One subhalo on the ring, one 0.2 arcsec off, one far off; half of a vortex that points outwards."""
    p = lens(subhalos={"mass": [1e9, 2e9, 4e9], "x": [1.2, 0.0, 0.5], "y": [0.0, -1.0, 0.5]})
    assert lenses_truth.mass_near_ring(p)[0] == 3e9
    p = lens(vortex__mass=8e9, vortex__length=1.0, vortex__x=0.0, vortex__y=1.2, vortex__angle=90)
    assert lenses_truth.mass_near_ring(p)[0] == pytest.approx(4e9, rel=0.04)


def test_heaviest_subhalo_and_none():
    p = lens(subhalos={"mass": [1e7, 5e9, 0], "x": [0.1, 0.2, 0], "y": [0.3, 0.4, 0]})
    assert np.array(lenses_truth.heaviest(p)).ravel().tolist() == [0.2, 0.4, 5e9]
    for empty in (lens(subhalos={"mass": [0.0], "x": [0], "y": [0]}), lens()):
        assert np.isnan(lenses_truth.heaviest(empty)).all()


# --- completeness ---


def test_bins_are_of_equal_count_and_keep_equal_values_together():
    rng = np.random.default_rng(1)
    values = rng.permutation(np.r_[np.zeros(90), rng.uniform(1, 2, 150), [np.nan] * 5])
    curve = completeness(values, {"seen": values > 1.5})
    assert curve["images"].tolist() == [90, 30, 30, 30, 30, 30] and curve["low"][0] == curve["high"][0] == 0
    assert curve["seen"]["found"].sum() == (values > 1.5).sum()
    ordered = np.stack([curve["low"], curve["median"], curve["high"]])
    assert (np.diff(ordered, axis=0) >= 0).all() and (np.diff(ordered, axis=1) > 0).all()
    assert completeness(np.arange(7.0), {})["images"].tolist() == [7]
    assert len(completeness(np.full(7, np.nan), {"seen": np.ones(7, bool)})["images"]) == 0


def test_threshold_lets_one_percent_pass():
    scores = np.random.default_rng(2).permutation(1000).astype(float)
    assert (scores > threshold(scores)).sum() == 10
    assert (np.arange(50.0) > threshold(np.arange(50.0))).sum() == 0  # too few for one
    tied = np.r_[np.zeros(900), np.ones(100)]
    assert (tied > threshold(tied)).mean() <= 0.01


def test_levels_are_where_the_curve_rises_for_good():
    curve = {"median": [1.0, 2.0, 3.0, 4.0], "seen": {"completeness": np.array([0.6, 0.2, 0.7, 0.8])}}
    assert reached(curve, "seen") == {"0.5": pytest.approx(2.6), "0.9": None}
    curve["seen"]["completeness"] += 0.4
    assert reached(curve, "seen") == {"0.5": None, "0.9": pytest.approx(2.6)}


# --- the whole of it ---


def test_network_that_sees_above_a_mass(folder, names, tmp_path):
    """Its curve is a step at that mass, and in nothing else as sharp."""
    mass = read_truth(folder, "test", names).parameters["substructure.mass"] / 1e12
    found = sensitivity.sensitivity(folder, "test", names, LABELS, logits_of(mass > 0.04), CLASSES, folder=tmp_path)
    assert list(found["classes"]) == ["sphere", "vort"]
    assert found["detection"]["false_positive_rate"] == pytest.approx(2 / 240)
    for name, one in found["classes"].items():
        curve, own = one["curves"]["mass_fraction"], mass[LABELS == CLASSES.index(name)]
        assert one["images"] == curve["images"].sum() == COUNT
        assert one["total"]["classified"]["completeness"][0] == (own > 0.04).mean()
        low, high = np.array(curve["low"]), np.array(curve["high"])
        expected = np.where(low > 0.04, 1.0, np.where(high <= 0.04, 0.0, np.nan))
        for criterion in ("classified", "detected"):
            share = curve[criterion]["completeness"]
            np.testing.assert_array_equal(share[~np.isnan(expected)], expected[~np.isnan(expected)])
            width = (high - low)[np.isnan(expected)].sum() + np.diff(curve["median"]).max()
            assert abs(curve["reached"][criterion]["0.5"] - 0.04) < width
        other = one["curves"]["heaviest_from_centre" if name == "sphere" else "centre_from_centre"]
        assert 0 < other["classified"]["completeness"].min() and other["classified"]["completeness"].max() < 1


def test_network_that_sees_near_the_ring(folder, names, tmp_path):
    """The curve against place rises at the ring and falls beyond, symmetrically."""
    parameters = read_truth(folder, "test", names).parameters
    x, y, _ = lenses_truth.heaviest(parameters)
    near = abs(ring_distance(parameters, x, y)) < 0.3
    found = sensitivity.sensitivity(folder, "test", names, LABELS, logits_of(near), CLASSES, folder=tmp_path)
    curve = found["classes"]["sphere"]["curves"]["heaviest_from_ring"]
    share = dict(zip(np.round(curve["median"], 6), curve["detected"]["completeness"], strict=True))
    best = max(share, key=share.get)
    assert abs(best) < 0.3 and share[best] > 0.8
    assert share[min(share)] == 0 and share[max(share)] < 0.5


def test_what_is_written(folder, names, tmp_path):
    logits = logits_of(np.arange(len(names)) % 2 == 0)
    found = sensitivity.sensitivity(folder, "test", names, LABELS, logits, CLASSES, folder=tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [f"sensitivity.{kind}" for kind in ("json", "pdf", "png")]
    stored = json.loads((tmp_path / "sensitivity.json").read_text())
    assert stored["classes"]["vort"]["images"] == COUNT
    assert stored["classes"]["vort"]["curves"]["length"]["low"] == [
        float(v) for v in found["classes"]["vort"]["curves"]["length"]["low"]
    ]
    first = (tmp_path / "sensitivity.pdf").read_bytes()
    sensitivity.sensitivity(folder, "test", names, LABELS, logits, CLASSES, folder=tmp_path)
    assert (tmp_path / "sensitivity.pdf").read_bytes() == first


def test_without_a_class_of_no_substructure_only_the_classes_count(folder, names, tmp_path):
    rows = LABELS > 0
    some = [name for name, kept in zip(names, rows, strict=True) if kept]
    logits = logits_of(np.ones(len(names), bool))[rows, 1:]
    found = sensitivity.sensitivity(folder, "test", some, LABELS[rows] - 1, logits, CLASSES[1:], folder=tmp_path)
    assert found["detection"] is None and list(found["classes"]["sphere"]["total"]) == ["classified"]
    assert found["classes"]["sphere"]["total"]["classified"]["completeness"] == [1.0]


def test_what_does_not_fit_is_refused(folder, names, tmp_path):
    logits = logits_of(np.ones(len(names), bool))
    with pytest.raises(ValueError, match="expected labels \\(n,\\) and logits \\(n, 3\\) of 720 images"):
        sensitivity.sensitivity(folder, "test", names, LABELS[1:], logits, CLASSES, folder=tmp_path)
    with pytest.raises(DataError, match="expected images with dark-matter substructure in test, found none"):
        none = LABELS == 0
        sensitivity.sensitivity(folder, "test", names[:COUNT], LABELS[none], logits[none], CLASSES, folder=tmp_path)
    assert not list(tmp_path.iterdir())
