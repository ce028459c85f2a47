"""The flags of main.py: their names, meanings and defaults, and what contradicts what. Imports nothing heavy."""

from __future__ import annotations

import argparse
import sys

from darklens.commands import survey_flags
from darklens.commands.words import Parser, of_kind, typed
from darklens.errors import UsageError
from darklens.storage import training_config
from darklens.storage.setting_kinds import Choice, Switch
from darklens.storage.training_config import KINDS, TrainingConfig

MODES = "Train", "Test", "Predict", "Fit", "Compare", "Infer"
MODE = Choice(MODES)
DEFAULTS = {
    **training_config.DEFAULTS,
    "mode": "Train",
    "test_time": "",
    "runs": [],
    "output": "predictions.csv",
    **survey_flags.DEFAULTS,
    "list": False,
    "explain": False,
    "export": False,
    "debug": False,
}
USUAL = "compact-wide"  # the network that Predict takes when none is named


class Settings(argparse.Namespace):
    """The value of every flag; explicit: the names of those that were given, by hand or by --config."""

    mode: str
    explicit: frozenset[str]

    def training_config(self) -> TrainingConfig:
        """The settings of a training run. Raises UsageError for those that contradict each other."""
        return TrainingConfig.of(**{name: getattr(self, name) for name in self.explicit & KINDS.keys()})


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
    switch = of_kind(Switch())
    parser.add_argument("runs", nargs="*", metavar="RUN", help="with --mode Compare: timestamps or folders of runs")

    add = parser.add_argument_group("data").add_argument
    add("--data_dir", **typed("data_dir", "DIR"), help="data set: folder, or shards (images_f)")
    add(
        "--num_workers",
        **typed("num_workers", "K"),
        help="processes that read images; with Predict, that read and fit (one a core)",
    )
    add(
        "--simulate",
        **typed("simulate", "RECIPE"),
        help="train on lenses drawn and rendered on the fly, never the same twice (validated on DIR, or "
        "simulated_RECIPE): f, j, wide, j_wide, j_sources, wide_sources, euclid, hst, rubin, euclid_sky, "
        "hst_sky, rubin_sky, jwst, i, ii, iii, or a .toml file",
    )
    add("--epoch_images", **typed("epoch_images", "K"), help="with --simulate: images to the epoch (12000)")
    add("--demo", **switch, help="simulate a small Model F set in images_demo, train a compact D4 network, test it")

    add = parser.add_argument_group("network").add_argument
    add("--sym_group", **typed("sym_group"), help="Circular: C_N, turns. Dihyderal: D_N, turns and mirrors (Circular)")
    add("--N", **typed("N", "K"), help="order of the group: N turns (4)")
    add("--use_CNN", **switch, help="ResNet-18 instead, the baseline (False)")
    add("--arch", **typed("arch"), help="full: the original's; compact: for CPUs and quick looks (full)")
    add(
        "--head",
        **typed("head"),
        help="from the last map to the classes; flatten, the original's, is not invariant (full orbit, compact lifted)",
    )

    add(
        "--view",
        **typed("view"),
        help="what the network sees: the image, what the best smooth lens leaves of it, both, or what a smooth lens "
        "with a flexible source leaves (residual for compact networks where the smooth lens is known, else image)",
    )
    add(
        "--crop",
        **typed("crop", "PIXELS"),
        help="odd side of the window that the network sees; a smaller one is faster (image 129, residual 105, or less)",
    )

    add = parser.add_argument_group("training").add_argument
    add(
        "--recipe",
        **typed("recipe"),
        help="original: Adam, 5e-5, constant (once called seed). fast: Muon (ResNet-18: AdamW), one cycle (original)",
    )
    add("--epochs", **typed("epochs", "K"), help="passes over the training images (original 30, fast 5)")
    add("--batch_size", **typed("batch_size", "K"), help="images per step (original 64, fast 32)")
    add(
        "--lr",
        **typed("lr", "RATE"),
        help="learning rate, the highest of a cycle (original 5e-5, fast 5e-3, ResNet-18 1e-3)",
    )
    add(
        "--average",
        **typed("average", "DECAY"),
        help="evaluate and keep an exponential moving average of the weights, with this decay, as 0.99 (0: none)",
    )
    add("--balance", **switch, help="weight the loss so that all classes count the same, however many images (False)")
    add("--seed", **typed("seed", "K"), help="of weights, order and augmentation (0)")
    add(
        "--conv",
        **typed("conv"),
        help="how steerable layers compute: same map, other speed (auto)",
    )
    add("--compile", **switch, help="torch.compile the training step, with dense layers: minutes to start (False)")
    add("--deterministic_ranks", **switch, help=argparse.SUPPRESS)  # gone: accepted, with a warning
    add("--tensorboard", **switch, help="also write what TensorBoard shows, into the run's folder (False)")
    add("--config", metavar="FILE", help="start from the settings in an earlier run's run.json; flags given here win")

    add = parser.add_argument_group("what to do").add_argument
    add("--mode", **of_kind(MODE), help="what to do (Train, or Test if --test_time is given)")
    add("--infer", **switch, help="with Train: then learn how much dark matter there is, as --mode Infer does (False)")
    add("--test_time", metavar="TIMESTAMP", help="the run to test or predict with: timestamp, folder, or latest")
    add(
        "--weights",
        metavar="NAME",
        help="instead of a run: a network that comes with the program (with Predict: compact-wide), or a checkpoint's "
        "path; with --mode Train: the weights to start from",
    )
    add("--resume", **typed("resume", "TIMESTAMP"), help="the run to go on with: timestamp, folder, or latest")
    add("--export", **switch, help="with Test: also write the folded network as network.pt2 and network.onnx (False)")
    add(
        "--explain",
        **switch,
        help="with Test: also show which pixels decide, on some of the images; with Fit: a picture of each lens "
        "(False)",
    )
    add("--list", **switch, help="show the runs that there are (False)")
    add("--results_dir", **typed("results_dir", "DIR"), help="where runs are kept (the current folder)")

    survey_flags.add_flags(parser, switch)

    add = parser.add_argument_group("machine").add_argument
    add("--use_cuda", **switch, help="use a GPU if there is one (True)")
    add("--cuda_idx", **typed("cuda_idx", "K"), help="which GPU (0)")
    add("--precision", **typed("precision"), help="bf16: mixed precision (bf16 where the hardware has it)")
    add("--quiet", **switch, help="no progress bars (False)")
    add("--debug", **switch, help="show where an error comes from (False)")
    return parser


