"""explain.py: exact where the answer is known, turning with the image, and scored against a fair chance."""

import json

import numpy as np
import pytest
import torch
from conftest import write_images
from simulated import F, edited
from simulated import lens as drawn_lens
from torch import nn

from darklens.classifier.classifier import Classifier
from darklens.data.folder import scan
from darklens.data.transforms import ORIGINAL, Preprocess, default_preprocess
from darklens.networks.basis import Symmetry
from darklens.networks.equivariant import build_network
from darklens.networks.grid import transform
from darklens.networks.resnet import build_resnet
from darklens.reports import attribution, explain, gallery
from darklens.simulation import render, writer
from darklens.simulation.truth import Truth, read_truth

CLASSES = ["no", "sphere", "vort"]
SIZE = 39
WIDE = edited(F, image={"pixels": 40, "pixel_scale": 0.15, "supersample": 1})


class Linear(nn.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)  # (K, C, S, S)

    def forward(self, images):
        return torch.einsum("bchw,kchw->bk", images, self.weight)


class Steep(nn.Module):
    """Two classes by the square of one pixel: curved, so that steps matter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        square = self.scale * images[:, 0, 2, 3] ** 2
        return torch.stack([square, -square], 1)


def classifier_of(network: nn.Module, size: int = SIZE) -> Classifier:
    return Classifier(network.eval(), CLASSES, Preprocess(crop=size))


def equivariant(group: str = "Circular", head: str = "lifted", size: int = SIZE, seed: int = 0) -> Classifier:
    """An untrained compact network of order 4 whose batch norms have seen something."""
    torch.manual_seed(seed)
    config = {"sym_group": group, "N": 4, "arch": "compact", "head": head, "size": size}
    return classifier_of(stirred(build_network(config)), size)


def stirred(network: nn.Module) -> nn.Module:
    """Without it, an untrained network is so simple (of degree one) that a single step would do."""
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return network


def random_images(count: int = 2, size: int = SIZE, channels: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


# --- maps ---


def test_contrast_is_the_target_less_the_mean_of_the_others():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert attribution.contrast(logits, torch.tensor([0, 2])).tolist() == [1.5, -1.5]
    torch.testing.assert_close(attribution.contrast(logits + 7, torch.tensor([0, 2])), torch.tensor([1.5, -1.5]))


@pytest.mark.parametrize("steps", [1, 5])
def test_linear_network_is_explained_exactly(steps):
    weight = torch.randn(3, 2, 7, 7, dtype=torch.float64)
    images, targets = torch.randn(4, 2, 7, 7, dtype=torch.float64), [0, 1, 2, 2]
    maps = attribution.attribute(classifier_of(Linear(weight)), images, targets, steps=steps)
    others = (weight.sum(0) - weight) / 2
    expected = (images * (weight - others)[targets]).sum(1)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-13)


def test_integral_of_a_square_is_known():
    """The mean of 2 a x over the middles of n pieces is x; f(x) - f(0) = x^2 in full, elsewhere nothing."""
    network = Classifier(Steep(), ["a", "b"], Preprocess(crop=7))
    images = random_images(3, 7)
    maps = attribution.attribute(network, images, [0, 0, 1], steps=3)
    expected = torch.zeros(3, 7, 7, dtype=torch.float64)
    expected[:, 2, 3] = 2 * images[:, 0, 2, 3].double() ** 2 * torch.tensor([1, 1, -1])
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["equivariant", "resnet"])
def test_maps_add_up_to_the_change_of_the_output(kind):
    torch.manual_seed(0)
    resnet = {"channels": 1, "classes": 3, "size": SIZE}
    network = equivariant() if kind == "equivariant" else classifier_of(stirred(build_resnet(resnet)))
    images, targets = random_images(), torch.tensor([1, 2])
    outputs = [
        attribution.contrast(attribution.outputs(network, x), targets) for x in (images, torch.zeros_like(images))
    ]
    errors = []
    for steps in (2, 24):
        maps = attribution.attribute(network, images, targets, steps=steps)
        miss, change = maps.sum((1, 2)) - outputs[0] + outputs[1], outputs[0] - outputs[1]
        errors.append((miss.abs().max() / change.abs().mean()).item())
        found = explain._completeness_error(network, images, targets.numpy(), maps)
        assert found == pytest.approx(errors[-1], rel=1e-6, abs=1e-12)
    assert errors[1] < 0.05 and errors[1] < errors[0] / 2


@pytest.mark.parametrize("group, head", [("Circular", "lifted"), ("Circular", "pooled"), ("Dihyderal", "orbit")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_turn_with_the_image(group, head, dtype):
    network = equivariant(group, head)
    network.network.to(dtype)
    images = random_images(1).to(dtype)
    maps = attribution.attribute(network, images, [1], steps=2)
    limit = (1e-4 if dtype == torch.float32 else 1e-10) * maps.abs().max()
    for element in Symmetry(group, 4).exact_elements():
        turned = attribution.attribute(network, transform(images, *element), [1], steps=2)
        assert (turned - transform(maps, *element)).abs().max() < limit


def test_maps_do_not_turn_where_the_network_is_not_invariant():
    network, images = equivariant(head="flatten"), random_images(1)
    maps = attribution.attribute(network, images, [1], steps=4)
    turned = attribution.attribute(network, transform(images, False, 1), [1], steps=4)
    assert (turned - transform(maps, False, 1)).abs().max() > 0.1 * maps.abs().max()
    network = equivariant("Circular")  # C4 knows no mirror
    maps = attribution.attribute(network, images, [1], steps=4)
    mirrored = attribution.attribute(network, transform(images, True, 0), [1], steps=4)
    assert (mirrored - transform(maps, True, 0)).abs().max() > 0.1 * maps.abs().max()


def test_float32_is_close_to_float64():
    network, images = equivariant(), random_images()
    exact, fast = (attribution.attribute(network, images, [0, 1], precision=p) for p in (torch.float64, torch.float32))
    assert fast.dtype == torch.float32 and exact.dtype == torch.float64
    assert (fast - exact).abs().max() < 0.05 * exact.abs().max()


def test_network_is_left_as_it_was():
    network = equivariant()
    network.network.train()
    before = {key: value.clone() for key, value in network.network.state_dict().items()}
    with torch.inference_mode():
        attribution.attribute(network, random_images(), steps=2)
    assert network.network.training and all(p.requires_grad for p in network.network.parameters())
    after = network.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert next(network.network.parameters()).dtype == torch.float32


def test_targets_are_the_predicted_classes_unless_given():
    network, images = equivariant(), random_images(3)
    predicted = attribution.outputs(network, images).argmax(1)
    maps = attribution.attribute(network, images, steps=2, batch_size=2)
    assert torch.equal(maps, attribution.attribute(network, images, predicted, steps=2, batch_size=2))
    other = attribution.attribute(network, images, (predicted + 1) % 3, steps=2)
    assert (maps - other).abs().max() > 0.1 * maps.abs().max()
    torch.testing.assert_close(maps, attribution.attribute(network, images, steps=2), rtol=1e-9, atol=1e-12)


def test_what_does_not_fit_is_refused():
    network, images = classifier_of(Linear(torch.ones(3, 1, 7, 7))), random_images(2, 7)
    for targets in ([0], [0, 3], [-1, 0]):
        with pytest.raises(ValueError, match="expected 2 class numbers from 0 to 2"):
            attribution.attribute(network, images, targets)
    assert attribution.attribute(network, images[:0], []).shape == (0, 7, 7)


# --- where the dark matter is ---


def lens(**values):
    """One lens that bends nothing, but for what is given."""
    plain = {"lens__shear": 0, "source__x": 0, "source__y": 0, "source__effective_radius": 0.03, "lens__total_mass": 0}
    return drawn_lens("no", F, **plain | values)


@pytest.mark.parametrize("pixels", [150, 149])
@pytest.mark.parametrize("preprocess", [Preprocess(), Preprocess(crop=99), ORIGINAL])
@pytest.mark.parametrize("place", [(0.9, 0.45), (-1.1, 0.2), (0.3, -1.3)])
def test_places_are_where_the_simulator_puts_the_light(pixels, preprocess, place):
    """A small source that nothing bends is seen where it is."""
    recipe = edited(F, image={"pixels": pixels})
    p = lens(source__x=place[0], source__y=place[1])
    image = preprocess(render.render(p, recipe)[:, None])[0, 0].double()
    light = (image - image.median()).clamp(min=0.2 * (image.max() - image.median())) - 0.2 * (
        image.max() - image.median()
    )
    rows, columns = torch.meshgrid(*[torch.arange(len(image)).double()] * 2, indexing="ij")
    found = [((light * axis).sum() / light.sum()).item() for axis in (columns, rows)]
    expected = attribution.to_pixels(Truth(p, recipe), preprocess, *map(np.array, place))
    assert found == pytest.approx(expected, abs=0.1)


def test_distances_to_subhalos_and_vortex():
    """Against the distance to many points along the rod; light subhalos don't count."""
    p = lens(
        subhalos={"mass": [2e9, 9e8], "x": [1.0, 0.0], "y": [0.5, 0.0]},
        vortex__mass=3e10, vortex__length=1.2, vortex__x=-0.6, vortex__y=-0.4, vortex__angle=np.degrees(0.7),
    )  # fmt: skip
    truth, preprocess = Truth(p, F), Preprocess()
    (found,) = attribution.distances(truth, preprocess)
    along = np.linspace(-0.6, 0.6, 241)
    points = np.r_[[[1.0, 0.5]], np.c_[-0.6 + along * np.cos(0.7), -0.4 + along * np.sin(0.7)]]
    x, y = (np.arange(129) - 64.5) * 0.05, (64.5 - np.arange(129)) * 0.05
    expected = np.full((129, 129), np.inf)
    for px, py in points:
        expected = np.minimum(expected, np.hypot(x[None] - px, y[:, None] - py))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.isinf(attribution.distances(Truth(lens(), F), preprocess)).all()


