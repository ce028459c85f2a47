"""What only a GPU can show: `pytest -m cuda`. The same results as on a CPU, and what goes wrong there."""

import numpy as np
import pytest
import torch
from conftest import write_images
from programs import run, trained
from trainers import RECIPE, assert_same, make

from darklens.classifier.classifier import evaluator
from darklens.classifier.saved import load_model
from darklens.data import batches as data_batches
from darklens.data import folder as data_folder
from darklens.data import transforms
from darklens.data.endless import Endless
from darklens.errors import TrainingError
from darklens.networks.equivariant import build_network
from darklens.networks.resnet import build_resnet
from darklens.simulation import draw, recipes, render, writer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CONFIG = {"channels": 1, "classes": 3, "size": 33}
NETWORKS = {
    "resnet": lambda: build_resnet(CONFIG),
    **{
        name: lambda group=group, order=order: build_network(
            {**CONFIG, "sym_group": group, "N": order, "arch": "compact"}
        )
        for name, group, order in [("C4", "Circular", 4), ("C8", "Circular", 8), ("D8", "Dihyderal", 8)]
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images_t", counts={"train": 7, "val": 3}, size=36)


def pair(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same network on both devices."""
    torch.manual_seed(0)
    here = NETWORKS[name]().double()
    there = NETWORKS[name]().double()
    there.load_state_dict(here.state_dict())
    return here, there.to("cuda", memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NETWORKS)
def test_same_as_on_a_cpu(name):
    """Outputs, gradients and running statistics of a training step, in float64."""
    here, there = pair(name)
    images = torch.rand(6, 1, 33, 33, dtype=torch.float64)
    losses = [network(images.to(next(network.parameters()).device)).square().sum() for network in (here, there)]
    torch.testing.assert_close(losses[0], losses[1].cpu(), rtol=1e-9, atol=1e-9)
    for loss in losses:
        loss.backward()
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad.cpu(), rtol=1e-7, atol=1e-9)
    for a, b in zip(here.buffers(), there.buffers(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision, limit", [("fp32", 1e-3), ("bf16", 0.1)])
@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_in_lower_precision(name, precision, limit):
    """Folded, as it runs in tests and predictions; relative to the spread of the logits. TF32 may be on."""
    here, there = pair(name)
    images = torch.rand(16, 1, 33, 33)
    expected = evaluator(here, "cpu", "fp32")(images.double())
    found = evaluator(there.float(), "cuda", precision)(images).cpu()
    assert (found - expected).abs().max() < limit * max(expected.std(), expected.abs().mean())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_training_is_the_eager_one(folder, tmp_path, precision):
    curves = []
    for compiled in (False, True):
        run = make(folder, tmp_path / str(compiled), precision=precision, compiled=compiled)
        run.network.to("cuda", memory_format=torch.channels_last)
        run.train.device = run.val.device = torch.device("cuda")
        run.fit()
        curves.append(run.curves["train_loss"])
    np.testing.assert_allclose(*curves, rtol=1e-2 if precision == "fp32" else 0.1)


def test_program_learns_resumes_and_tests_on_a_gpu(tmp_path, monkeypatch):
    """Trained on the GPU, its checkpoint gives the CPU the same probabilities."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images_t", size=40)
    folder = trained(tmp_path, "--use_cuda", "True", "--precision", "fp32")
    assert run("--resume", folder.name, "--quiet") == 0
    assert run("--test_time", folder.name, "--quiet") == 0
    model = folder / "best-model-parameters.pt"
    images = np.stack([np.load(path) for path in sorted((tmp_path / "images_t/val").rglob("*.npy"))])
    here, there = (load_model(model, device).predict(images) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(here, there, atol=2e-3)


def test_resumed_run_goes_on_with_the_state_of_the_gpu(folder, tmp_path):
    """Weights, optimiser and random numbers come back to the bit."""

    def new(recipe=RECIPE):
        run = make(folder, tmp_path / "r", recipe)
        run.network.to("cuda")
        run.train.device = run.val.device = torch.device("cuda")
        return run

    first = new()
    first._train_epoch()
    first.save()
    second = new()
    second.resume()
    assert_same(first, second)
    for a, b in zip(first.optimiser.state.values(), second.optimiser.state.values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("exp_avg", "exp_avg_sq"))


def test_memory_that_is_full_is_one_line(folder, tmp_path):
    free = torch.cuda.mem_get_info()[0]
    run = make(folder, tmp_path / "r")
    run._train_step = lambda batch: torch.empty(2 * free, dtype=torch.uint8, device="cuda")
    with pytest.raises(TrainingError, match="GPU's memory is full at batch size 5: lower --batch_size"):
        run.fit()
    assert not (tmp_path / "r" / "best-model-parameters.pt").exists()


def test_endless_images_are_rendered_on_the_gpu(tmp_path):
    """The lenses are those of a CPU; the noise, of the right size, is the same each time."""
    recipe = recipes.RECIPES["f"]
    writer.write_dataset(tmp_path / "images", recipe, {"train": 1, "val": 1}, device="cpu", quiet=True)
    data = data_folder.scan(tmp_path / "images")
    batches = Endless("f", 48, data, transforms.default_preprocess(150), 16, "cuda", seed=1)
    first, again = (next(batches._stream([np.arange(16)])) for _ in range(2))
    assert first.device.type == "cuda" and torch.equal(first, again)
    rate = torch.cat(
        [render.render(draw.draw(recipe, recipes.CLASSES[i % 3], 1, "train", [i // 3]), recipe) for i in range(16)]
    )
    pulls = (first[:, 0].cpu() - rate) / rate.sqrt()
    assert abs(float(pulls.mean())) < 0.01 and 0.99 < float(pulls.std()) < 1.01


def test_two_streams_of_data_do_not_stall(tmp_path):
    """Two sets of batches feed one GPU in turn, from memory and from disk: the same images arrive from both."""
    write_images(tmp_path / "images", counts={"train": 64, "val": 2}, size=40)
    data = data_folder.scan(tmp_path / "images")
    options = {"device": "cuda", "train": True, "progress": False}
    prepared = transforms.default_preprocess(data.size)
    streams = [
        data_batches.Batches(data.splits["train"], data, prepared, 16, workers=2, memory_limit=limit, **options).epoch()
        for limit in (None, 0)
    ]
    for a, b in zip(*streams, strict=True):
        torch.testing.assert_close(a.images, b.images, rtol=0, atol=0)
