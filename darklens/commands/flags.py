"""The flags of main.py: their names, values, defaults and what contradicts what. Imports nothing heavy."""

import argparse
import difflib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from darklens.commands import survey_flags
from darklens.errors import UsageError

DEFAULTS = {
    "data_dir": "images_f",
    "simulate": None,
    "epoch_images": 12_000,
    "sym_group": "Circular",
    "N": 4,
    "use_CNN": False,
    "arch": "full",
    "head": None,
    "crop": None,
    "view": None,
    "recipe": "seed",
    "epochs": None,
    "batch_size": None,
    "lr": None,
    "average": None,
    "balance": False,
    "mode": "Train",
    "test_time": "",
    "weights": "",
    "resume": "",
    "results_dir": ".",
    "runs": [],
    "output": "predictions.csv",
    **survey_flags.DEFAULTS,
    "list": False,
    "infer": False,
    "explain": False,
    "tensorboard": False,
    "seed": 0,
    "num_workers": None,
    "precision": None,
    "use_cuda": True,
    "cuda_idx": 0,
    "conv": "auto",
    "compile": False,
    "deterministic_ranks": False,
    "export": False,
    "quiet": False,
    "debug": False,
    "demo": False,
}
MODES = "Train", "Test", "Predict", "Compare", "Infer"
DEMO = {"data_dir": "images_demo", "sym_group": "Dihyderal", "N": 4, "arch": "compact", "recipe": "fast", "epochs": 5}
DEMO_IMAGES = {"train": 900, "val": 700}  # per class
USUAL = "compact-wide"  # the network that Predict takes when none is named
NETWORK_FLAGS = ("sym_group", "N", "use_CNN", "arch", "head")  # what a checkpoint knows better
# what a run repeats when it is started with --config
REPEATED = (
    "data_dir simulate epoch_images weights sym_group N use_CNN arch head crop view recipe epochs batch_size lr "
    "average balance infer seed num_workers precision use_cuda cuda_idx conv compile deterministic_ranks tensorboard"
).split()


class Parser(argparse.ArgumentParser):
    """argparse that suggests what an unknown flag may have meant."""

    def parse_args(
        self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f" (did you mean {near[0]}?)" if near else ""))
        return parsed