# --- do the maps lie on it? ---


def disks(places: np.ndarray, radius: float, size: int = 41) -> np.ndarray:
    """(n, 2) -> (n, size, size) bool."""
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(columns - places[:, 0, None, None], rows - places[:, 1, None, None]) < radius


def ring_places(count: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi, count)
    return 20 + 12 * np.stack([np.cos(angle), np.sin(angle)], 1)


def test_maps_on_the_dark_matter_score_above_chance():
    rng = np.random.default_rng(0)
    near = disks(ring_places(60, rng), 3)
    found = attribution.alignment(near + 0.02 * rng.random(near.shape), near)
    assert found["images"] == 60 and found["fraction"] > 0.5 and found["ratio"] > 4
    assert found["interval"][0] > 3 and found["interval"][0] < found["ratio"] < found["interval"][1]
    assert found["p"] == 1 / (1 + attribution.RESAMPLES)


def test_maps_that_only_crowd_on_the_ring_are_chance():
    """Far more of the map than of the area lies near the dark matter; of others' dark matter too."""
    rng = np.random.default_rng(1)
    near = disks(ring_places(60, rng), 3)
    rows, columns = np.mgrid[:41, :41]
    ring = np.exp(-((np.hypot(columns - 20, rows - 20) - 12) ** 2) / 4)
    found = attribution.alignment(ring * rng.uniform(0.5, 1.5, near.shape), near)
    assert found["fraction"] > 2 * found["area"]
    assert found["interval"][0] < 1 < found["interval"][1] and found["p"] > 0.02


