"""From the words of a command line to values, by the kinds that settings have. Imports nothing heavy."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable
from typing import Any

from darklens.storage.setting_kinds import Choice, Kind, Switch, Whole
from darklens.storage.training_config import KINDS


class Parser(argparse.ArgumentParser):
    """argparse that suggests what an unknown flag may have meant."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            alike = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            hint = f" (did you mean {alike[0]}?)" if alike else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed


def of_kind(kind: Kind, metavar: str | None = None) -> dict[str, Any]:
    """What argparse is told of a flag of this kind."""

    def parse(text: str) -> Any:
        try:
            return kind.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    if isinstance(kind, Switch):
        return {"type": parse, "nargs": "?", "const": True, "metavar": "True|False"}
    if isinstance(kind, Choice):
        return {"type": parse, "choices": kind.words}
    return {"type": parse, "metavar": metavar}


def typed(name: str, metavar: str | None = None) -> dict[str, Any]:
    """What argparse is told of the flag of a setting of a training run."""
    return of_kind(KINDS[name], metavar)


def whole_number(low: int, high: float = math.inf) -> Callable[[str], int]:
    """For argparse: accepts whole numbers from `low` to `high`."""
    return of_kind(Whole(low, high))["type"]


def any_case(words: tuple[str, ...]) -> Callable[[str], str]:
    """For argparse: accepts the words in any case."""
    return of_kind(Choice(words))["type"]