def boolean(text: str) -> bool:
    """True or False, as a person writes them."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")
    return values[text.lower()]


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Accepts whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}") from None
        if not least <= value <= most:
            limit = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
            raise argparse.ArgumentTypeError(f"expected a whole number {limit}, found {text}")
        return value

    return parse


def odd(text: str) -> int:
    """An odd number of pixels, not too few for a network."""
    value = whole(29)(text)
    if value % 2 == 0:
        raise argparse.ArgumentTypeError(f"expected an odd number, which has a central pixel, found {text}")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, found {text}")
    return value


def share(text: str) -> float:
    """A number from 0 to below 1."""
    value = 0.0 if text in ("0", "0.0") else positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, found {text}")
    return value


def any_case(choices: tuple[str, ...]) -> Callable[[str], str]:
    """Accepts the choices in any case."""

    def parse(text: str) -> str:
        return next((choice for choice in choices if choice.lower() == text.lower()), text)

    return parse


def build_parser(manual: str = "", prog: str = "main.py") -> Parser:
    """Flags without their defaults, so that what was given by hand can be told from what was not."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [flags]; `{prog} --help` explains them",
        description=manual,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    switch = {"type": boolean, "nargs": "?", "const": True, "metavar": "True|False"}
    groups = "Circular", "Dihyderal"
    parser.add_argument("runs", nargs="*", metavar="RUN", help="with --mode Compare: timestamps or folders of runs")

    add = parser.add_argument_group("data").add_argument
    add("--data_dir", type=os.path.expanduser, metavar="DIR", help="data set: folder, or shards (images_f)")
    add("--num_workers", type=whole(0), metavar="K", help="processes that read images which do not fit in memory")
    add(
        "--simulate",
        metavar="RECIPE",
        help="train on lenses drawn and rendered on the fly, never the same twice (validated on DIR, or "
        "simulated_RECIPE): f, j, wide, euclid, hst, rubin, i, ii, iii, or a .toml file",
    )
    add("--epoch_images", type=whole(3, 10**9), metavar="K", help="with --simulate: images to the epoch (12000)")
    add("--demo", **switch, help="simulate a small Model F set in images_demo, train a compact D4 network, test it")

    add = parser.add_argument_group("network").add_argument
    add("--sym_group", choices=groups, help="Circular: C_N, turns. Dihyderal: D_N, turns and mirrors (Circular)")
    add("--N", type=whole(1, 64), metavar="K", help="order of the group: N turns (4)")
    add("--use_CNN", **switch, help="ResNet-18 instead, the baseline (False)")
    add("--arch", choices=("full", "compact"), help="full: the original's; compact: for CPUs and quick looks (full)")
    add(
        "--head",
        choices=("flatten", "pooled", "rings", "orbit", "lifted"),
        help="from the last map to the classes; flatten, the original's, is not invariant (full orbit, compact lifted)",
    )

    add(
        "--view",
        choices=("image", "residual", "both"),
        help="what the network sees: the image, what the best smooth lens leaves of it, or both (residual for compact "
        "networks where the smooth lens is known, else image)",
    )
    add(
        "--crop",
        type=odd,
        metavar="PIXELS",
        help="odd side of the window that the network sees; a smaller one is faster (image 129, residual 105, or less)",
    )

    add = parser.add_argument_group("training").add_argument
    add(
        "--recipe",
        choices=("seed", "fast"),
        help="seed: Adam, 5e-5, constant. fast: Muon (ResNet-18: AdamW), one cycle (seed)",
    )
    add("--epochs", type=whole(1), metavar="K", help="passes over the training images (seed 30, fast 5)")
    add("--batch_size", type=whole(1), metavar="K", help="images per step (seed 64, fast 32)")
    add(
        "--lr",
        type=positive,
        metavar="RATE",
        help="learning rate, the highest of a cycle (seed 5e-5, fast 5e-3, ResNet-18 1e-3)",
    )
    add(
        "--average",
        type=share,
        metavar="DECAY",
        help="evaluate and keep an exponential moving average of the weights, with this decay, as 0.99 (0: none)",
    )
    add("--balance", **switch, help="weight the loss so that all classes count the same, however many images (False)")
    add("--seed", type=whole(0, 2**63 - 1), metavar="K", help="of weights, order and augmentation (0)")
    add(
        "--conv",
        choices=("auto", "dense", "factorised"),
        help="how steerable layers compute: same map, other speed (auto)",
    )
    add("--compile", **switch, help="torch.compile the training step, with dense layers: minutes to start (False)")
    add(
        "--deterministic_ranks",
        **switch,
        help="1, 2, 4 or 8 processes (torchrun) give the same bits: batches are worked on in eighths, slower (False)",
    )

    add("--tensorboard", **switch, help="also write what TensorBoard shows, into the run's folder (False)")
    add("--config", metavar="FILE", help="start from the settings in an earlier run's run.json; flags given here win")

    add = parser.add_argument_group("what to do").add_argument
    add("--mode", type=any_case(MODES), choices=MODES, help="what to do (Train, or Test if --test_time is given)")
    add("--infer", **switch, help="with Train: then learn how much dark matter there is, as --mode Infer does (False)")
    add("--test_time", metavar="TIMESTAMP", help="the run to test or predict with: timestamp, folder, or latest")
    add(
        "--weights",
        metavar="NAME",
        help="instead of a run: a network that comes with the program (with Predict: compact-wide), or a checkpoint's "
        "path; with --mode Train: the weights to start from",
    )
    add("--resume", metavar="TIMESTAMP", help="the run to go on with: timestamp, folder, or latest")
    add("--export", **switch, help="with Test: also write the folded network as network.pt2 and network.onnx (False)")
    add("--explain", **switch, help="with Test: also show which pixels decide, on some of the images (False)")
    add("--list", **switch, help="show the runs that there are (False)")
    add("--results_dir", type=os.path.expanduser, metavar="DIR", help="where runs are kept (the current folder)")

    survey_flags.add_flags(parser, switch)

    add = parser.add_argument_group("machine").add_argument
    add("--use_cuda", **switch, help="use a GPU if there is one (True)")
    add("--cuda_idx", type=whole(0), metavar="K", help="which GPU (0)")
    add("--precision", choices=("fp32", "bf16"), help="bf16: mixed precision (bf16 where the hardware has it)")
    add("--quiet", **switch, help="no progress bars (False)")
    add("--debug", **switch, help="show where an error comes from (False)")
    return parser


def markdown() -> str:
    """The table of all flags in docs/flags.md."""
    rows = ["| flag | meaning (default) |", "|---|---|"]
    for action in build_parser()._actions:
        if action.option_strings and action.dest != "help":
            values = action.metavar or "\\|".join(map(str, action.choices or ())) or action.dest.upper()
            values = values.replace("True|False", "True\\|False")
            rows.append(f"| `{action.option_strings[0]}` {values} | {action.help} |")
    return "\n".join(rows)


