"""The command line of the simulator."""

import pytest
import torch
from simulated import contents, refusal, run

from darklens.commands import simulate


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--train", "-1"], "--train"),
        (["--train", "1.5"], "--train"),
        (["--train", "0", "--val", "0"], "nothing to simulate"),
        (["--seed", "x"], "--seed"),
        (["--model", "k"], "--model"),
        (["--subhalo_slope", "nan"], "classes.sphere.subhalos.slope = nan"),
        (["--typo"], "--typo"),
        (["--distances", "parallax"], "--distances"),
    ],
)
def test_bad_flags_exit_2_with_the_reason(tmp_path, capsys, flags, reason):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "out", *flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("usage: simulate.py") and reason in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_exits_2(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "file" / "out", "--train", 1)
    assert stop.value.code == 2 and "cannot write to" in refusal(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_exits_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "out", "--device", "cuda")
    assert stop.value.code == 2 and "no CUDA device" in refusal(capsys)


def test_sheet(tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    assert simulate.main(["--model", "f", "--sheet", str(tmp_path / "sheet.png"), "--device", "cpu"]) == 0
    picture = matplotlib_image.imread(tmp_path / "sheet.png")
    assert picture.shape[:2] == (900, 900) and picture[..., :3].std() > 0.2
    assert [*contents(tmp_path)] == ["sheet.png"]
