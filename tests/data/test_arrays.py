"""Arrays are checked as files are: the same pixels, the same refusals."""

import numpy as np
import pytest
import torch

from darklens.data.arrays import prepare
from darklens.data.image import read_picture
from darklens.errors import DataError

SIZE, WINDOW = 40, 33


def images(count: int = 3, shape=(SIZE, SIZE), dtype="uint16") -> np.ndarray:
    return np.random.default_rng(0).poisson(60, (count, *shape)).astype(dtype)


def prepared(given, channels: int = 1, batch_size: int = 2) -> np.ndarray:
    return torch.cat(list(prepare(given, channels, WINDOW, batch_size))).numpy()


FORMS = {
    "(n, H, W)": lambda x: x,
    "(n, 1, H, W)": lambda x: x[:, None],
    "(n, H, W, 1)": lambda x: x[..., None],
    "list": list,
    "tuple of (1, H, W)": lambda x: tuple(x[:, None]),
    "list of lists": lambda x: x.tolist(),
    "big-endian": lambda x: x.astype(">i2"),
    "big-endian floats": lambda x: x.astype(">f8"),
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, 0)[::2][:, ::-1][:, ::-1],
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "masked, nothing": lambda x: np.ma.masked_array(x, np.zeros(x.shape, bool)),
    "tensor": torch.from_numpy,
    "float tensor": lambda x: torch.from_numpy(x.astype("f4")).requires_grad_(),
    "float16": lambda x: x.astype("f2"),
    "bfloat16": lambda x: torch.from_numpy(x.astype("f4")).bfloat16(),
    "list of tensors": lambda x: list(torch.from_numpy(x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_images(form):
    truth = images()
    found = prepared(FORMS[form](truth))
    assert np.array_equal(found, truth[:, None]) and found.dtype.isnative


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, SIZE, 1), (1, SIZE, SIZE), (45, 34)])
def test_one_image(shape):
    truth = images(1, shape)[0]
    assert np.array_equal(prepared(truth)[0, 0], truth.squeeze())


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (SIZE, SIZE, 3), (45, 34, 3)])
def test_images_of_three_channels(shape):
    truth = images(2, shape)
    planes = truth if shape[0] == 3 else np.moveaxis(truth, -1, 1)
    assert np.array_equal(prepared(truth, 3), planes)
    assert np.array_equal(prepared(truth[0], 3), planes[:1])
    with pytest.raises(DataError, match="image 0: expected 1 channel"):
        prepared(truth)


def test_images_of_several_sizes_come_in_batches_of_one_size():
    truth = [*images(3), *images(2, (60, 44)), *images(1, dtype="float32")]
    batches = list(prepare(truth, 1, WINDOW, 2))
    assert [tuple(batch.shape) for batch in batches] == [
        (n, 1, *s) for n, s in zip((2, 1, 2, 1), 2 * [(40, 40)] + [(60, 44), (40, 40)], strict=True)
    ]
    assert all(np.array_equal(a, b[0]) for a, b in zip(truth, (x for batch in batches for x in batch), strict=True))


def test_no_images():
    assert list(prepare(images(0), 1, WINDOW, 2)) == list(prepare([], 1, WINDOW, 2)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
@pytest.mark.parametrize("where", [(3, 3), (20, 20), (35, 35)])
def test_one_bad_pixel_in_the_window(value, where, tmp_path):
    """NaN, infinite, or (None) masked: what a file with these pixels is refused for."""
    bad = images(dtype="float32" if value is not None else "uint16")
    if value is None:
        bad = np.ma.masked_array(bad, np.zeros(bad.shape, bool))
        bad.mask[1][where] = True
    else:
        bad[1][where] = value
    for given in (bad, list(bad)):
        with pytest.raises(DataError, match=f"^image 1: expected finite .* row {where[0]}, column {where[1]}") as error:
            prepared(given)
    np.save(tmp_path / "x.npy", bad[1] if value is not None else bad[1].astype("f4").filled(np.nan))
    with pytest.raises(DataError) as of_file:
        read_picture(tmp_path / "x.npy", window=WINDOW)
    assert str(error.value).removeprefix("image 1") == str(of_file.value).removeprefix(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [(2, 20), (36, 36), (0, 0), (39, 1)])
def test_one_bad_pixel_outside_of_the_window(value, where):
    truth = images(dtype="float32")
    bad = truth.copy()
    bad[1][where] = value
    found = prepared(bad)[:, 0]
    assert np.isfinite(found).all() and (found != truth).sum() <= 1


def test_a_masked_border_is_filled_as_in_files(tmp_path):
    truth = images(1)[0]
    masked = np.ma.masked_array(truth, np.zeros(truth.shape, bool))
    masked.mask[:6] = True
    np.save(tmp_path / "x.npy", masked.astype("f4").filled(np.nan))
    assert np.array_equal(prepared(masked)[0], read_picture(tmp_path / "x.npy", window=WINDOW).pixels)


BAD = {
    "text": (["a"], "found shape"),
    "a path": ("x.npy", "found shape"),
    "nothing": (None, "found shape"),
    "a number": (3.0, "found shape"),
    "five axes": (images()[None, None], "found shape"),
    "ragged": ([[1.0, 2.0], [3.0]], "array of numbers"),
    "bool": (images() > 60, "image 0: .* bool"),
    "complex": (images() * 1j, "image 0: .* complex"),
    "long double": (images().astype(np.longdouble), "image 0: .* float128|found float64"),
    "objects": (images().astype(object), "image 0: .* object"),
    "small": (images(2, (32, 60)), f"image 0: .* {WINDOW} x {WINDOW} pixels or more, found 32 x 60"),
    "one small": ([*images(2), images(1, (60, 32))[0]], "image 2: .* found 60 x 32"),
    "two channels": (images(2, (2, SIZE, SIZE)), "image 0: .* 1 or 3 channels"),
    "one of three channels": ([images(1)[0], images(1, (3, SIZE, SIZE))[0]], "image 1: expected 1 channel"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_refused_in_one_line(kind):
    given, message = BAD[kind]
    with pytest.raises(DataError, match=message) as error:
        prepared(given)
    assert len(str(error.value).splitlines()) == 1
