"""README.md, docs/*.md, cards of networks: their commands are right and run, on toy data; their links lead somewhere.

A fence marked `bash` holds commands, one marked `python` code that is run. Every command's flags are checked; README's
are run, too, and as slow tests those of all pages. Doors (`python main.py`) are run as a shell would, in this process.
"""

import functools
import importlib
import json
import pkgutil
import re
import runpy
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from astropy.io import fits
from conftest import ROOT, write_images
from page.pages import CHROMIUM, OpenPage, open_browser

from darklens.simulation import render
from darklens.simulation.recipes import RECIPES

CARDS = sorted([*ROOT.glob("pretrained/*.md"), *ROOT.glob("darklens/pretrained/*.md")])
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *CARDS]
LINKED = list(dict.fromkeys([*PAGES, *sorted(ROOT.glob("*.md"))]))
DOORS = r"(?:python (main|simulate|dataset|model)\.py|(python -m darklens|darklens)) ?(.*)"
OTHERS = r"(?:pytest|ruff|mypy|pip install|git clone|tensorboard|xdg-open|sbatch docs/slurm\.sh|\.ci/run)\b.*"
STAMPS = "2026-11-22-10-30-00", "2026-11-22-11-30-00"
TOY = ["--batch_size", "8", "--quiet", "--use_cuda", "False"]
SMALL = {  # what makes the commands small, wherever the program keeps it
    "DEMO_IMAGES": {"train": 6, "val": 3},
    "HELD": {"train": 6, "val": 3},
    "RESAMPLES": 10,
    "LEAST": 2,
    "sample_size": lambda _: 1,
}


def fences(page, language: str) -> list[str]:
    text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page) -> list[str]:
    """The page's command lines, without comments and `bash create_env.sh`."""
    lines = "".join(fences(page, "bash")).replace("\\\n", "").splitlines()
    lines = [re.sub(r"\s+#.*|^#.*|^(?:bash create_env\.sh|uv run|taskset -c \d+) ", "", line) for line in lines]
    lines = [re.sub(r"^(?:bash create_env\.sh|uv run|taskset -c \d+) ", "", line.strip()) for line in lines]
    return [" ".join(line.split()) for line in lines if line]


WALK = ROOT / "docs" / "your_survey.md"  # its commands follow from one another, and are run in their order
EVERY = list(dict.fromkeys(line for page in PAGES for line in commands(page)))
FIRST = set(commands(PAGES[0]))
LONG = {"python model.py --sym_group Dihyderal --N 8"}  # the full network, turned sixteen ways


def calls(*doors: str) -> list:
    """The command lines for these doors; those that are not in README.md are slow."""
    fast = FIRST - LONG
    lines = [line for line in EVERY if line not in commands(WALK) and door_of(line)[0] in doors]
    marks = {line: () if line in fast else pytest.mark.slow for line in lines}
    return [pytest.param(door_of(line)[1], id=line, marks=mark) for line, mark in marks.items()]


def door_of(line: str) -> tuple[str | None, list[str]]:
    """`python main.py --demo`, `darklens --demo` -> ("main", ["--demo"]); (None, []) for other commands."""
    match = re.fullmatch(DOORS, line)
    return (match[1] or "main", shlex.split(match[3])) if match else (None, [])


@functools.cache
def modules() -> list[ModuleType]:
    """Every module of the program, but for those whose libraries are missing here."""
    package = ROOT / "darklens"
    names = [path.stem for path in ROOT.glob("*.py")]
    names += [found.name for found in pkgutil.walk_packages([str(package)], "darklens.")] if package.is_dir() else []
    imported = []
    for name in names:
        if not name.endswith("__main__"):
            with suppress(ImportError):
                imported.append(importlib.import_module(name))
    return imported


def homes(name: str, kind: type) -> list[ModuleType]:
    """The modules that know something of this name and kind."""
    found = [module for module in modules() if isinstance(vars(module).get(name), kind)]
    assert found, f"no module has {name} any more: say its new name in SMALL"
    return found


def flags() -> ModuleType:
    (module,) = (module for module in modules() if module.__name__ == "darklens.commands.flags")
    return module


