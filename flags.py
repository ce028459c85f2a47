"""The flags of main.py: their names, values, defaults and what contradicts what. Imports nothing heavy."""

import argparse
import difflib
import math

DEFAULTS = {
    "data_dir": "images_f",
    "sym_group": "Circular",
    "N": 4,
    "use_CNN": False,
    "arch": "full",
    "head": None,
    "recipe": "seed",
    "epochs": None,
    "batch_size": None,
    "lr": None,
    "mode": "Train",
    "test_time": "",
    "resume": "",
    "results_dir": ".",
    "seed": 0,
    "num_workers": None,
    "precision": None,
    "use_cuda": True,
    "cuda_idx": 0,
    "compile": False,
    "export": False,
    "quiet": False,
    "debug": False,
    "demo": False,
}
DEMO = {"data_dir": "images_demo", "arch": "compact", "recipe": "fast"}
DEMO_IMAGES = {"train": 4000, "val": 700}  # per class
NETWORK_FLAGS = ("sym_group", "N", "use_CNN", "arch", "head")  # what a checkpoint knows better


class Parser(argparse.ArgumentParser):
    """argparse that suggests what an unknown flag may have meant."""

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f" (did you mean {near[0]}?)" if near else ""))
        return parsed


def boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")
    return values[text.lower()]


def whole(least: int, most: float = math.inf):
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


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, found {text}")
    return value


def any_case(choices: tuple[str, ...]):
    """Accepts the choices in any case."""

    def parse(text: str) -> str:
        return next((choice for choice in choices if choice.lower() == text.lower()), text)

    return parse


def build_parser(manual: str = "") -> Parser:
    """Flags without their defaults, so that what was given by hand can be told from what was not."""
    parser = Parser(
        prog="main.py",
        description=manual,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    switch = {"type": boolean, "nargs": "?", "const": True, "metavar": "True|False"}
    groups = "Circular", "Dihyderal"
    modes = "Train", "Test"

    add = parser.add_argument_group("data").add_argument
    add("--data_dir", metavar="DIR", help="data set folder (images_f)")
    add("--num_workers", type=whole(0), metavar="K", help="processes that read images which do not fit in memory")
    add("--demo", **switch, help="simulate a small Model F set in images_demo, train a compact C4 network, test it")

    add = parser.add_argument_group("network").add_argument
    add("--sym_group", choices=groups, help="Circular: C_N, turns. Dihyderal: D_N, turns and mirrors (Circular)")
    add("--N", type=whole(1, 64), help="order of the group: N turns (4)")
    add("--use_CNN", **switch, help="ResNet-18 instead, the baseline (False)")
    add("--arch", choices=("full", "compact"), help="full: the original's; compact: for CPUs and quick looks (full)")
    add(
        "--head",
        choices=("flatten", "pooled", "rings", "orbit", "lifted"),
        help="from the last map to the classes; flatten, the original's, is not invariant (full orbit, compact lifted)",
    )

    add = parser.add_argument_group("training").add_argument
    add("--recipe", choices=("seed", "fast"), help="seed: Adam, 5e-5, constant. fast: AdamW, one cycle (seed)")
    add("--epochs", type=whole(1), help="passes over the training images (seed 30, fast 5)")
    add("--batch_size", type=whole(1), help="images per step (seed 64, fast 32)")
    add("--lr", type=positive, help="learning rate, the highest of a cycle (seed 5e-5, fast 3e-3)")
    add("--seed", type=whole(0, 2**63 - 1), help="of weights, order and augmentation (0)")
    add("--compile", **switch, help="torch.compile the training step: minutes to start, faster steps (False)")

    add = parser.add_argument_group("what to do").add_argument
    add("--mode", type=any_case(modes), choices=modes, help="(Train, or Test if --test_time is given)")
    add("--test_time", metavar="TIMESTAMP", help="the run to test: its timestamp, its folder, or latest")
    add("--resume", metavar="TIMESTAMP", help="the run to go on with: its timestamp, its folder, or latest")
    add("--export", **switch, help="with Test: also write the folded network as network.pt2 and network.onnx (False)")
    add("--results_dir", metavar="DIR", help="where runs are kept (the current folder)")

    add = parser.add_argument_group("machine").add_argument
    add("--use_cuda", **switch, help="use a GPU if there is one (True)")
    add("--cuda_idx", type=whole(0), help="which GPU (0)")
    add("--precision", choices=("fp32", "bf16"), help="bf16: mixed precision (bf16 where the hardware has it)")
    add("--quiet", **switch, help="no progress bars (False)")
    add("--debug", **switch, help="show where an error comes from (False)")
    return parser


def parse(manual: str, argv: list[str] | None = None) -> tuple[argparse.Namespace, set[str], Parser]:
    """Settings with all defaults filled in, the names of those given by hand, and the parser for later errors."""
    parser = build_parser(manual)
    given = vars(parser.parse_args(argv))
    demo = DEMO if given.get("demo") else {}
    settings = argparse.Namespace(**{**DEFAULTS, **demo, **given})
    settings.cuda_asked = given.get("use_cuda", False) or "cuda_idx" in given
    if "test_time" in given and "mode" not in given:
        settings.mode = "Test"
    if settings.mode == "Test" and not settings.test_time:
        parser.error("--mode Test needs --test_time TIMESTAMP, the run to test")
    if settings.mode == "Train" and "test_time" in given:
        parser.error("--test_time goes with --mode Test")
    if settings.resume and (settings.mode == "Test" or settings.demo):
        parser.error("--resume goes on with a training run: not with --mode Test or --demo")
    if settings.export and settings.mode != "Test":
        parser.error("--export goes with --mode Test")
    return settings, set(given), parser
