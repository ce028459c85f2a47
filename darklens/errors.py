"""The errors that a user can mend: each message is one line that says what to do, each class has an exit status."""

import signal


def one_line(text: object) -> str:
    """A message in one printable line, whatever is in the names of files."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


class DarkLensError(Exception):
    """What a user can mend. `status` is the exit status of a program that ends with it."""

    status = 1


class UsageError(DarkLensError):
    """A command line that is wrong in a way that only the files could tell."""

    status = 2


class RecipeError(UsageError, ValueError):
    """A recipe of lenses that can't be read or drawn from; one line with the key and what to do."""


class DataError(DarkLensError, ValueError):
    """A folder or file that can't be used. The message is one printable line, whatever the file's name."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class DatasetError(DarkLensError, ValueError):
    """A folder that can't take these simulated images; the message says why and what to do."""

    status = 2


class ResultsError(DarkLensError):
    """A results folder or file that cannot be found, read or written."""


class CheckpointError(DarkLensError, RuntimeError):
    """A checkpoint that could not be written or must not be used. One line that names the file."""


class PublishedError(DarkLensError, ValueError):
    """A state_dict that is not one of the original's, or whose parts contradict each other."""


class CacheError(DarkLensError, RuntimeError):
    """There is no place to keep what can be made again."""


class TrainingError(DarkLensError, RuntimeError):
    """Training cannot go on; one line that says why and what to do."""


class RankError(DarkLensError, RuntimeError):
    """The processes of a job cannot go on together."""


class PackageError(DarkLensError, RuntimeError):
    """An optional package is missing."""


class Interrupted(DarkLensError):
    """A signal asked the run to stop; its state is saved. `status` is the exit status that says so."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number
