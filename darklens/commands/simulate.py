"""Simulate strong-lens images with and without dark-matter substructure.

    python simulate.py --model f                                 # images_f: 25,000 train, 2,500 val a class
    python simulate.py --model j --out images_j --train 100 --val 20 --test 20 --seed 1
    python simulate.py --model f --out round_f --random_shear_axis --train 100 --val 20
    python simulate.py --model f --sheet model_f.png             # a picture of 25 images, no data set
    python simulate.py --recipe my_survey.toml                   # a recipe of your own: PSF, noise, lens, source
    python simulate.py --like my_cutouts --out my_survey.toml --sheet compared.png   # such a recipe, measured
    python simulate.py --model j --published --out dataset       # float64 (1, 150, 150) from 0 to 1

Recipes of the package: f and j (DeepLense's Models F and J), wide (what holds both and lies around them), euclid, hst,
rubin, with galaxies as they are j_sources, wide_sources, euclid_sky, hst_sky, rubin_sky, jwst, and i, ii, iii
(DeepLense's Models I to III); darklens/simulation/presets has them with their sources, and they serve as examples and
as `base = "..."` of others.

Images are one `.npy` each, in `OUT/{train,val,test}/CLASS/`: uint16 counts, or float32 where a recipe's pixels aren't
whole counts. `OUT/manifest.json` holds the recipe, seed, versions and the SHA-256 of each image;
`OUT/parameters/SPLIT_CLASS.npz` what was drawn. A call that was cut short goes on where it stopped, and more
images of the same seed extend a folder.

From Python: `draw` the parameters, `render` them without noise, or `simulate` them in memory.

Conventions: angles in degrees counter-clockwise from +x, lengths in arcsec, masses in solar masses; x grows
with the column, y falls with the row (row 0 is the top: that way up the 25 published rings lean by
+2.8 +- 0.6 degrees, where the shear's 0 to 6.28 make +3.1); the halo sits at the origin, amid the image.

References: Alexander et al. 2020, ApJ 893, 15 (arXiv:1909.07346) and arXiv:2008.12731, whose "Model A" and
"Model B" are F and J here; those of the formulas in physics.py.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from darklens.data.packed import is_packed
from darklens.errors import DataError, DatasetError, RecipeError
from darklens.simulation.recipes import (
    DISTANCES,
    QUIRKS,
    SPLITS,
    SimulationConfig,
    load_recipe,
    named,
    recipe_names,
    robust,
    with_quirks,
)
from darklens.simulation.sheet import write_sheet
from darklens.simulation.writer import write_dataset
from darklens.survey.measure import measure
from darklens.survey.recipe import recipe_text, write_comparison


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, not {text!r}")
    return int(text)


def _add_quirks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quirks of the published data sets (default: as the recipe has it)")
    for name, text in QUIRKS.items():
        if name == "distances":
            group.add_argument(f"--{name}", help=text, choices=DISTANCES)
        elif name == "subhalo_slope":
            group.add_argument(f"--{name}", help=text, type=float)
        else:
            group.add_argument(f"--{name}", help=text, default=None, action=argparse.BooleanOptionalAction)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Simulate strong-lens images.", allow_abbrev=False)
    recipe_source = parser.add_mutually_exclusive_group(required=True)
    recipe_source.add_argument("--model", choices=recipe_names(), help="a recipe of the package")
    recipe_source.add_argument(
        "--recipe", metavar="FILE.toml", help="a recipe of your own; darklens/simulation/presets has examples"
    )
    recipe_source.add_argument(
        "--like", type=_path, metavar="FOLDER", help="measure the cutouts in it and write a recipe to --out FILE.toml"
    )
    parser.add_argument("--out", type=_path, help="folder (default: images_NAME, none if only --sheet is asked for)")
    parser.add_argument("--train", type=_natural, default=25000, help="training images a class (default: 25000)")
    parser.add_argument("--val", type=_natural, default=2500, help="validation images a class (default: 2500)")
    parser.add_argument("--test", type=_natural, default=0, help="test images a class (default: 0)")
    parser.add_argument("--seed", type=_natural, default=0, help="random seed (default: 0)")
    parser.add_argument("--sheet", type=_path, metavar="FILE.png", help="write a 5 x 5 picture of examples")
    parser.add_argument(
        "--published", action="store_true", help="write float64 (1, n, n) from 0 to 1, as DeepLense's files are"
    )
    parser.add_argument(
        "--robust",
        action="store_true",
        help="vary what a fit assumes: PSF 3%%, centre 0.1 pixels, gain 10%%, 8 bits in 20%%",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--workers", type=_natural, default=0, help="processes on a CPU (default: 0, one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_quirks(parser)
    return parser


def _recipe(args: argparse.Namespace) -> SimulationConfig:
    """The recipe with what the flags change. Raises RecipeError."""
    quirks = {name: getattr(args, name) for name in QUIRKS if getattr(args, name) is not None}
    recipe = with_quirks(load_recipe(args.model or args.recipe), quirks)
    return robust(recipe) if args.robust else recipe


def _check_sheet(args: argparse.Namespace) -> None:
    """Raises ValueError for a picture that would replace an image, or lie among them."""
    if args.sheet is None:
        return
    if args.sheet.suffix.lower() != ".png":
        raise ValueError(f"argument --sheet: expected a name that ends in .png, not {args.sheet}")
    sheet = Path(os.path.realpath(args.sheet))
    folders = [folder for folder in sheet.parents if (folder / "manifest.json").exists() or is_packed(folder)]
    if args.out is not None and sheet.is_relative_to(os.path.realpath(args.out)):
        folders.append(args.out)
    if folders:
        raise ValueError(f"argument --sheet: {args.sheet} would lie among the images of {folders[0]}: choose another")


def _check_writable(folder: Path) -> None:
    """Raises OSError unless files can be made in the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}.tmp"
    probe.touch()
    probe.unlink()


