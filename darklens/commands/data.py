"""Convert, pack and verify data sets."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType

from darklens.data import convert, pack
from darklens.errors import DarkLensError, one_line


def run_command(work: Callable[[], str], prog: str, dst: str | None) -> int:
    """Do the work and print the line that it returns; the exit status: 2 for a UsageError, 1 for bad files or disks.

    SIGTERM ends it as an exception would, so that `work` cleans up. dst: what could not be written, where the system
    does not name it.
    """
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print(work())
    except DarkLensError as error:
        print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
        return error.status
    except OSError as error:
        reason = f"cannot write to {error.filename or dst}: {error.strerror or error}"
        print(f"{prog}: error: {one_line(reason)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted, nothing is left", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)
    return 0


def main(arguments: Sequence[str] | None = None, prog: str = "dataset.py") -> int:
    """`convert SRC DST`, `pack SRC DST` or `verify SHARDS`: the exit status, 2 for a call that can't be meant."""
    args = vars(_parser(prog).parse_args(arguments))
    command, work = args.pop("command"), args.pop("run")
    return run_command(lambda: one_line(work(**args)), f"{prog} {command}", args.get("dst"))


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog, description="Prepare a data set.")
    commands = parser.add_subparsers(required=True, dest="command", metavar="convert|pack|verify")

    def add(name: str, module: ModuleType, text: str, run: Callable) -> argparse.ArgumentParser:
        layout = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(name, help=text, description=module.__doc__, formatter_class=layout)
        command.add_argument("--quiet", action="store_true", help="no progress bar")
        command.set_defaults(run=run)
        return command

    _convert_flags(add("convert", convert, "make a data set of class folders of images", _convert))
    _pack_flags(add("pack", pack, "make a few large files of a data set", pack.pack))
    verify = add("verify", pack, "compare every byte with those that were packed", pack.verify)
    verify.add_argument("folder", type=os.path.expanduser, metavar="SHARDS")
    return parser


def _convert_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "src",
        type=os.path.expanduser,
        metavar="SRC",
        help="folder that holds a folder of images for each class, or a table of labels, labels.csv",
    )
    parser.add_argument("dst", type=os.path.expanduser, metavar="DST", help="folder to make")
    parser.add_argument("--val", type=float, default=0.1, help="fraction of each class for val (default: %(default)s)")
    parser.add_argument("--test", type=float, default=0.1, help="fraction for test, or 0 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    parser.add_argument("--hdu", metavar="NAME", help="of FITS files: number or name (default: found by its name)")
    parser.add_argument(
        "--images",
        type=os.path.expanduser,
        metavar="FOLDER",
        help="of a table of labels: the folder that was predicted (default: the table's)",
    )


def _pack_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "src", type=os.path.expanduser, metavar="SRC", help="folder with train/CLASS/*.npy, val/CLASS/*.npy, maybe test"
    )
    parser.add_argument("dst", type=os.path.expanduser, metavar="DST", help="folder to make")
    sizes = "bytes, or 100K, 256M, 1G (default: 256M)"
    parser.add_argument("--shard_size", type=_bytes, default=pack.SHARD_SIZE, help=sizes)


def _convert(**options) -> str:
    return _summary(convert.convert(**options), options["dst"])


def _summary(record: dict, dst: str) -> str:
    counts = "; ".join(
        f"{split}: {', '.join(f'{count} {name}' for name, count in classes.items())}"
        for split, classes in record["images"].items()
    )
    strays = f"; {record['skipped']} other entries passed over" if record["skipped"] else ""
    count = sum("NaN" in entry.get("note", "") for entry in record["files"].values())
    filled = f"; a border of NaN filled in {count}" if count else ""
    size = f"{record['size']} x {record['size']} pixels, channels {record['channels']}"
    return f"{dst}: {size}; {counts}{strays}{_beside(record)}{filled}{_taken(record)}{_copies(record)}"


def _beside(record: dict) -> str:
    """Files that by their names are no images."""
    files = record.get("side_files", ())
    named = ", ".join(files[:2]) + (", ..." if len(files) > 2 else "")
    return f"; {len(files)} masks, noise maps, PSFs or the like passed over by their names ({named})" if files else ""


def _copies(record: dict) -> str:
    """Images that are there more than once."""
    left, several = len(record.get("left_out", ())), record.get("in_several_classes", 0)
    copies = record.get("copies", 0)
    parts = [f"; {copies} images are copies of others, kept on one side of the split"] * bool(copies)
    parts += [f", {left} of them left out, being in val or test too"] * bool(left)
    return "".join(parts) + (f"; {several} images are in several classes" if several else "")


def _taken(record: dict) -> str:
    """Which HDU was taken where a file holds several images, and what was cropped."""
    parts = [part for entry in record["files"].values() for part in entry.get("note", "").split("; ")]
    kinds = Counter(part for part in parts if re.match(r"HDU \d+ .* of \d+ images$|the middle of", part))
    return "".join(f"; {part} taken in {count}" for part, count in kinds.most_common(4))


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([1-9]\d{0,14})([KMG]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected bytes, or a number with K, M or G, such as 256M, found {text!r}")
    return int(match[1]) * 1024 ** " KMG".index(match[2] or " ")
