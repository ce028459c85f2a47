"""What a reader of the code may rely on: rooms, arrows that go one way, short files, types and docstrings."""

import ast
import graphlib
import importlib
import inspect
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "darklens"
FLOORS = [  # a room may import from the floors below it, and from itself
    ["errors", "version"],
    ["machine"],
    ["storage", "metrics"],
    ["factorised", "simulation"],
    ["fit"],
    ["plots"],
    ["page"],
    ["networks", "data"],
    ["classifier"],
    ["training"],
    ["reports"],
    ["posterior", "survey"],
    ["runs"],
    ["commands"],
    ["api"],
    ["__init__", "__main__"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LONGEST = 350  # lines of a file
EXEMPT = "self", "cls", "options"
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = sorted(name for name in FILES if not name.endswith("__main__"))


def imported(path: Path) -> set[str]:
    """The package's modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "darklens":
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "darklens"}
    return {name if name in FILES else f"{name}.__init__" for name in found}


def room(name: str) -> str:
    return name.split(".")[1]


IMPORTS = {name: imported(path) for name, path in FILES.items()}


def test_no_import_circle():
    graphlib.TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_arrow_goes_up(name):
    here = FLOOR[room(name)]
    up = [other for other in IMPORTS[name] if FLOOR[room(other)] >= here and room(other) != room(name)]
    assert not up, f"{name} imports {', '.join(up)}: on the same floor or above it"


def test_no_relative_imports():
    nodes = (node for path in FILES.values() for node in ast.walk(ast.parse(path.read_text())))
    assert not [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_files_are_short():
    folders = [ROOT / "benchmarks", PACKAGE]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in files}
    assert not {name: count for name, count in lines.items() if count > LONGEST}


def public(module):
    """The module's own public functions, and its classes' public methods and constructors."""
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(item):
            yield name, item
        elif inspect.isclass(item) and not issubclass(item, Exception):
            methods = (m for m in vars(item).items() if inspect.isfunction(m[1]) and not m[0].startswith("_"))
            yield from ((f"{name}.{method}", function) for method, function in methods)


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_have_types_and_docstrings(name):
    module = importlib.import_module(name.removesuffix(".__init__"))
    assert module.__doc__, f"{name} does not say which question it answers"
    for title, function in public(module):
        signature = inspect.signature(function)
        missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in EXEMPT]
        assert not missing, f"{name}.{title}: no type for {missing}"
        assert signature.return_annotation is not inspect.Signature.empty, f"{name}.{title}: no return type"
        assert function.__doc__ or "." in title or title == "main", f"{name}.{title}: no docstring"


def test_an_installed_package_is_one_name_with_its_data(tmp_path):
    """What `pip install .` would put beside other people's packages: looked up in the wheel."""
    here = shutil.copytree(ROOT / "darklens", tmp_path / "here" / "darklens").parent
    for name in ("pyproject.toml", "README.md", "LICENSE.md", "main.py", "model.py"):
        shutil.copy(ROOT / name, here)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, here]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in inside if ".dist-info/" not in name} == {"darklens"}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in files} >= {".py", ".pt", ".cpp"}
    assert {path.relative_to(ROOT).as_posix() for path in files} <= inside