def markdown() -> str:
    """The table of all flags in docs/flags.md."""
    rows = ["| flag | meaning (default) |", "|---|---|"]
    for action in build_parser()._actions:
        if action.option_strings and action.dest != "help" and action.help != argparse.SUPPRESS:
            values = action.metavar or "\\|".join(map(str, action.choices or ())) or action.dest.upper()
            values = str(values).replace("True|False", "True\\|False")
            rows.append(f"| `{action.option_strings[0]}` {values} | {action.help} |")
    return "\n".join(rows)


def parse(manual: str, argv: list[str] | None = None, prog: str = "main.py") -> tuple[Settings, Parser]:
    """The value of every flag, and the parser for later errors. Ends the program for flags that cannot be."""
    parser = build_parser(manual, prog)
    flags = vars(parser.parse_args(argv))
    named = {"test_time", "weights"} & flags.keys()  # by hand: a run that began with --weights is repeated by training
    try:
        if "config" in flags:
            flags = _repeated(flags.pop("config")) | flags
        if flags.pop("deterministic_ranks", False):
            print(
                "warning: --deterministic_ranks is gone: several processes give the results of one, to rounding",
                file=sys.stderr,
            )
        settings = _complete(flags)
    except UsageError as error:
        parser.error(str(error))
    if named and "mode" not in flags:
        settings.mode = "Test"
    if settings.mode == "Fit" and "output" not in flags:
        settings.output = "fits.csv"
    if settings.mode == "Predict" and not (settings.test_time or settings.weights):
        settings.weights = USUAL
    for wrong, message in _contradictions(settings):
        if wrong:
            parser.error(message)
    return settings, parser


def _complete(flags: dict) -> Settings:
    """The flags that were given, those that they imply, and the defaults of all others."""
    config = TrainingConfig.of(**{name: value for name, value in flags.items() if name in KINDS})
    return Settings(**{**DEFAULTS, **config.to_dict(), **flags, "explicit": frozenset(flags)})


def _repeated(path: str) -> dict:
    """The settings in a run's record, checked as if they had been typed."""
    from darklens.storage.run_record import RunRecord  # takes NumPy along

    try:
        record = RunRecord.load(path)
    except UsageError as error:
        raise UsageError(f"--config {error}") from error
    assert record.config is not None  # or it could not have been loaded
    return record.config.repeated() | ({"deterministic_ranks": True} if record.deterministic_ranks else {})


def _contradictions(settings: Settings) -> list[tuple[bool, str]]:
    mode, trained, weights = settings.mode, settings.mode in ("Test", "Predict", "Infer"), bool(settings.weights)
    training, explicit = mode == "Train", settings.explicit
    return [
        (
            trained and not (settings.test_time or weights),
            f"--mode {mode} needs --test_time TIMESTAMP, the run to take",
        ),
        (not trained and "test_time" in explicit, "--test_time goes with --mode Test, Predict or Infer"),
        (mode == "Compare" and "weights" in explicit, "--weights: not with --mode Compare, which takes runs"),
        (weights and bool(settings.test_time), "--weights or --test_time, not both"),
        (
            weights and mode in ("Test", "Infer") and "data_dir" not in explicit,
            "--weights needs --data_dir, the images",
        ),
        (bool(settings.resume) and not training, f"--resume goes on with a training run: not with --mode {mode}"),
        (bool(settings.simulate) and not training, f"--simulate trains a network: not with --mode {mode}"),
        ("crop" in explicit and not training, "--crop: a trained network knows its own"),
        ("view" in explicit and not training, "--view: a trained network knows its own"),
        (settings.demo and not training, f"--demo trains a network: not with --mode {mode}"),
        (settings.infer and not training, f"--infer goes with --mode Train: not with --mode {mode}"),
        (settings.export and mode != "Test", "--export goes with --mode Test"),
        ("balance" in explicit and not training, "--balance goes with training"),
        (settings.explain and mode not in ("Test", "Fit"), "--explain goes with --mode Test or Fit"),
        *survey_flags.contradictions(settings),
        (
            mode in ("Predict", "Fit") and "data_dir" not in explicit,
            f"--mode {mode} needs --data_dir FOLDER, the images",
        ),
        (mode == "Fit" and weights, "--weights: --mode Fit takes no network"),
        (mode == "Compare" and len(settings.runs) < 2, "--mode Compare needs two or more runs: timestamps or folders"),
        (mode != "Compare" and bool(settings.runs), f"unrecognized arguments: {' '.join(settings.runs)}"),
    ]
