"""Pickled pairs of image and mass: read without unpickling; those that mean harm are refused."""

import io
import os
import pickle
import pickletools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage  # noqa: F401, which a border of NaN loads: not by a pickle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairs import BOMB, OBJECTS, Call, assert_one_line, pair, saved, scene

from darklens.data import image as data_image
from darklens.data import pickles
from darklens.data.convert import read_source
from darklens.data.pickles import Refused, parse_pickle
from darklens.errors import DataError


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
    assert isinstance(result, int | float | str | bytes | list | tuple | pickles.Name | pickles.Call | None)
