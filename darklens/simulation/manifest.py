"""The description beside a simulated data set: what it holds, and whether more of it can be added."""

import json
import platform
import re
from pathlib import Path

import numpy as np
import torch

from darklens.errors import DatasetError
from darklens.simulation.recipe_file import recipe_dict
from darklens.simulation.recipe_tables import SimulationConfig
from darklens.simulation.recipes import SIMULATOR, SPLITS

INPUTS = {"recipe.psf.file": "recipe.psf.kernel", "recipe.source.stamps": "recipe.source.stamps_sha256"}


def manifest_identity(recipe: SimulationConfig, seed: int, device: str, published: bool = False) -> dict:
    """What must agree for two calls to share a folder, as JSON gives it back."""
    same = {"simulator": SIMULATOR, "recipe": recipe_dict(recipe), "seed": seed, "device": device}
    same["published"] = published
    return json.loads(json.dumps(same))


def library_versions() -> dict[str, str]:
    """What the bits of an image depend on beside recipe and seed: Python, NumPy, PyTorch, vector instructions."""
    vectors = torch.backends.cpu.get_cpu_capability()
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cpu": vectors,
    }


def _flat(values: dict, path: str = "") -> dict:
    """{"recipe": {"lens": {"shear": 0}}} -> {"recipe.lens.shear": 0}; dictionaries alone are gone into."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        flat |= _flat(value, name) if isinstance(value, dict) and value else {name: value}
    return flat


def _recipe_keys(flat: dict) -> set[str]:
    return {key for key in flat if key.startswith("recipe.")}


def _difference(old: dict, new: dict) -> str:
    """'seed is 1, not 0': the first thing in which two identities differ, or ''."""
    old, new = (_flat({"recipe": {}, **d}) for d in (old, new))
    for path, content in INPUTS.items():
        if content in old and content in new:  # the same file may lie elsewhere
            old.pop(path, None)
            new.pop(path, None)
    keys = [k for k in (*new, *old) if k in new.keys() | _recipe_keys(old) and old.get(k) != new.get(k)]
    if not keys:
        return ""
    values = [str(flat.get(keys[0])) for flat in (old, new)]
    return f"{keys[0]} is {values[0]}, not {values[1]}" if max(map(len, values)) < 100 else f"another {keys[0]}"


def read_manifest(folder: Path) -> dict:
    """The manifest of a data set. Raises DatasetError if it can't be read, OSError if there is none."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        ok = isinstance(manifest, dict) and all(isinstance(manifest[k], dict) for k in ("recipe", "files"))
    except (ValueError, KeyError):
        ok = False
    if not ok:
        raise DatasetError(
            f"{path} is damaged (expected JSON with recipe and files): restore it or choose another --out"
        )
    return manifest


def images_in(folder: Path) -> set[str]:
    """Names of all `.npy` below the folder's splits, and beside them."""
    paths = [*folder.glob("*.npy"), *(f for split in SPLITS for f in (folder / split).rglob("*.npy"))]
    return {f.relative_to(folder).as_posix() for f in paths if not f.name.startswith(".")}


def check_folder(folder: Path, identity: dict, on_disk: set[str]) -> dict:
    """The manifest to go on from, {} in a new folder. Raises DatasetError if the folder holds other data."""
    path = folder / "manifest.json"
    if not path.exists():
        if on_disk:
            raise DatasetError(f"{folder} holds images ({min(on_disk)}) but no manifest.json: choose another --out")
        return {}
    manifest = read_manifest(folder)
    if difference := _difference(manifest, identity):
        raise DatasetError(f"{path} is of another data set ({difference}): choose another --out")
    pattern = re.compile(rf"({'|'.join(SPLITS)})/({'|'.join(identity['recipe']['classes'])})/\d{{6,}}\.npy")
    if strangers := sorted(n for n in on_disk if not pattern.fullmatch(n)):
        raise DatasetError(f"{folder / strangers[0]} is not of this data set: move it away or choose another --out")
    return manifest


def read_journal(path: Path) -> dict[str, str]:
    """File name -> SHA-256 of what an unfinished call has written; a torn last line is left out."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return {name: sha for line in lines for name, sha in json.loads(line).items()}
