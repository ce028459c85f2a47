"""novelty.py: the distance, its threshold, and what an image's own statistics see and do not see."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_images
from sklearn.covariance import ledoit_wolf

from darklens.classifier import novelty
from darklens.classifier.calibrate import fit_on
from darklens.classifier.classifier import Classifier, evaluator
from darklens.classifier.novelty import Gaussian, Novelty, describe, fit_gaussian, fit_novelty
from darklens.classifier.saved import load_model, save_model
from darklens.data import views
from darklens.data.batches import Batch
from darklens.data.folder import scan
from darklens.data.source import Files
from darklens.data.transforms import default_preprocess
from darklens.errors import CheckpointError
from darklens.networks.basis import Symmetry
from darklens.networks.equivariant import build_network
from darklens.networks.grid import transform
from darklens.networks.resnet import build_resnet
from darklens.storage import checkpoint
from darklens.training.evaluate import recalibrate

ELEMENTS = [(mirror, turns) for mirror in (False, True) for turns in range(4)]


def correlated(n: int, d: int, seed: int) -> torch.Tensor:
    """Correlated, off centre, of very different widths."""
    mixing = np.random.default_rng(1).normal(size=(d, d)) * np.logspace(-2, 1, d)
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)) @ mixing + np.arange(d)).float()


# --- the distance -------------------------------------------------------------------------------------------


def test_distance_is_that_of_mahalanobis():
    train, others = correlated(400, 6, 0), correlated(50, 6, 1)
    gaussian = fit_gaussian(train)
    z, away = ((x.double().numpy() - train.double().numpy().mean(0)) for x in (train, others))
    scale = train.double().numpy().std(0, ddof=1)
    inverse = np.linalg.inv(ledoit_wolf(z / scale, assume_centered=True)[0])
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away / scale, inverse, away / scale))
    np.testing.assert_allclose(gaussian.distance(others), expected, rtol=1e-4)


def test_distance_with_few_axes_keeps_the_rest():
    """More features than axes fit: what lies off all axes counts with the mean of the variances there."""
    train, kept = correlated(300, 600, 0), novelty.NUMBERS // 600
    gaussian = fit_gaussian(train)
    z = train.double().numpy()
    z = (z - z.mean(0)) / z.std(0, ddof=1)
    variances = np.linalg.eigvalsh(ledoit_wolf(z, assume_centered=True)[0])[:-kept]
    off = torch.from_numpy(np.random.default_rng(2).normal(size=(1, 600)))
    off -= off @ gaussian.axes.double() @ gaussian.axes.double().T
    expected = off.norm().item() / variances.mean() ** 0.5
    assert gaussian.axes.shape == (600, kept)
    assert gaussian.distance(gaussian.mean + off * gaussian.scale).item() == pytest.approx(expected, rel=1e-3)


def test_features_without_spread():
    """A dead feature: the same in all training images, something else in a new one."""
    train = correlated(50, 4, 0)
    train[:, 2] = 7.0
    gaussian = fit_gaussian(train)
    other = train.clone()
    other[:, 2] = 8.0
    assert gaussian.distance(train).isfinite().all() and (gaussian.distance(other) > gaussian.distance(train) + 1).all()


def test_values_that_are_not_finite_are_infinitely_far():
    gaussian = fit_gaussian(correlated(50, 3, 0))
    bad = torch.tensor([[0.0, torch.nan, 0.0], [torch.inf, 0.0, 0.0]])
    assert torch.equal(gaussian.distance(bad), torch.tensor([torch.inf] * 2, dtype=torch.float64))


# --- the threshold ------------------------------------------------------------------------------------------


def parts_of(n: int, seed: int) -> list[torch.Tensor]:
    return [correlated(n, 20, seed), correlated(n, 6, seed + 1000)]


def test_false_alarms_are_as_stated():
    """On 40,000 new draws; the threshold itself rests on ten validation images and scatters by a third."""
    found = fit_novelty(parts_of(1000, 0), parts_of(1000, 1))
    assert found.false_alarms == pytest.approx(10 / 1001) and found.images == (1000, 1000)
    assert 0.3e-2 < (found.score(parts_of(40_000, 2)) > 1).double().mean() < 2.5e-2


@pytest.mark.parametrize("n, rate", [(1, 0.5), (9, 0.1), (99, 0.01), (150, 1 / 151), (999, 0.01)])
def test_few_validation_images_raise_the_stated_rate(n, rate):
    val = parts_of(n, 1)
    found = fit_novelty(parts_of(50, 0), val)
    assert found.false_alarms == pytest.approx(rate)
    assert (found.score(val) > 1 + 1e-9).sum() == round(rate * (n + 1)) - 1


@pytest.mark.parametrize("part", [0, 1])
def test_either_part_is_enough(part):
    found = fit_novelty(parts_of(500, 0), parts_of(500, 1))
    other = parts_of(100, 2)
    other[part] = other[part] + 8 * found.parts[part].scale
    assert (found.score(other) > 1).all()


@pytest.mark.parametrize("train, val", [(1, 5), (5, 0)])
def test_too_few_images_are_refused(train, val):
    with pytest.raises(ValueError, match=f"found {train} and {val}"):
        fit_novelty(parts_of(train, 0), parts_of(val, 1))


def test_features_that_are_not_finite_are_refused():
    train = parts_of(9, 0)
    train[0][3, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_novelty(train, parts_of(9, 1))


# --- statistics of an image ---------------------------------------------------------------------------------


def ring(size: int, radius: float) -> torch.Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    return torch.exp(-((torch.hypot(axis[:, None], axis[None, :]) - radius) ** 2) / 2)[None, None]


@pytest.mark.parametrize("size", [29, 40, 129])
@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_ignore_turns_and_mirrors(size, channels):
    x = torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(0)) + ring(size, size / 4)
    found = describe(x)
    assert found.shape == (3, channels * 2 * novelty.BINS) and found.isfinite().all()
    for element in ELEMENTS:
        torch.testing.assert_close(describe(transform(x, *element)), found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bin", range(novelty.BINS))
def test_profile_finds_a_ring_where_it_is(bin):
    width = 129 / 2 / novelty.BINS
    profile = describe(ring(129, (bin + 0.5) * width))[0, : novelty.BINS]
    assert profile.argmax() == bin


@pytest.mark.parametrize("waves, bin", [(1, 0), (3, 2), (20, 5), (60, 7)])
def test_spectrum_finds_a_wave_where_it_is(waves, bin):
    """Bins of equal ratio from 1 to 64.5 waves an image."""
    wave = torch.cos(2 * torch.pi * waves * torch.arange(129) / 129).expand(1, 1, 129, 129)
    spectrum = describe(wave)[0, novelty.BINS :]
    assert spectrum.argmax() == bin
    assert spectrum[bin] > spectrum.sort().values[-2] + 5


def test_power_of_white_noise_is_its_variance():
    """Parseval: in each frequency, whatever the size."""
    x = 3 * torch.randn(40, 1, 61, 61, generator=torch.Generator().manual_seed(0))
    found = describe(x)[:, novelty.BINS :].exp().mean(0)
    torch.testing.assert_close(found, torch.full_like(found, 9.0), rtol=0.25, atol=0)


def test_statistics_of_an_empty_image_are_finite():
    assert describe(torch.zeros(1, 1, 41, 41)).isfinite().all()


# --- with a network -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return scan(write_images(tmp_path_factory.mktemp("data") / "images_t", counts={"train": 40, "val": 40}, size=42))


def new(kind: str, size: int = 41, **changes) -> Classifier:
    torch.manual_seed(0)
    config = {"channels": 1, "classes": 3, "size": size}
    network = build_resnet(config) if kind == "resnet" else build_network({**config, "arch": "compact", **changes})
    return Classifier(network, ["no", "sphere", "vort"], default_preprocess(size), temperature=1.5)


def images_of(folder) -> tuple:
    return folder.splits["train"].images, folder.splits["val"].images


def preprocessed(model: Classifier, images) -> torch.Tensor:
    return views.network_inputs(images, range(len(images)), model.preprocess)


@pytest.fixture(scope="module")
def fitted(folder):
    """Not trained, but with the statistics of its batch norms as training leaves them."""
    model = new("equivariant")
    images = preprocessed(model, images_of(folder)[0])
    recalibrate(model.network.train(), [Batch(images, None, None)], "fp32")
    model.novelty = fit_on(model, *images_of(folder), quiet=True)
    return model


@pytest.mark.parametrize("kind, head", [("equivariant", "lifted"), ("equivariant", "flatten"), ("resnet", None)])
def test_observer_gives_logits_and_what_they_are_made_of(kind, head):
    model = new(kind, head=head) if head else new(kind)
    images = torch.randn(5, 1, 41, 41)
    logits, (features, statistics) = model.observer()(images)
    last = model.network.fc if kind == "resnet" else model.network.head.classify
    assert torch.equal(logits, evaluator(model.network, "cpu", "fp32")(images))
    with torch.no_grad():
        torch.testing.assert_close(F.linear(features, last.weight, last.bias), logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(statistics, describe(images))
    assert not last._forward_pre_hooks  # the network itself is left alone


@pytest.mark.parametrize("group, N", [("Circular", 4), ("Dihyderal", 4)])
def test_score_keeps_the_equivariance_of_the_network(folder, group, N):
    model = new("equivariant", sym_group=group, N=N)
    found = fit_on(model, *images_of(folder), quiet=True)
    run, images = model.observer(), preprocessed(model, images_of(folder)[1])[:9]
    scores = found.score(run(images)[1])
    for element in Symmetry(group, N).exact_elements():
        torch.testing.assert_close(found.score(run(transform(images, *element))[1]), scores, rtol=1e-3, atol=1e-3)


def strange(size: int = 42) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "noise": rng.poisson(30, (size, size)),
        "constant": np.full((size, size), 9.0),
        "ramp": rng.poisson(20 + 5 * np.mgrid[:size, :size][0]),
        "empty": np.zeros((size, size)),
    }


@pytest.mark.parametrize("kind", strange())
def test_strange_images_are_flagged(fitted, kind):
    image = torch.from_numpy(strange()[kind].astype("f4"))[None, None]
    assert fitted.novelty.score(fitted.observer()(fitted.preprocess(image))[1]) > 1.5


def test_rounding_to_bf16_does_not_matter(fitted, folder):
    images = preprocessed(fitted, images_of(folder)[1])
    exact, rounded = (fitted.novelty.score(fitted.observer(p)(images)[1]) for p in ("fp32", "bf16"))
    assert (exact - rounded).abs().mean() < 0.1 * exact.mean()


def test_fit_takes_images_evenly_and_repeats_itself(folder, fitted, monkeypatch):
    read = []
    monkeypatch.setattr(Files, "read", lambda files, i, *rest, real=Files.read: read.append(i) or real(files, i, *rest))
    train, val = images_of(folder)
    found = [fit_on(fitted, train, val, max_images=30, batch_size=size, quiet=True) for size in (30, 30, 7)]
    assert found[0].images == (30, 30) and {train.name(i).split("/")[0] for i in read[:30]} == {"no", "sphere", "vort"}
    first, second, other = (torch.cat([gaussian.mean for gaussian in one.parts]) for one in found)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, other, rtol=1e-4, atol=1e-4)


# --- in a checkpoint ----------------------------------------------------------------------------------------


def test_checkpoint_keeps_the_score(fitted, tmp_path):
    save_model(fitted, tmp_path / "m.pt")
    again = load_model(tmp_path / "m.pt")
    parts = fitted.observer()(torch.randn(4, 1, 41, 41))[1]
    assert torch.equal(again.novelty.score(parts), fitted.novelty.score(parts))
    assert again.novelty.images == fitted.novelty.images == (120, 120)
    save_model(again, tmp_path / "n.pt")
    assert (tmp_path / "m.pt").read_bytes() == (tmp_path / "n.pt").read_bytes()


def test_checkpoint_without_a_score_is_what_it_was(tmp_path):
    """Checkpoints written before there was a score lack the entry; they load."""
    save_model(new("equivariant"), tmp_path / "old.pt")
    assert "novelty" not in checkpoint.load(tmp_path / "old.pt")
    assert load_model(tmp_path / "old.pt").novelty is None


@pytest.mark.parametrize("sizes", [(128, 16), (512, 48)])
def test_score_takes_little_room(sizes):
    """ResNet-18 has 512 features."""
    train, val = ([correlated(60, d, seed) for d in sizes] for seed in (0, 1))
    buffer = io.BytesIO()
    torch.save(fit_novelty(train, val).to_dict(), buffer)
    assert buffer.tell() < 200_000


def nan_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, torch.nan)


POISONS = {
    "no parts": lambda d: d.update(parts=[]),
    "one part": lambda d: d["parts"].pop(),
    "unknown key": lambda d: d.update(more=1),
    "no rate": lambda d: d.pop("false_alarms"),
    "rate above one": lambda d: d.update(false_alarms=2.0),
    "rate is text": lambda d: d.update(false_alarms="0.01"),
    "images are text": lambda d: d.update(images="many"),
    "not a dict": lambda d: d.update(parts=[1, 2]),
    "NaN mean": lambda d: d["parts"][0].update(mean=nan_like(d["parts"][0]["mean"])),
    "scale of zero": lambda d: d["parts"][1].update(scale=torch.zeros(16)),
    "negative weight": lambda d: d["parts"][1].update(weight=-d["parts"][1]["weight"]),
    "wrong size": lambda d: d["parts"][0].update(mean=torch.zeros(7)),
    "wrong kind": lambda d: d["parts"][0].update(mean=[0.0] * 128),
    "double axes": lambda d: d["parts"][0].update(axes=d["parts"][0]["axes"].double()),
    "axes of another size": lambda d: d["parts"][0].update(axes=torch.zeros(3, 3)),
    "unit of zero": lambda d: d["parts"][0].update(unit=0.0),
    "infinite rest": lambda d: d["parts"][0].update(rest=float("inf")),
    "a field too few": lambda d: d["parts"][0].pop("rest"),
    "parts swapped": lambda d: d["parts"].reverse(),
}


@pytest.mark.parametrize("poison", POISONS)
def test_poisoned_entries_are_refused(fitted, tmp_path, poison):
    save_model(fitted, tmp_path / "m.pt")
    payload = checkpoint.load(tmp_path / "m.pt")
    POISONS[poison](payload["novelty"])
    checkpoint.save(payload, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="bad.pt: not a usable network"):
        load_model(tmp_path / "bad.pt")


@pytest.mark.parametrize("value", [3, [], "yes", None])
def test_an_entry_that_is_no_score_is_refused(fitted, tmp_path, value):
    save_model(fitted, tmp_path / "m.pt")
    checkpoint.save(checkpoint.load(tmp_path / "m.pt") | {"novelty": value}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="bad.pt"):
        load_model(tmp_path / "bad.pt")


def test_to_dict_is_what_from_dict_takes():
    found = fit_novelty(parts_of(30, 0), parts_of(30, 1))
    again = Novelty.from_dict(found.to_dict(), (20, 6))
    assert isinstance(again.parts[0], Gaussian)
    assert torch.equal(again.score(parts_of(9, 3)), found.score(parts_of(9, 3)))
