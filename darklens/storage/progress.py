"""Progress of long work."""

from tqdm import tqdm


def progress(total: int, title: str, unit: str = "img", quiet: bool = False) -> tqdm:
    """A bar on a terminal."""
    return tqdm(total=total, desc=title, unit=unit, leave=False, disable=quiet or None)