def test_chance_is_the_mean_over_others_by_brute_force():
    rng = np.random.default_rng(2)
    maps, near = rng.random((5, 6, 6)), rng.random((5, 6, 6)) > 0.6
    share = [[(m * mask).sum() / m.sum() for mask in near] for m in maps]
    found = attribution.alignment(maps, near)
    assert found["fraction"] == pytest.approx(np.mean([share[i][i] for i in range(5)]))
    assert found["chance"] == pytest.approx(np.mean([share[i][j] for i in range(5) for j in range(5) if i != j]))
    drawn = [0, 0, 3, 4, 0]
    pairs = [(i, j) for i in drawn for j in drawn if i != j]
    weights = np.bincount(drawn, minlength=5).astype(float)[None]
    own, other = attribution._matched_and_chance(np.array(share), weights)
    assert own[0] == pytest.approx(np.mean([share[i][i] for i in drawn]))
    assert other[0] == pytest.approx(np.mean([share[i][j] for i, j in pairs]))


def test_nothing_to_score():
    empty = attribution.alignment(np.zeros((3, 5, 5)), np.ones((3, 5, 5), bool))
    assert empty["images"] == 0 and empty["ratio"] is None and empty["area"] is None
    one = attribution.alignment(np.ones((2, 5, 5)), np.stack([np.eye(5) > 0, np.zeros((5, 5), bool)]))
    assert one["images"] == 1 and one["ratio"] is None and one["area"] == pytest.approx(0.2)


