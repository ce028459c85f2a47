"""What a setting may be: each kind reads a value from the words of a command line, and checks one given in Python.

Whole(1, 64).parse("8")      # 8; ValueError, in one line that says what was expected and what was found
Whole(1, 64).check(8)
"""

from __future__ import annotations

import math
import operator
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Text:
    """A word, such as the name of a run."""

    def parse(self, text: str) -> str:
        return text

    def check(self, value: Any) -> str:
        if not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"expected text, found {value!r}")
        return os.fspath(value)


@dataclass(frozen=True)
class FilePath(Text):
    """A path, in which ~ is the home folder."""

    def parse(self, text: str) -> str:
        return os.path.expanduser(text)

    def check(self, value: Any) -> str:
        return os.path.expanduser(super().check(value))


@dataclass(frozen=True)
class Switch:
    """True or False, as a person writes them."""

    def parse(self, text: str) -> bool:
        values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in values:
            raise ValueError(f"expected True or False, found {text!r}")
        return values[text.lower()]

    def check(self, value: Any) -> bool:
        if value not in (True, False):
            raise ValueError(f"expected True or False, found {value!r}")
        return bool(value)


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`; an odd one where it is a number of pixels with a centre."""

    low: int
    high: float = math.inf
    odd: bool = False

    def parse(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"expected a whole number, found {text!r}") from None
        return self.check(value)

    def check(self, value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise ValueError(f"expected a whole number, found {value!r}") from None
        if isinstance(value, bool):
            raise ValueError(f"expected a whole number, found {value}")
        if not self.low <= number <= self.high:
            limits = f"from {self.low} to {self.high}" if self.high < math.inf else f"of at least {self.low}"
            raise ValueError(f"expected a whole number {limits}, found {number}")
        if self.odd and number % 2 == 0:
            raise ValueError(f"expected an odd number, which has a central pixel, found {number}")
        return number


@dataclass(frozen=True)
class Positive:
    """A finite number above 0; `share`: a number from 0 to below 1."""

    share: bool = False

    def parse(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"expected a number, found {text!r}") from None
        return self.check(value)

    def check(self, value: Any) -> float:
        try:
            number = float(operator.pos(value))  # text is no number here
        except (TypeError, ValueError):
            raise ValueError(f"expected a number, found {value!r}") from None
        if self.share and number == 0:
            return 0.0
        if not 0 < number < math.inf:
            raise ValueError(f"expected a finite number above 0, found {value}")
        if self.share and number >= 1:
            raise ValueError(f"expected a number from 0 to below 1, found {value}")
        return number


@dataclass(frozen=True)
class Choice:
    """One of a few words, in any case. aliases: other spellings, in small letters, and the word that each means."""

    words: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...] = ()

    def parse(self, text: str) -> str:
        spellings = dict(self.aliases) | {word.lower(): word for word in self.words}
        return spellings.get(text.lower(), text)  # argparse says itself which there are

    def check(self, value: Any) -> str:
        word = self.parse(value) if isinstance(value, str) else value
        if word not in self.words:
            raise ValueError(f"expected {' or '.join(self.words)}, found {value!r}")
        return word


Kind = Text | Switch | Whole | Positive | Choice
