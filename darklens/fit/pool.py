"""The fit over all cores: one thread a process, a few images at a time, results in order."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from darklens.errors import UsageError
from darklens.fit.by_source import fit_by_source
from darklens.fit.model import SmoothModel
from darklens.fit.result import Fit, join
from darklens.machine import start_worker, usable_cores

SHARE = {"sersic": 32, "flexible": 4}  # images handed to a process at a time
NO_GUARD = (
    "a process of the fit ended before its work was done: a script that fits more than 64 images, or 8 with a flexible "
    'source, needs if __name__ == "__main__": round what it does, or workers=1; if it has that, memory ran out'
)
FEW = 2  # shares that don't repay starting processes


def fit_many(
    images: np.ndarray,
    model: SmoothModel | None = None,
    *,
    start: np.ndarray | None = None,
    noise: np.ndarray | str | None = None,
    mask: np.ndarray | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    pictures: bool = True,
    score_test: bool = True,
) -> Fit:
    """`fit_by_source` on a CPU with all cores; the same results, bit for bit, for any number of workers.

    images: (B, H, W). start, noise, mask, pictures, score_test: as in `fit`; the first three one for all or one for
    each image.
    workers: processes (None: one a core; a script that starts more than one needs `if __name__ == "__main__"`).
    progress: called with the number of images done since the last call.
    """
    images = np.asarray(images)
    images = images[None] if images.ndim == 2 else images
    share = SHARE[model.source if model else "sersic"]
    shares = [slice(i, i + share) for i in range(0, max(len(images), 1), share)]
    ranks = {"start": (start, 2), "noise": (noise, 3), "mask": (mask, 3)}

    def options(rows: slice) -> dict:
        each = {k: v[rows] if isinstance(v, np.ndarray) and v.ndim == rank else v for k, (v, rank) in ranks.items()}
        return {"model": model, "pictures": pictures, "score_test": score_test, **each}

    workers = min(workers or usable_cores(), len(shares)) if len(shares) > FEW else 1
    done = {}
    if workers == 1:
        for i, rows in enumerate(shares):
            done[i] = fit_by_source(images[rows], **options(rows))
            _tell(progress, done[i])
        return join([done[i] for i in range(len(shares))])
    _check_main_guard()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker) as pool:
        waiting = {pool.submit(fit_by_source, images[rows], **options(rows)): i for i, rows in enumerate(shares)}
        try:
            for future in as_completed(waiting):
                done[waiting[future]] = future.result()
                _tell(progress, future.result())
        except BrokenProcessPool:
            raise UsageError(NO_GUARD) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return join([done[i] for i in range(len(shares))])


def _check_main_guard() -> None:
    """End a worker that is importing its parent's script and fits there again: the parent says what is wrong."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(1)


def _tell(progress: Callable[[int], None] | None, fits: Fit) -> None:
    if progress is not None:
        progress(len(fits))