# --- the whole of it ---


def test_most_confident_right_ones_then_mistakes():
    labels = np.array([0, 0, 0, 0, 0, 1, 1])
    probabilities = np.array([[0.8, 0.2], [0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6]])
    assert explain.most_confident(labels, probabilities) == [[1, 2, 4, 3], [5, 6]]
    assert explain.most_confident(labels, probabilities, correct=1, mistaken=1) == [[1, 4], [5]]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "images_s"
    writer.write_dataset(folder, WIDE, {"train": 1, "val": 8}, seed=4, device="cpu", workers=1, quiet=True)
    return folder


def logits_of(split, mistakes: int = 2) -> np.ndarray:
    """Right but for the first ones."""
    said = np.where(np.arange(len(split.labels)) < mistakes, 2, split.labels)
    return 3.0 * np.eye(3)[said] + np.linspace(0, 0.1, len(said))[:, None] * np.eye(3)[said]


def test_explain_draws_and_scores(simulated, tmp_path):
    split = scan(simulated).splits["val"]
    network = equivariant()
    found = explain.explain(network, split, logits_of(split), tmp_path, scored=5, steps=4)
    assert sorted(f.name for f in tmp_path.iterdir()) == [f"explain.{kind}" for kind in ("json", "pdf", "png")]
    assert json.loads((tmp_path / "explain.json").read_text())["method"] == "gradients"
    assert [g["image"] for g in found["gallery"][:4]] == [f"no/{i:06d}.npy" for i in (7, 6, 1, 0)]
    assert [g["predicted"] for g in found["gallery"]] == ["no", "no", "vort", "vort", *["sphere"] * 2, *["vort"] * 2]
    assert list(found["alignment"]) == ["sphere", "vort"]
    names = [f"vort/{i:06d}.npy" for i in (0, 1, 3, 5, 7)]
    truth = read_truth(simulated, "val", names)
    images = gallery.load_images(network, split, [16, 17, 19, 21, 23])
    maps = attribution.attribute(network, images, [2] * 5, steps=4, precision=torch.float32).abs().numpy()
    near = attribution.distances(truth, network.preprocess) < attribution.NEAR
    own = [(m * mask).sum() / m.sum() for m, mask in zip(maps, near, strict=True)]
    assert found["alignment"]["vort"]["absolute"]["fraction"] == pytest.approx(np.mean(own), rel=1e-3)
    assert found["alignment"]["vort"]["untrained"]["absolute"]["images"] == 5
    assert 0 < found["alignment"]["vort"]["completeness_error"] < 1


def test_untrained_network_is_of_the_same_kind_with_other_weights():
    network, state = equivariant("Dihyderal", "rings", seed=1), torch.get_rng_state()
    other, again = explain._untrained(network), explain._untrained(network)
    assert torch.equal(torch.get_rng_state(), state) and other.network.config == network.network.config
    pairs = zip(*(c.network.state_dict().values() for c in (network, other, again)), strict=True)
    pairs = [(a, b, c) for a, b, c in pairs if a.ndim == 3]
    assert pairs and all(not torch.equal(a, b) and torch.equal(b, c) for a, b, c in pairs)


def test_explain_without_known_dark_matter(tmp_path):
    data = scan(write_images(tmp_path / "images_t", counts={"train": 1, "val": 3}, size=29))
    split, network = data.splits["val"], equivariant(size=29)
    assert network.preprocess == default_preprocess(29)
    out = tmp_path / "out"
    out.mkdir()
    found = explain.explain(network, split, logits_of(split, 0), out, steps=1)
    assert found["alignment"] == {} and found["method"] == "gradients" and len(found["gallery"]) == 6
