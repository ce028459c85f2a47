"""Labels exported by the page of predictions: read, checked, found in their folder."""

import os
import sys

import numpy as np
import pytest

from darklens.commands import data as commands_data
from darklens.data.convert import convert
from darklens.data.labels import read_labels
from darklens.errors import DataError, UsageError


def write_table(path, *rows: str, header="file,label,class"):
    path.write_text("\r\n".join([header, *rows, ""]), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("a.npy", "sub/b.fits", 'odd, "c".npy', "d[SCI].npy"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    return tmp_path / "images"


def test_reads_files_labels_and_hdus(tmp_path, folder):
    rows = ['"odd, ""c"".npy",x,no', "sub/b.fits[SCI],y,no", "d[SCI].npy,x,no", "a.npy,,no", "sub/b.fits[SCI],y,no"]
    found = read_labels(write_table(tmp_path / "labels.csv", *rows), folder)
    assert [(one.path.relative_to(folder).as_posix(), one.hdu, one.label) for one in found] == [
        ('odd, "c".npy', None, "x"),
        ("sub/b.fits", "SCI", "y"),
        ("d[SCI].npy", None, "x"),
    ]
    beside = write_table(folder / "labels.csv", "y,a.npy", header="label,file")
    assert [one.path for one in read_labels(beside)] == [folder / "a.npy"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes")
def test_finds_names_that_are_no_utf8(tmp_path):
    name = b"lens_\xff.npy"
    open(os.path.join(os.fsencode(tmp_path), name), "w").close()
    (found,) = read_labels(write_table(tmp_path / "labels.csv", "lens_\\xff.npy,x,no"))
    assert os.fsencode(found.path.name) == name


@pytest.mark.parametrize(
    "rows, words",
    [
        (["b.npy,x,no"], "line 2: no file b.npy in .*--images"),
        (["a.npy,../../etc,no"], "slash"),
        (["a.npy,.hidden,no"], "begins with a dot"),
        (["a.npy,__pycache__,no"], "two underscores"),
        (["a.npy," + 61 * "x" + ",no"], "60 characters"),
        (["a.npy,x,no", "a.npy,y,no"], "line 3: a.npy has two labels, x and y"),
        (['a.npy,"x,no'], "commas between them"),
    ],
)
def test_says_in_one_line_what_is_wrong(tmp_path, folder, rows, words):
    with pytest.raises(DataError, match=words) as error:
        read_labels(write_table(tmp_path / "labels.csv", *rows), folder)
    assert "\n" not in str(error.value)


def test_expects_a_table_in_utf8(tmp_path):
    with pytest.raises(DataError, match="expected the columns file and label, no label in file, class"):
        read_labels(write_table(tmp_path / "labels.csv", "a.npy,no", header="file,class"))
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff,x\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "nothing.csv")


@pytest.fixture
def survey(tmp_path):
    """A folder of 30 images, the table of labels of 24 of them, and folders of the same images by label."""
    rng, rows = np.random.default_rng(0), []
    for k in range(30):
        image, label = rng.poisson(50, (32, 32)).astype(np.uint16), ["smooth", "perturbed", ""][min(k // 12, 2)]
        for folder in ("survey", f"folders/{label}")[: 1 + bool(label)]:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / folder / f"{k:02d}.npy", image)
        rows += [f"{k:02d}.npy,{label},no"] * bool(label)
    write_table(tmp_path / "labels.csv", *rows)
    return tmp_path


def images_of(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.npy"))}


def test_converts_as_folders_of_the_same_images_do(survey):
    record = convert(survey / "labels.csv", survey / "labelled", images=survey / "survey", quiet=True)
    convert(survey / "folders", survey / "expected", quiet=True)
    assert images_of(survey / "labelled") == images_of(survey / "expected")
    assert record["images"] == {
        name: {"perturbed": n, "smooth": n} for name, n in (("train", 10), ("val", 1), ("test", 1))
    }


def test_the_program_converts_labels(survey, capsys):
    command = ["convert", survey / "labels.csv", survey / "labelled", "--images", survey / "survey", "--quiet"]
    assert commands_data.main(list(map(str, command))) == 0
    assert "train: 10 perturbed, 10 smooth" in capsys.readouterr().out
    assert commands_data.main(["convert", str(survey / "labels.csv"), str(survey / "other"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "--images names the folder" in error and error.count("\n") == 1


def test_labels_that_make_no_data_set(survey):
    images = survey / "survey"
    one = write_table(survey / "one.csv", "00.npy,smooth,no", "01.npy,smooth,no")
    with pytest.raises(DataError, match="two or more labels, found smooth"):
        convert(one, survey / "dst", images=images)
    few = write_table(survey / "few.csv", "00.npy,smooth,no", "01.npy,smooth,no", "02.npy,smooth,no", "12.npy,odd,no")
    with pytest.raises(DataError, match="expected 3 images or more with the label odd, found 1"):
        convert(few, survey / "dst", images=images)
    with pytest.raises(UsageError, match="lies in"):
        convert(survey / "labels.csv", images / "dst", images=images)
    with pytest.raises(UsageError, match="--images"):
        convert(survey / "folders", survey / "dst", images=images)
    assert not (survey / "dst").exists()
