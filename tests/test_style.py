"""What a reader of the code may rely on: types and docstrings on everything public."""

import importlib
import inspect

import pytest
from conftest import ROOT

EXEMPT = "self", "options"
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))


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
    module = importlib.import_module(name)
    assert module.__doc__, f"{name}.py does not say which question it answers"
    for title, function in public(module):
        signature = inspect.signature(function)
        missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in EXEMPT]
        assert not missing, f"{name}.{title}: no type for {missing}"
        assert signature.return_annotation is not inspect.Signature.empty, f"{name}.{title}: no return type"
        assert function.__doc__ or "." in title or title == "main", f"{name}.{title}: no docstring"