def check(arguments: dict) -> None:
    """Raise UsageError for settings, from the record of a run, that could not have been typed."""
    for action in build_parser()._actions:
        value = arguments.get(action.dest)
        if action.nargs not in (None, "?") or value == DEFAULTS.get(action.dest):
            continue
        try:
            typed = (action.type or str)(str(value))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"--{action.dest}: {error}") from error
        if type(typed) is not type(value) or typed != value or value not in (action.choices or [value]):
            raise UsageError(f"--{action.dest} cannot be {value!r}")


def parse(
    manual: str, argv: list[str] | None = None, prog: str = "main.py"
) -> tuple[argparse.Namespace, set[str], Parser]:
    """Settings with all defaults filled in, the names of those given by hand, and the parser for later errors."""
    parser = build_parser(manual, prog)
    given = vars(parser.parse_args(argv))
    named = {"test_time", "weights"} & set(given)  # by hand: a run that began with --weights is repeated by training
    if "config" in given:
        given = _config(given.pop("config"), parser) | given
    demo = DEMO if given.get("demo") else {}
    own = {"data_dir": simulated_folder(given["simulate"])} if given.get("simulate") else {}
    settings = argparse.Namespace(**{**DEFAULTS, **demo, **own, **given})
    settings.cuda_asked = given.get("use_cuda", False) or "cuda_idx" in given
    if named and "mode" not in given:
        settings.mode = "Test"
    if settings.mode == "Predict" and not (settings.test_time or settings.weights):
        settings.weights = USUAL
    for wrong, message in _contradictions(settings, given):
        if wrong:
            parser.error(message)
    return settings, set(given), parser


def simulated_folder(recipe: str) -> str:
    """Where the images of --simulate lie that it validates on."""
    return f"simulated_{Path(recipe).stem}"


def _contradictions(settings: argparse.Namespace, given: dict) -> list[tuple[bool, str]]:
    mode, trained, weights = settings.mode, settings.mode in ("Test", "Predict", "Infer"), bool(settings.weights)
    return [
        (
            trained and not (settings.test_time or weights),
            f"--mode {mode} needs --test_time TIMESTAMP, the run to take",
        ),
        (not trained and "test_time" in given, "--test_time goes with --mode Test, Predict or Infer"),
        (mode == "Compare" and "weights" in given, "--weights: not with --mode Compare, which takes runs"),
        (weights and bool(settings.test_time), "--weights or --test_time, not both"),
        (weights and mode in ("Test", "Infer") and "data_dir" not in given, "--weights needs --data_dir, the images"),
        (bool(settings.resume) and mode != "Train", f"--resume goes on with a training run: not with --mode {mode}"),
        (bool(settings.resume) and settings.demo, "--resume goes on with a training run: not with --demo"),
        (bool(settings.simulate) and mode != "Train", f"--simulate trains a network: not with --mode {mode}"),
        (bool(settings.simulate) and settings.demo, "--simulate: not with --demo, which has images of its own"),
        ("crop" in given and mode != "Train", "--crop: a trained network knows its own"),
        ("view" in given and mode != "Train", "--view: a trained network knows its own"),
        ("epoch_images" in given and not settings.simulate, "--epoch_images goes with --simulate"),
        (settings.demo and mode != "Train", f"--demo trains a network: not with --mode {mode}"),
        (settings.infer and mode != "Train", f"--infer goes with --mode Train: not with --mode {mode}"),
        (settings.infer and bool(settings.simulate), "--infer: not with --simulate, whose lenses are not kept"),
        (settings.export and mode != "Test", "--export goes with --mode Test"),
        ("balance" in given and mode != "Train", "--balance goes with training"),
        (settings.compile and settings.deterministic_ranks, "--deterministic_ranks: not with --compile"),
        (settings.explain and mode != "Test", "--explain goes with --mode Test"),
        *survey_flags.contradictions(settings, given),
        (mode == "Predict" and "data_dir" not in given, "--mode Predict needs --data_dir FOLDER, the images"),
        (mode == "Compare" and len(settings.runs) < 2, "--mode Compare needs two or more runs: timestamps or folders"),
        (mode != "Compare" and bool(settings.runs), f"unrecognized arguments: {' '.join(settings.runs)}"),
    ]


def _config(path: str, parser: Parser) -> dict:
    """The settings in a run's record, checked as if they had been typed."""
    try:
        arguments = json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))["arguments"]
        typed = [f"--{key}={arguments[key]}" for key in REPEATED if arguments.get(key, DEFAULTS[key]) != DEFAULTS[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        parser.error(f"--config {path}: expected the run.json of a run ({type(error).__name__}: {error})")
    return vars(parser.parse_args(typed))
