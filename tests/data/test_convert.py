"""convert.py against what its docstrings promise: the split, the files, and pickles that mean harm."""

import io
import json
import os
import pickle
import pickletools
import re
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from darklens.commands import data as commands_data
from darklens.commands.data import main
from darklens.data import convert, pickles
from darklens.data import folder as data_folder
from darklens.data import image as data_image
from darklens.data.convert import read_source
from darklens.data.pickles import Refused, parse_pickle
from darklens.errors import DataError, UsageError


def scene(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).poisson(300, (size, size)).astype(float)


def pair(image: object, mass: object) -> np.ndarray:
    """What `np.save(path, [image, mass])` made of the axion images of DeepLense."""
    both = np.empty(2, object)
    both[0], both[1] = image, mass
    return both


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


def assert_one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert str(part) in message


# --- convert ------------------------------------------------------------------------------------------------


def test_the_program_reads_what_is_made(tmp_path):
    src = make_source(tmp_path / "Model_I")
    record = convert.convert(src, tmp_path / "lenses")
    folder = data_folder.scan(tmp_path / "lenses")
    assert folder.classes == ("axion", "cdm", "no_sub") and (folder.channels, folder.size) == (1, 32)
    assert {name: len(split.paths) for name, split in folder.splits.items()} == {"train": 24, "val": 3, "test": 3}
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
    splits = convert._split(files, "cdm", val, test, 0)
    assert tuple(list(splits.values()).count(name) for name in convert.SPLITS) == expected
    assert set(splits) == set(files)


def test_the_split_is_random_and_differs_between_classes():
    files = [f"{i}.npy" for i in range(4000)]
    chosen = [{f for f, s in convert._split(files, name, 0.25, 0, 0).items() if s == "val"} for name in ("a", "b")]
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
    assert len(data_folder.scan(tmp_path / "dst").splits["train"].paths) == 8 + 6 + 8


def test_number_types_are_kept(tmp_path):
    src = make_source(tmp_path / "src", 3)
    for index, dtype in enumerate(["u1", ">i2", "<f2"]):
        np.save(src / "cdm" / f"cdm_{index}.npy", (scene(index) % 100).astype(dtype))
    np.save(src / "axion" / "axion_0.npy", pair(np.asfortranarray(scene(1)).astype(">f4"), 1), allow_pickle=True)
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
    assert main([options["src"], options["dst"], f"--val={options['val']}", f"--test={options['test']}"]) == 2
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
    if how == "split already":
        for old, new in (("axion", "train"), ("cdm", "val"), ("no_sub", "test")):
            (src / old).rename(src / new)
        return src
    if how in ("empty class", "two images"):
        for path in sorted((src / "cdm").iterdir())[0 if how == "empty class" else 2 :]:
            path.unlink()
        return src / "cdm"
    shape = {"another size": (33, 33), "not square": (32, 33), "three channels": (3, 32, 32), "too small": (28, 28)}
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
        ("split already", "split already"),
        ("empty class", "found 0"),
        ("two images", "found 2"),
        ("another size", "like axion/axion_0.npy, found (1, 33, 33)"),
        ("not square", "found (1, 32, 33)"),
        ("three channels", "found (3, 32, 32)"),
        ("too small", "29 x 29"),
        ("NaN", "1 NaN"),
        ("truncated", "truncated"),
    ],
)
def test_bad_sources_are_one_line_and_leave_nothing(tmp_path, capsys, how, part):
    named = spoil(make_source(tmp_path / "src"), how)
    assert main([str(tmp_path / "src"), str(tmp_path / "dst")]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and str(named) in err and part in err
    assert os.listdir(tmp_path) == ["src"]


def test_square_is_asked_for_even_where_all_are_alike(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "src" / name).mkdir(parents=True)
        for i in range(3):
            np.save(tmp_path / "src" / name / f"{i}.npy", np.ones((32, 40)))
    with pytest.raises(DataError) as error:
        convert.convert(tmp_path / "src", tmp_path / "dst")
    assert_one_line(error, tmp_path / "src" / "a" / "0.npy", "square", "(1, 32, 40)")


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
    assert main([str(tmp_path / "src"), str(tmp_path / "dst")]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and "No space left" in err
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("INT", 130)])
def test_signals_leave_nothing(tmp_path, name, status, environment):
    make_source(tmp_path / "src", 40)
    code = "import signal, sys; from darklens.data import convert; from darklens.commands import data; signal.signal(signal.SIGINT, signal.default_int_handler); convert.np.save = "
    code += "lambda path, array: __import__('time').sleep(0.05); sys.exit(data.main(['convert', 'src', 'dst']))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    while not list(tmp_path.glob(".dst.*.partial/train/axion")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert len(process.communicate(timeout=30)[1].splitlines()) <= 1
    assert process.returncode == status
    assert os.listdir(tmp_path) == ["src"]