def shrink(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("LENS_PICTURES", "none")
    for name, value in SMALL.items():
        for module in homes(name, type(value)):
            patch.setattr(module, name, value)


def run(door: str, arguments: list[str]) -> None:
    """`python DOOR.py ARGUMENTS`, in this process. Fails unless the exit status is 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{door}.py", *arguments])
        try:
            runpy.run_path(str(ROOT / f"{door}.py"), run_name="__main__")
        except SystemExit as end:
            assert not end.code, f"exit status {end.code}"


# --- what can be read -------------------------------------------------------------------------------------------


def test_readme_is_short():
    lines = PAGES[0].read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


def test_pages_have_commands_of_every_door():
    assert len(EVERY) > 40 and len(FIRST) > 5
    assert {door_of(line)[0] for line in EVERY} >= {"main", "simulate", "dataset", "model"}


def test_table_of_flags_is_the_parsers():
    table = (ROOT / "docs" / "flags.md").read_text().split("<!-- flags -->")[1].split("<!-- /flags -->")[0].strip()
    again = f'write it again: python -c "import {flags().__name__} as f; print(f.markdown())"'
    assert table == flags().markdown(), again


@pytest.mark.parametrize("line", EVERY)
def test_flags_of_every_command(line):
    door, arguments = door_of(line)
    if match := re.fullmatch(r"torchrun --nproc_per_node=\d main\.py (.*)", line):
        door, arguments = "main", shlex.split(match[1])
    if door == "main":
        flags().build_parser().parse_args(arguments)
    elif match := re.fullmatch(r"python (benchmarks/\w+\.py)(.*)", line):
        source = (ROOT / match[1]).read_text()
        assert not [flag for flag in re.findall(r"--\w+", match[2]) if f'"{flag}"' not in source]
    else:
        assert door or re.fullmatch(OTHERS, line), "a command that this test does not know"
    assert not [name for name in re.findall(r"\b(?:tests|docs)/[\w.]+", line) if not (ROOT / name).exists()]


@pytest.mark.skipif(not (ROOT / "darklens").is_dir(), reason="the pages link into the package")
@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_and_files_named(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in slugs(linked.read_text()), target
    named = re.findall(r"`((?:benchmarks|docs|tests)/[\w/.]+)`", text)
    assert not [name for name in named if not (ROOT / name).exists()]


def slugs(text: str) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


# --- what can be run --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A folder with data and two finished runs, under the pages' names."""
    here = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        shrink(patch)
        for name, size in {"images_f": 60, "images_j": 60, "images_large": 120}.items():
            write_images(here / name, size=size, counts={"train": 8, "val": 2 if size > 60 else 4})
        run("dataset", ["pack", "images_f", "shards_f"])
        run("simulate", ["--model", "j", "--out", "images_infer", "--train", "4", "--val", "2", "--quiet"])
        (here / "survey").mkdir()
        lens = np.random.default_rng(0).poisson(30.0, (120, 120))
        np.save(here / "survey" / "lens.npy", lens)
        fits.writeto(here / "lens.fits", lens.astype("float32"))
        for stamp in STAMPS:
            run("main", ["--data_dir", "images_j", "--arch", "compact", "--epochs", "1", *TOY])
            (new,) = (done for done in here.glob("images_j_C_4/*") if done.name not in STAMPS)
            new.rename(new.parent / stamp)
        yield here


def small(arguments: list[str]) -> list[str]:
    """main.py's arguments for a tiny run on the toys, which have other names and sizes."""
    given = set(arguments)
    window = {"--weights", "--crop"} & given  # of more pixels than the small images have
    toy = "images_large" if window else "images_f"
    names = {"latest": STAMPS[1], "RUN_1": STAMPS[0], "RUN_2": STAMPS[1]}
    names |= dict.fromkeys(["images_demo", "images_f25", "images_j25", *(["images_j"] if window else [])], toy)
    names |= {f"{kind}_{use}": "images_large" for kind in ("f", "j", "wide") for use in ("robust", "test")}
    typed = [names.get(word, word) for word in arguments]
    if "Train" in given or not {"--mode", "--test_time", "--weights", "--resume", "--list"} & given:
        typed += ["--epochs", "1", *([] if "--use_CNN" in given else ["--arch", "compact"])]
    typed += ["--epoch_images", "12"] if "--simulate" in given else []
    return typed + (["--quiet"] if {"--resume", "--list"} & given else TOY)


@pytest.mark.parametrize("arguments", calls("main"))
def test_commands_of_main(toys, arguments):
    run("main", small(arguments))


@pytest.mark.parametrize("arguments", calls("simulate"))
def test_commands_of_simulate(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "darklens" / "simulation" / "presets" / "euclid.toml", tmp_path / "my_survey.toml")
    (tmp_path / "my_cutouts").mkdir()
    for number, image in enumerate(render.simulate(RECIPES["f"], "no", range(2))):
        np.save(tmp_path / "my_cutouts" / f"{number}.npy", image)
    typed = shlex.split(re.sub(r"--(train|val|test) \d+", r"--\1 2", shlex.join(arguments)))
    counts = [] if {"--train", "--like", "--sheet"} & {*arguments} else ["--train", "2", "--val", "2"]
    run("simulate", [*typed, *counts, "--quiet"])


@pytest.mark.parametrize("arguments", calls("dataset"))
def test_commands_of_dataset(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    images = write_images(tmp_path / "images", classes=("axion", "cdm", "no_sub"), counts={"train": 8})
    shutil.copytree(images / "train", tmp_path / "survey")
    (images / "train").rename(tmp_path / "Model_I")
    files = sorted(path.relative_to(tmp_path / "survey") for path in (tmp_path / "survey").rglob("*.npy"))
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *(f"{file},{file.parent}" for file in files)]))
    write_images(tmp_path / "images_f")
    command, *folders = arguments
    if command == "verify":
        run("dataset", ["pack", "images_f", *folders])
    run("dataset", arguments)
    if command == "convert":
        assert len(list((tmp_path / folders[1]).glob("*/*/*.npy"))) == 24
    else:
        assert list((tmp_path / folders[-1]).rglob("*.npy"))


