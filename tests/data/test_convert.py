"""Converting: the split, the files, and sources that cannot be."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from conftest import ROOT  # noqa: E402
from data_sets import paths
from pairs import BOMB, assert_one_line, pair, saved, scene
from PIL import Image

from darklens.commands import data as commands_data
from darklens.data import convert
from darklens.data import folder as data_folder
from darklens.data.image import read_image
from darklens.data.labelled import ALIASES
from darklens.data.split import SPLITS, draw_split
from darklens.errors import DataError, UsageError


def make_source(root: Path, count: int = 10, size: int = 32) -> Path:
    """As DeepLense Models I to III: (1, size, size) images, and [image, mass] pairs for axions."""
    for number, name in enumerate(("axion", "cdm", "no_sub")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = scene(100 * number + i, size)
            path = root / name / f"{name}_{i}.npy"
            np.save(path, pair(image, 1e-24 * (i + 1)) if name == "axion" else image[None], allow_pickle=True)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_program_reads_what_is_made(tmp_path):
    src = make_source(tmp_path / "Model_I")
    record = convert.convert(src, tmp_path / "lenses")
    folder = data_folder.scan(tmp_path / "lenses")
    assert folder.classes == ("axion", "cdm", "no_sub") and (folder.channels, folder.size) == (1, 32)
    assert {name: len(split) for name, split in folder.splits.items()} == {"train": 24, "val": 3, "test": 3}
    assert record["images"]["val"] == {"axion": 1, "cdm": 1, "no_sub": 1}
    assert record == json.loads((tmp_path / "lenses" / "convert.json").read_text())
    assert record["skipped"] == folder.skipped == 0


def test_every_image_is_there_once_bit_for_bit_with_its_mass(tmp_path):
    src, dst = make_source(tmp_path / "src"), tmp_path / "dst"
    record = convert.convert(src, dst, 0.3, 0.2)
    assert set(record["files"]) == {name for name in contents(dst) if name.endswith(".npy")}
    assert sorted(entry["source"] for entry in record["files"].values()) == list(contents(src))
    for name, entry in record["files"].items():
        image = np.load(dst / name, allow_pickle=False)
        number, index = ["axion", "cdm", "no_sub"].index(Path(name).parent.name), int(Path(name).stem.split("_")[-1])
        assert image.dtype == float and np.array_equal(image, scene(100 * number + index))
        assert entry.get("mass") == (1e-24 * (index + 1) if number == 0 else None)


def test_source_is_left_as_it_was_and_nothing_else_is_made(tmp_path):
    src = make_source(tmp_path / "src")
    before = contents(src)
    convert.convert(src, tmp_path / "dst")
    assert contents(src) == before
    assert sorted(os.listdir(tmp_path)) == ["dst", "src"]
    assert (tmp_path / "dst").stat().st_mode == (tmp_path / "src").stat().st_mode


def test_equal_calls_give_equal_bytes_whatever_the_order_of_the_folder(tmp_path, monkeypatch):
    src = make_source(tmp_path / "src")
    convert.convert(src, tmp_path / "a", seed=3)
    scandir = os.scandir

    class Backwards(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Backwards(sorted(scandir(path), key=lambda e: e.name)[::-1]))
    convert.convert(src, tmp_path / "b", seed=3)
    monkeypatch.undo()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    convert.convert(src, tmp_path / "c", seed=4)
    assert set(contents(tmp_path / "a")) != set(contents(tmp_path / "c"))


@pytest.mark.parametrize(
    ("count", "val", "test", "expected"),
    [(10, 0.1, 0.1, (8, 1, 1)), (10, 0.2, 0, (8, 2, 0)), (10, 0.5, 0.4, (1, 5, 4)), (3, 0.01, 0.01, (1, 1, 1))],
)
def test_fractions(count, val, test, expected):
    files = [f"{i}.npy" for i in range(count)]
    splits = draw_split(files, "cdm", val, test, 0)
    assert tuple(list(splits.values()).count(name) for name in SPLITS) == expected
    assert set(splits) == set(files)


def test_the_split_is_random_and_differs_between_classes():
    files = [f"{i}.npy" for i in range(4000)]
    chosen = [{f for f, s in draw_split(files, name, 0.25, 0, 0).items() if s == "val"} for name in ("a", "b")]
    assert len(chosen[0]) == len(chosen[1]) == 1000
    assert abs(len(chosen[0] & chosen[1]) - 250) < 5 * 12  # hypergeometric: standard deviation 11.9
    assert abs(np.mean([int(file[:-4]) for file in chosen[0]]) - 2000) < 5 * 32


def test_all_formats_and_names_that_collide(tmp_path):
    src = make_source(tmp_path / "src")
    folder, image = src / "cdm", scene(7)
    for path in folder.iterdir():
        path.unlink()
    np.save(folder / "a.npy", image)
    np.save(folder / "a-2.npy", image + 1)
    np.save(folder / "A.NPY.npy", image + 2)
    fits.PrimaryHDU(image + 3).writeto(folder / "a.fits")
    with fits.HDUList([fits.PrimaryHDU(image + 4)]) as hdus:
        hdus[0].header["BUNIT"] = "count"
        hdus.writeto(folder / "a.fits.gz")
    Image.fromarray((image + 5).astype("uint16")).save(folder / "A.png")
    Image.fromarray((image + 6).astype("float32")).save(folder / "b.tif")
    edge = image + 7
    edge[0] = np.nan
    fits.PrimaryHDU(edge).writeto(folder / "b.fits")
    record = convert.convert(src, tmp_path / "dst")
    made = {entry["source"]: (name, entry) for name, entry in record["files"].items() if "/cdm/" in name}
    assert len(made) == 8 and len({Path(name).name.casefold() for name, _ in made.values()}) == 8
    values = {
        "a.npy": 0,
        "a-2.npy": 1,
        "A.NPY.npy": 2,
        "a.fits": 3,
        "a.fits.gz": 4,
        "A.png": 5,
        "b.tif": 6,
        "b.fits": 7,
    }
    for name, value in values.items():
        assert np.array_equal(np.load(tmp_path / "dst" / made[f"cdm/{name}"][0])[1:], image[1:] + value)
    assert made["cdm/a.fits.gz"][1]["unit"] == "count"
    assert "32 NaN" in made["cdm/b.fits"][1]["note"]
    assert len(data_folder.scan(tmp_path / "dst").splits["train"]) == 8 + 6 + 8


def test_number_types_are_kept(tmp_path):
    src = make_source(tmp_path / "src", 3)
    for index, dtype in enumerate(["u1", ">i2", "<f2"]):
        np.save(src / "cdm" / f"cdm_{index}.npy", (scene(index) % 100).astype(dtype))
    np.save(src / "axion" / "axion_0.npy", pair(np.asfortranarray(scene(7)).astype(">f4"), 1), allow_pickle=True)
    record = convert.convert(src, tmp_path / "dst", 0.1, 0.1)
    kinds = {e["source"]: np.load(tmp_path / "dst" / name).dtype.str for name, e in record["files"].items()}
    assert [kinds[f"cdm/cdm_{index}.npy"] for index in range(3)] == ["|u1", "<i2", "<f2"]
    assert kinds["axion/axion_0.npy"] == "<f4"


def test_strays_are_passed_over_and_counted(tmp_path):
    src = make_source(tmp_path / "src")
    (src / "README.txt").write_text("hello")
    (src / ".DS_Store").write_text("")
    (src / "__MACOSX").mkdir()
    (src / "cdm" / "._cdm_0.npy").write_text("")
    (src / "cdm" / "list.csv").write_text("")
    (src / "cdm" / "folder.npy").mkdir()
    (src / "cdm" / "loop.npy").symlink_to(src / "cdm" / "loop.npy")
    record = convert.convert(src, tmp_path / "dst")
    assert record["skipped"] == 7 and len(record["files"]) == 30


def test_an_empty_folder_is_taken_a_full_one_is_not(tmp_path):
    src, dst = make_source(tmp_path / "src"), tmp_path / "dst"
    dst.mkdir()
    convert.convert(src, dst)
    before = contents(dst)
    with pytest.raises(UsageError) as error:
        convert.convert(src, dst)
    assert_one_line(error, dst, "empty")
    assert contents(dst) == before


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"val": 0}, "0 < val"),
        ({"val": float("nan")}, "0 < val"),
        ({"test": -0.1}, "test -0.1"),
        ({"val": 0.5, "test": 0.5}, "val 0.5, test 0.5"),
        ({"src": "nowhere"}, "no such folder"),
        ({"dst": "src/out"}, "only read"),
        ({"dst": "src"}, "only read"),
        ({"dst": "nowhere/out"}, "no such folder"),
        ({"dst": "file"}, "empty"),
        ({"dst": "link"}, "only read"),
    ],
)
def test_calls_that_cannot_be_meant(tmp_path, monkeypatch, capsys, options, part):
    make_source(tmp_path / "src", 3)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "src" / "cdm")
    monkeypatch.chdir(tmp_path)
    options = {"src": "src", "dst": "dst", "val": 0.1, "test": 0.1} | options
    before = contents(tmp_path)
    words = [options["src"], options["dst"], f"--val={options['val']}", f"--test={options['test']}"]
    assert commands_data.main(["convert", *words]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and part in err
    assert contents(tmp_path) == before and not (tmp_path / "dst").exists()


def spoil(src: Path, how: str) -> Path:
    """Make a source that can't be converted; the file or folder to be named."""
    victim = src / "no_sub" / "no_sub_9.npy"
    if how == "one class":
        for name in ("cdm", "no_sub"):
            shutil.rmtree(src / name)
        return src
    if how == "classes called splits":
        for old, new in (("axion", "train"), ("cdm", "val"), ("no_sub", "test")):
            (src / old).rename(src / new)
        return src / "train"
    if how == "classes that differ":
        for split, names in (("train", "ab"), ("val", "a")):
            for name in names:
                shutil.copytree(src / "cdm", src / split / name)
        shutil.copytree(src / "cdm", src / "val" / "c")
        return src
    if how == "no train":
        for name in ("axion", "cdm", "no_sub"):
            shutil.rmtree(src / name)
        make_source(src / "val", 3)
        return src
    if how == "lossy pictures":
        for path in (src / "cdm").iterdir():
            path.rename(path.with_suffix(".jpg"))
        return src / "cdm"
    if how in ("empty class", "two images"):
        for path in sorted((src / "cdm").iterdir())[0 if how == "empty class" else 2 :]:
            path.unlink()
        return src / "cdm"
    shape = {
        "another size": (33, 33),
        "another size, oblong": (33, 40),
        "three channels": (3, 32, 32),
        "too small": (28, 28),
    }
    image = np.ones(shape.get(how, (32, 32)))
    image[..., 5, 5] = np.nan if how == "NaN" else 1
    np.save(victim, image)
    if how == "truncated":
        victim.write_bytes(victim.read_bytes()[:500])
    return victim


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("one class", "two or more folders"),
        ("classes called splits", "two or more folders"),
        ("classes that differ", "train has no c"),
        ("no train", "expected train among the splits, found val"),
        ("lossy pictures", "found 0; cdm_0.jpg: a lossy picture"),
        ("empty class", "found 0"),
        ("two images", "found 2"),
        ("another size", "like axion/axion_0.npy, found (1, 33, 33)"),
        ("another size, oblong", "like axion/axion_0.npy, found (1, 33, 40)"),
        ("three channels", "found (3, 32, 32)"),
        ("too small", "29 x 29"),
        ("NaN", "1 NaN"),
        ("truncated", "truncated"),
    ],
)
def test_bad_sources_are_one_line_and_leave_nothing(tmp_path, capsys, how, part):
    named = spoil(make_source(tmp_path / "src"), how)
    assert commands_data.main(["convert", str(tmp_path / "src"), str(tmp_path / "dst")]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and str(named) in err and part in err
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize("shapes", [[(32, 40)], [(33, 32), (32, 33), (32, 32), (32, 60)]])
def test_oblong_images_are_cropped_about_their_centre(tmp_path, capsys, shapes):
    for name in ("a", "b"):
        (tmp_path / "src" / name).mkdir(parents=True)
        for i in range(12):
            np.save(
                tmp_path / "src" / name / f"{i}.npy",
                scene(i, 60)[: shapes[i % len(shapes)][0], : shapes[i % len(shapes)][1]],
            )
    assert commands_data.main(["convert", str(tmp_path / "src"), str(tmp_path / "dst")]) == 0
    assert f"the middle of {shapes[0][0]} x {shapes[0][1]} pixels taken in" in capsys.readouterr().out
    data = data_folder.scan(tmp_path / "dst")
    assert data.size == 32
    for split in data.splits.values():
        for path in paths(split):
            source = tmp_path / "src" / path.parent.name / path.name
            assert np.array_equal(read_image(path), read_image(source))


def test_which_hdu_was_taken_is_said(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "src" / name).mkdir(parents=True)
        for i in range(3):
            hdus = [
                fits.PrimaryHDU(),
                fits.ImageHDU((scene(i) > 50).astype("u1"), name="MASK"),
                fits.ImageHDU(scene(i), name="DATA"),
            ]
            fits.HDUList([*hdus, fits.ImageHDU(scene(i + 1), name="NOISE_MAP")]).writeto(
                tmp_path / "src" / name / f"{i}.fits"
            )
    assert commands_data.main(["convert", str(tmp_path / "src"), str(tmp_path / "dst")]) == 0
    assert "HDU 2 (DATA) of 3 images taken in 6" in capsys.readouterr().out
    record = json.loads((tmp_path / "dst" / "convert.json").read_text())
    for target, entry in record["files"].items():
        assert entry["note"] == "HDU 2 (DATA) of 3 images"
        assert np.array_equal(np.load(tmp_path / "dst" / target), scene(int(Path(target).stem)))


@pytest.mark.parametrize(
    "folders, expected",
    [
        (["train", "val", "test"], {"train": 6, "val": 6, "test": 6}),
        (["train", "val"], {"train": 6, "val": 6}),
        (["Train", "Validation"], {"train": 6, "val": 6}),
        (["training", "valid", "testing", "plots"], {"train": 6, "val": 6, "test": 6}),
        (["train", "test"], {"train": 5, "val": 1, "test": 6}),
        (["train"], {"train": 4, "val": 1, "test": 1}),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "fits", "pairs"])
def test_a_split_that_is_there_is_kept(tmp_path, folders, expected, kind):
    for number, folder in enumerate(folders):
        make_source(tmp_path / "src" / folder, 6)
        for path in (tmp_path / "src" / folder).rglob("*.npy"):
            image = scene(int(path.stem.split("_")[-1]) + 10 * number)
            if kind == "fits":
                fits.PrimaryHDU(image).writeto(path.with_suffix(".fits"))
                path.unlink()
            else:
                np.save(path, pair(image, 1.0) if kind == "pairs" else image, allow_pickle=True)
    if "plots" in folders:
        shutil.rmtree(tmp_path / "src" / "plots")
        (tmp_path / "src" / "plots").mkdir()
    record = convert.convert(tmp_path / "src", tmp_path / "dst")
    assert {split: set(counts.values()) for split, counts in record["images"].items()} == {
        k: {v} for k, v in expected.items()
    }
    for target, entry in record["files"].items():
        split, name, file = target.split("/")
        folder, *rest = entry["source"].split("/")
        assert rest == [name, file if kind != "fits" else file.replace(".npy", ".fits")]
        assert ALIASES[folder.lower()] == split or folder == "train"
        source = convert.read_source(tmp_path / "src" / entry["source"])[0].pixels[0]
        assert np.array_equal(np.load(tmp_path / "dst" / target), source)
    assert data_folder.scan(tmp_path / "dst").classes == ("axion", "cdm", "no_sub")


@pytest.mark.parametrize("kind", ["fits", "pairs"])
def test_training_and_convert_do_not_send_to_each_other(tmp_path, kind):
    """What training says convert reads, convert does read."""
    for split in ("train", "val"):
        make_source(tmp_path / "src" / split, 3)
        for path in (tmp_path / "src" / split).rglob("*.npy"):
            if kind == "fits":
                fits.PrimaryHDU(scene(1)).writeto(path.with_suffix(".fits"))
                path.unlink()
    with pytest.raises(DataError, match="dataset.py convert"):
        data_folder.scan(tmp_path / "src")
    convert.convert(tmp_path / "src", tmp_path / "dst")
    assert len(data_folder.scan(tmp_path / "dst").splits["train"]) == 9


@pytest.mark.parametrize("count", [0, 7])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, count):
    save, calls = np.save, []

    def full(path, array):
        calls.append(path)
        if len(calls) > count:
            raise OSError(28, "No space left on device", str(path))
        save(path, array)

    make_source(tmp_path / "src")
    monkeypatch.setattr(np, "save", full)
    assert commands_data.main(["convert", str(tmp_path / "src"), str(tmp_path / "dst")]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and "No space left" in err
    assert os.listdir(tmp_path) == ["src"]


SLOW = """
import signal, sys, time
from darklens.commands import data
from darklens.data import convert
signal.signal(signal.SIGINT, signal.default_int_handler)
convert.np.save = lambda path, array: time.sleep(0.05)
sys.exit(data.main(["convert", "src", "dst"]))
"""


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("INT", 130)])
def test_signals_leave_nothing(tmp_path, name, status, environment):
    make_source(tmp_path / "src", 40)
    process = subprocess.Popen([sys.executable, "-c", SLOW], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    while not list(tmp_path.glob(".dst.*.partial/unsorted")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert len(process.communicate(timeout=30)[1].splitlines()) <= 1
    assert process.returncode == status
    assert os.listdir(tmp_path) == ["src"]


def test_command_line_of_both_programs(tmp_path, environment):
    make_source(tmp_path / "src", 3)
    done = {}
    for name, program in (("a", [str(ROOT / "dataset.py")]), ("b", ["-m", "darklens"])):
        command = [sys.executable, *program, "convert", tmp_path / "src", tmp_path / name, "--seed", "5"]
        done[name] = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done[name].returncode == 0 and not done[name].stderr
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for text in ("32 x 32 pixels", "train: 1 axion, 1 cdm, 1 no_sub"):
        assert text in done["a"].stdout and text in done["b"].stdout


@pytest.mark.parametrize("words", [[], ["copy"], ["convert"], ["convert", "a"], ["convert", "a", "b", "--val", "x"]])
def test_wrong_command_lines_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as error:
        commands_data.main(words)
    assert error.value.code == 2 and "usage: dataset.py" in capsys.readouterr().err


def test_convert_does_not_load_torch():
    subprocess.run(
        [sys.executable, "-c", "import sys, darklens.data.convert; sys.exit('torch' in sys.modules)"],
        cwd=ROOT,
        check=True,
    )


def test_an_evil_file_ends_the_conversion_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_source(tmp_path / "src")
    victim = tmp_path / "src" / "axion" / "axion_3.npy"
    victim.write_bytes(saved(pair(scene(1), BOMB)))
    assert commands_data.main(["convert", "src", "dst"]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and "axion_3.npy" in err and "nothing was run" in err
    assert os.listdir(tmp_path) == ["src"]