def test_command_line_of_both_programs(tmp_path, environment):
    make_source(tmp_path / "src", 3)
    done = {}
    for name, words in (("a", ["dataset.py", "convert"]), ("b", ["convert.py"])):
        command = [sys.executable, ROOT / words[0], *words[1:], tmp_path / "src", tmp_path / name, "--seed", "5"]
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


# --- pickled pairs ------------------------------------------------------------------------------------------

OBJECTS = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }".ljust(117) + b"\n"


def saved(thing: object, protocol: int = 4) -> bytes:
    """A .npy file that pickles anything."""
    return OBJECTS + pickle.dumps(thing, protocol=protocol)


def read(folder: Path, content: bytes) -> tuple[data_image.Picture, float | None]:
    (folder / "x.npy").write_bytes(content)
    return read_source(folder / "x.npy")


def refuse(folder: Path, content: bytes, *parts: str) -> None:
    with pytest.raises(DataError) as error:
        read(folder, content)
    assert_one_line(error, folder / "x.npy", *parts)


def test_the_header_here_is_the_one_that_numpy_writes():
    file = io.BytesIO()
    np.save(file, pair(scene(0), 1.0), allow_pickle=True)
    assert file.getvalue().startswith(OBJECTS)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "f2", "u1", ">u2", "i8"])
@pytest.mark.parametrize("order", "CF")
def test_pairs_of_every_protocol_and_type(tmp_path, protocol, dtype, order):
    truth = np.asarray(scene(1)[:, :30] % 128, dtype, order=order)
    picture, mass = read(tmp_path, saved(pair(truth, 3e-24), protocol))
    assert np.array_equal(picture.pixels, truth[None]) and picture.pixels.dtype == np.dtype(dtype).newbyteorder("=")
    assert mass == 3e-24


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "mass", [3e-24, 7, -3, 2**40, np.float64(3e-24), np.float32(0.1), np.int16(5), np.array(2.5), np.array([[4]])]
)
def test_masses_of_every_kind(tmp_path, protocol, mass):
    found = read(tmp_path, saved(pair(scene(1), mass), protocol))[1]
    assert type(found) is float and found == float(np.asarray(mass).reshape(()))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_both_spellings_of_numpys_module(tmp_path, module):
    content = saved(pair(scene(1), np.float64(2)), 2)
    content = re.sub(rb"numpy\._?core\.multiarray", module, content)
    assert read(tmp_path, content)[1] == 2


def python2(image: np.ndarray, mass: float) -> bytes:
    """The pickle of a pair as Python 2 wrote it: byte strings, integers for truth values."""
    floats = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    objects = floats.replace(b"f8", b"O8").replace(b"<", b"|").replace(b"K\x00tb", b"K?tb")
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    data = image.astype("<f8").tobytes()
    inner = start + b"K%cK%c\x86" % image.shape + floats + b"\x89T" + len(data).to_bytes(4, "little") + data + b"tb"
    return b"\x80\x02" + start + b"K\x02\x85" + objects + b"\x89](" + inner + pickle.dumps(mass, 2)[2:-1] + b"etb."