@pytest.mark.parametrize("arguments", calls("model"))
def test_commands_of_model(arguments):
    run("model", arguments)


def labels_by_hand(page: Path, labels: dict[str, str]) -> str:
    """labels.csv as a user's browser exports it, each lens labelled by what its file's name begins with.

    Where there is no browser, the same text.
    """
    if CHROMIUM is None:
        names = sorted(path.name for path in Path("my_cutouts").iterdir())
        rows = [f"{name},{labels[name.split('_')[0]]},no" for name in names]
        return "\r\n".join(["file,label,class", *rows, ""])
    with open_browser() as context:
        opened = OpenPage(context, page)
        opened.tab.click("text=Edit labels")
        opened.tab.fill("#names", "\n".join(labels.values()))
        opened.tab.click("#names_save")
        opened.tab.select_option("#sort", "useful")
        opened.tab.locator("#scroller").focus()
        for _ in range(20):
            opened.press(str(1 + list(labels).index(opened.selected().split("_")[0])))
        return opened.export()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_walk_from_cutouts_to_a_table(tmp_path, monkeypatch):
    """docs/your_survey.md from top to bottom, in an empty folder: few images, one pass."""
    monkeypatch.chdir(tmp_path)
    shrink(monkeypatch)
    exec(compile("\n".join(fences(WALK, "python")), WALK.name, "exec"), {"__name__": "__main__"})
    for line in commands(WALK):
        door, arguments = door_of(line)
        if line.startswith("xdg-open "):
            labels = labels_by_hand(tmp_path / line.split()[1], {"no": "smooth", "vort": "perturbed"})
            (tmp_path / "labels.csv").write_text(labels)
        if not door:
            continue
        typed = shlex.split(re.sub(r"--(train|val|test) \d+", r"--\1 4", shlex.join(arguments)))
        training = door == "main" and not {"Test", "Predict"} & {*typed}
        run(door, typed + (["--epochs", "1", *TOY] if training else ["--quiet"]))
        for done in tmp_path.glob("images_survey_C_4/*"):
            done.rename(done.parent / STAMPS[0])
    rows = [(tmp_path / name).read_text().splitlines() for name in ("table.csv", "tuned.csv")]
    assert [len(lines) for lines in rows] == [21, 21]
    assert "p_vort" in rows[0][0] and "p_perturbed" in rows[1][0]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("compared.png", "my_survey.png"))
    folder = json.loads((tmp_path / "few_labels" / "convert.json").read_text())
    assert {k: sum(v.values()) for k, v in folder["images"].items()} == {"train": 16, "val": 2, "test": 2}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if fences(page, "python")], ids=lambda page: page.name)
def test_python_of_a_page(toys, page):
    """All of a page's code, from top to bottom, in one namespace."""
    code = compile("\n".join(fences(page, "python")), page.name, "exec")
    pytest.importorskip("darklens")
    exec(code, {"__name__": "__main__"})