def _device(name: str) -> str:
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError("argument --device: no CUDA device found; use --device cpu")
    return "cuda" if has_gpu and name != "cpu" else "cpu"


def _parse(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The flags, checked, with `recipe` and a definite `device`; exits with 2 and the reason if need be."""
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    if args.like is not None and (args.out is None or args.out.suffix != ".toml"):
        parser.error("--like needs --out FILE.toml, the recipe to write")
    args.counts = {split: getattr(args, split) for split in SPLITS}
    if args.out is not None and not any(args.counts.values()):
        parser.error("nothing to simulate: --train, --val and --test are all 0")
    try:
        if args.like is not None:
            return args
        args.recipe = _recipe(args)
        if args.out is None and args.sheet is None:
            args.out = Path(f"images_{args.recipe.name}")
        args.device = _device(args.device)
        _check_sheet(args)
        for folder in filter(None, (args.out, args.sheet and args.sheet.parent)):
            _check_writable(folder)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write to {error.filename}: {error.strerror}")
    return args


def _like(args: argparse.Namespace) -> None:
    """Measure a user's cutouts; write the recipe, and the picture if it is asked for."""
    survey = measure(args.like)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", args.out.stem)
    _check_writable(args.out.parent)
    args.out.write_text(recipe_text(survey, name), encoding="utf-8")
    recipe = load_recipe(args.out)
    _say(args, f"{args.out}: measured on {len(survey.images)} images of {survey.images.shape[1]} pixels; look at it")
    if args.sheet is not None:
        _check_writable(args.sheet.parent)
        write_comparison(args.sheet, survey, recipe, args.seed)
        _say(args, f"{args.sheet}: theirs and ours")


def _run(args: argparse.Namespace) -> None:
    if args.like is not None:
        return _like(args)
    if args.sheet is not None:
        write_sheet(args.sheet, args.recipe, args.seed, args.device)
        _say(args, f"{args.sheet}: 25 images")
    if args.out is not None:
        manifest = write_dataset(
            args.out,
            args.recipe,
            args.counts,
            seed=args.seed,
            device=args.device,
            workers=args.workers,
            quiet=args.quiet,
            published=args.published,
        )
        counts = [f"{sum(of_split.values())} {split}" for split, of_split in manifest["images"].items()]
        _say(args, f"{args.out}: {', '.join(counts)} images of {named(args.recipe)}")


def _say(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        print(line)


def main(arguments: Sequence[str] | None = None, prog: str = "simulate.py") -> int:
    """Run the command line; the exit status."""
    args = _parse(arguments, prog)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    advice = "run the same command again to go on"
    try:
        _run(args)
    except (DatasetError, DataError, RecipeError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"{prog}: error: cannot write to {error.filename or args.out}: {error.strerror}; {advice}",
            file=sys.stderr,
        )
        return 1
    except BrokenProcessPool:
        print(f"{prog}: error: a worker process died (killed, or out of memory); {advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; {advice}", file=sys.stderr)
        return 130
    return 0