def test_pairs_of_python_2(tmp_path):
    content = python2(scene(1), 5e-24)
    loaded = pickle.loads(content, encoding="latin1")
    assert np.array_equal(loaded[0], scene(1)) and loaded[1] == 5e-24  # it is what it should be
    picture, mass = read(tmp_path, OBJECTS + content)
    assert np.array_equal(picture.pixels[0], scene(1)) and mass == 5e-24


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class State:
    """Pickles as an array whose state is `state`."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return np.ndarray.__reduce__(np.zeros(1))[:2] + (self.state,)


def renamed(old: str, new: str) -> bytes:
    """A good pair in protocol 2, which spells names out, with one of them replaced."""
    content = pickle.dumps(pair(scene(1), np.float64(2)), 2)
    assert old.encode() in content
    return OBJECTS + content.replace(old.encode(), new.encode())


F8, OBJECT = np.dtype("f8"), np.dtype("O")
BOMB = Call(os.mkdir, "bomb")
GOOD = saved(pair(scene(1), 2.0))
EVIL = {  # name -> (the file's bytes, part of the message)
    "os.mkdir": (saved(BOMB), ".mkdir"),
    "os.mkdir, protocol 2": (saved(BOMB, 2), ".mkdir"),
    "os.mkdir as the mass": (saved(pair(scene(1), BOMB)), ".mkdir"),
    "os.mkdir as the image": (saved(pair(BOMB, 2.0)), ".mkdir"),
    "os.system": (saved(Call(os.system, "mkdir bomb")), ".system"),
    "subprocess": (saved(Call(subprocess.check_output, ["mkdir", "bomb"])), "subprocess.check_output"),
    "eval": (saved(Call(eval, "__import__('os').mkdir('bomb')")), ".eval"),
    "exec": (saved(Call(exec, "import os; os.mkdir('bomb')")), ".exec"),
    "getattr": (saved(Call(getattr, 7, "real")), "getattr"),
    "import": (saved(Call(__import__, "os")), ".__import__"),
    "numpy.load": (saved(Call(np.load, "evil.npy", None, True)), "numpy.load"),
    "numpy.load instead of dtype": (renamed("numpy\ndtype", "numpy\nload"), "numpy.load"),
    "numpy.fromfile": (renamed("numpy\ndtype", "numpy\nfromfile"), "numpy.fromfile"),
    "numpy.memmap": (renamed("numpy\nndarray", "numpy\nmemmap"), "numpy.memmap"),
    "numpy.testing": (renamed("numpy\ndtype", "numpy.testing._private.utils\nrunstring"), "runstring"),
    "numpy.f2py": (renamed("numpy\ndtype", "numpy.f2py.crackfortran\nmyeval"), "myeval"),
    "codecs.decode": (renamed("_codecs\nencode", "_codecs\ndecode"), "_codecs.decode"),
    "dots in the name": (renamed("numpy\ndtype", "numpy\ncore.multiarray.__builtins__"), "__builtins__"),
    "encode by rot13": (renamed("latin1", "rot_13"), "bytes"),
    "persistent": (OBJECTS + b"\x80\x04K\x01Q.", "operation 'Q'"),
    "persistent text": (OBJECTS + b"Pevil\n.", "operation 'P'"),
    "extension registry": (OBJECTS + b"\x80\x02\x82\x01.", "operation"),
    "instance": (OBJECTS + b"(S'mkdir bomb'\nios\nsystem\n.", "operation"),
    "object": (OBJECTS + b"(cos\nsystem\nU\nmkdir bombo.", "os.system"),
    "new object": (OBJECTS + b"\x80\x04cnumpy\nndarray\n)\x81.", "operation"),
    "dictionary": (saved({"a": 1}), "operation '}'"),
    "set": (saved({1, 2}), "operation"),
    "buffer out of band": (OBJECTS + b"\x80\x05\x97.", "operation"),
    "long text number": (OBJECTS + b"L" + b"9" * 100_000 + b"L\n.", "operation 'L'"),
    "name from numbers": (OBJECTS + b"\x80\x04K\x01K\x02\x93.", "no text"),
    "call of a number": (OBJECTS + b"\x80\x04K\x01)R.", "damaged"),
    "call of a list": (OBJECTS + b"\x80\x04cnumpy\ndtype\n]R.", "damaged"),
    "state of a number": (OBJECTS + b"\x80\x04K\x01K\x02b.", "damaged"),
    "state twice": (OBJECTS + b"\x80\x04cnumpy\ndtype\n)RK\x01bK\x02b.", "damaged"),
    "append to a tuple": (OBJECTS + b"\x80\x04)K\x01a.", "damaged"),
    "stack underflow": (OBJECTS + b"\x80\x04\x87.", "damaged"),
    "no mark": (OBJECTS + b"\x80\x04K\x01K\x02t.", "damaged"),
    "unknown memory": (OBJECTS + b"\x80\x04h\x07.", "damaged"),
    "huge memory": (OBJECTS + b"\x80\x04K\x01r\xff\xff\xff\x7f.", "where an array should be"),
    "two things": (OBJECTS + b"\x80\x04K\x01K\x02.", "damaged"),
    "itself": (OBJECTS + b"\x80\x04]\x94h\x00a.", "where an array should be"),
    "promises 4 GB": (OBJECTS + b"\x80\x04B\xff\xff\xff\xff.", "damaged"),
    "promises exabytes": (OBJECTS + b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.", "damaged"),
    "promises a frame": (OBJECTS + b"\x80\x04\x95" + b"\xff" * 8 + b"K\x01.", "where an array should be"),
    "many steps": (OBJECTS + b"\x80\x04K\x01" + b"0K\x01" * 5, "operation '0'"),
    "many marks": (OBJECTS + b"\x80\x04" + b"(" * 20_000, "more than 10000 steps"),
    "many tuples": (OBJECTS + b"\x80\x04K\x01\x94" + b"\x86\x94h\x00h\x00" * 10, "damaged"),
    "doubling tuples": (
        OBJECTS + b"\x80\x04)\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(99)) + b".",
        "",
    ),
    "empty": (OBJECTS, "truncated"),
    "no end": (GOOD[:-1], "truncated"),
    "half": (GOOD[: len(GOOD) // 2], "damaged"),
    "followed by another": (GOOD + GOOD, "followed by"),
    "not a pair": (saved(np.full(3, 1.0, object)), "array (3,)"),
    "one image": (saved(scene(1)), "array (32, 32) of type <f8"),
    "objects in the image": (saved(pair(scene(1).astype(object), 2.0)), "objects"),
    "pairs in pairs": (saved(pair(pair(scene(1), 1.0), 2.0)), "objects"),
    "image and mass exchanged": (saved(pair(2.0, scene(1))), "where an array should be"),
    "mass of two": (saved(pair(scene(1), np.ones(2))), "finite mass"),
    "mass is text": (saved(pair(scene(1), "heavy")), "finite mass"),
    "mass is true": (saved(pair(scene(1), True)), "finite mass"),
    "mass is none": (saved(pair(scene(1), None)), "finite mass"),
    "mass is NaN": (saved(pair(scene(1), np.nan)), "finite mass"),
    "mass is infinite": (saved(pair(scene(1), np.float32(np.inf))), "finite mass"),
    "mass of 255 bytes": (saved(pair(scene(1), 2**2000)), "finite mass"),
    "mass is complex": (saved(pair(scene(1), np.complex64(2))), "'c8'"),
    "complex image": (saved(pair(scene(1).astype(complex), 2.0)), "'c16'"),
    "text image": (saved(pair(scene(1).astype(str), 2.0)), "'U32'"),
    "true image": (saved(pair(scene(1) > 3, 2.0)), "'b1'"),
    "image of records": (saved(pair(np.zeros((32, 32), [("x", "f4")]), 2.0)), "operation '}'"),
    "image of blocks": (saved(pair(State(1, (2,), np.dtype(("f4", (9,))), False, b""), 2.0)), "number type"),
    "image too small": (saved(pair(scene(1, 28), 2.0)), "29 x 29"),
    "image of 4 dimensions": (saved(pair(np.ones((1, 1, 32, 32)), 2.0)), "impossible shape"),
    "NaN": (saved(pair(np.where(scene(1) == scene(1)[9, 9], np.nan, scene(1)), 2.0)), "NaN"),
    "promised pixels": (
        saved(pair(State(1, (10**6, 10**6), F8, False, bytes(80)), 2.0)),
        "8000000000000 bytes, and 80",
    ),
    "negative pixels": (saved(pair(State(1, (-32, -32), F8, False, bytes(8192)), 2.0)), "impossible shape"),
    "fractional pixels": (saved(pair(State(1, (32.0, 32), F8, False, bytes(8192)), 2.0)), "impossible shape"),
    "promised objects": (saved(State(1, (10**12,), OBJECT, False, [1, 2])), "array (1000000000000,)"),
    "objects from bytes": (saved(State(1, (2,), OBJECT, False, bytes(16))), "array (2,)"),
    "numbers from a list": (saved(pair(State(1, (32, 32), F8, False, [0.0] * 1024), 2.0)), "where bytes should be"),
    "numbers from high text": (saved(pair(State(1, (32, 32), F8, False, "\u0100" * 8192), 2.0)), "refused"),
    "no state": (saved(pair(State(), 2.0)), "where an array should be"),
    "state with more": (saved(pair(State(1, (32, 32), F8, False, bytes(8192), 0), 2.0)), "where an array should be"),
    "type without order": (OBJECTS + GOOD[len(OBJECTS) :].replace(b"\x8c\x01<", b"\x8c\x01%"), "'f8'"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_pickles_that_mean_harm_are_refused_and_nothing_is_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    refuse(tmp_path, *EVIL[kind])
    assert os.listdir(tmp_path) == ["x.npy"] and set(sys.modules) == before


@pytest.mark.parametrize("kind", ["os.mkdir", "os.mkdir, protocol 2", "os.system", "subprocess", "eval", "exec"])
def test_the_same_pickles_do_harm_where_they_are_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    pickle.loads(EVIL[kind][0][len(OBJECTS) :])
    assert os.listdir(tmp_path) == ["bomb"]


def test_an_evil_file_ends_the_conversion_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_source(tmp_path / "src")
    victim = tmp_path / "src" / "axion" / "axion_3.npy"
    victim.write_bytes(saved(pair(scene(1), BOMB)))
    assert main(["src", "dst"]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and "axion_3.npy" in err and "nothing was run" in err
    assert os.listdir(tmp_path) == ["src"]


def test_a_repeated_text_takes_no_memory_of_its_own(tmp_path):
    """9 MB that 2,000 calls of encode would make 18 GB of."""
    text = b"X" + (9_000_000).to_bytes(4, "little") + b"y" * 9_000_000
    call = b"c_codecs\nencode\nq\x00" + text + b"q\x01X\x06\x00\x00\x00latin1\x86q\x02R"
    refuse(tmp_path, OBJECTS + b"\x80\x02]q\x03(" + call + b"h\x00h\x02R" * 2000 + b"e.", "where an array should be")


def test_pickles_larger_than_the_largest_image_are_not_even_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_PICKLE", 1000)
    refuse(tmp_path, GOOD, "at most 1000 bytes")


def test_a_pair_is_refused_as_an_image_with_a_hint(tmp_path):
    (tmp_path / "x.npy").write_bytes(GOOD)
    with pytest.raises(DataError) as error:
        data_image.read_picture(tmp_path / "x.npy")
    assert_one_line(error, tmp_path / "x.npy", "dataset.py convert")


FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = [
    saved(pair(scene(1, 29).astype("u1"), mass), protocol) for protocol in (2, 3, 4) for mass in (2.0, np.float64(3))
]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@FUZZ
@given(data=st.data())
def test_damaged_pairs_are_read_or_refused(scratch, data):
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    pixels = content.index(scene(1, 29).astype("u1").tobytes()[:4])
    places = [place for place in range(len(content)) if not pixels < place < pixels + 830]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    try:
        picture, mass = read(scratch, bytes(content[: len(content) - data.draw(st.just(0) | st.integers(0, 900))]))
    except DataError as error:
        assert len(str(error).splitlines()) == 1 and str(scratch / "x.npy") in str(error)
        return
    assert picture.pixels.dtype.kind in "uif" and np.isfinite(picture.pixels).all()
    assert mass is None or np.isfinite(mass)


CODES = [operation.code.encode("latin1") for operation in pickletools.opcodes]


@FUZZ
@given(parts=st.lists(st.sampled_from(CODES) | st.binary(max_size=3) | st.just(b"cnumpy\ndtype\n"), max_size=40))
def test_any_operations_are_refused_or_plain(parts):
    try:
        result = parse_pickle(b"".join(parts) + b".")
    except Refused:
        return
    assert isinstance(result, int | float | str | bytes | list | tuple | pickles.Name | pickles.Made | None)
