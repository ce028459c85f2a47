"""What a page shows of each lens, and of the table as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from darklens.page.strip import Strip


@dataclass(frozen=True, eq=False)
class PageRow:
    """One lens.

    name: its file, as the table has it. strip: its pictures (`draw_strip`); None of a file that was rejected.
    class_name: the most probable class, "" if rejected. probabilities: (K,), calibrated where the network has a
    temperature. flag: in words. chi_square: per pixel. einstein_radius and its standard deviation: arcsec. columns: of
    the user's list, and what else the table has, as text. embedding: (D,), what the network's last layer reads. true:
    the label, where it is known.
    """

    name: str
    strip: Strip | None = None
    class_name: str = ""
    probabilities: Sequence[float] = ()
    flag: str = ""
    novelty: float | None = None
    chi_square: float | None = None
    einstein_radius: float | None = None
    einstein_radius_sd: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    true: str = ""


@dataclass(frozen=True)
class PageInfo:
    """The table as a whole. title: what the page is called. classes: of the network, in its order.

    calibrated: whether the probabilities are. listed: the columns of the user's own list, which rows show. source:
    where the lenses are; labels are kept in the browser under a hash of it and of the lenses' names, so that a second
    page of the same lenses finds them.
    """

    title: str
    classes: Sequence[str]
    calibrated: bool = True
    listed: Sequence[str] = ()
    source: str = ""
    network: str = ""

    def storage_key(self, names: Sequence[str]) -> str:
        """Under which name the browser keeps the labels of these lenses."""
        digest = hashlib.sha256("\0".join([self.source, *sorted(names)]).encode("utf-8", "surrogatepass"))
        return f"darklens-labels-{digest.hexdigest()[:24]}"
