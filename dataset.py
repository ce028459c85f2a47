"""Data sets: `python dataset.py convert|pack|verify`, and what reads them.

python dataset.py convert SRC DST      other people's files, or class folders that are not split yet
python dataset.py pack SRC DST         very many images as a few large files
python dataset.py verify SHARDS        every byte of those

folder = scan("images_f")                                  # train/<class>/*.npy, val/<class>/*.npy
batches = Batches(folder.splits["train"], folder, default_preprocess(folder.size), 64, train=True)
"""

import sys

from darklens.commands.data import main
from darklens.data.batches import Batch, Batches, open_batches
from darklens.data.endless import Endless
from darklens.data.folder import LensFolder, Split, scan
from darklens.data.transforms import Preprocess, augment, default_preprocess

__all__ = ["Batch", "Batches", "Endless", "LensFolder", "Preprocess", "Split"]
__all__ += ["augment", "default_preprocess", "main", "open_batches", "scan"]

if __name__ == "__main__":
    sys.exit(main())
