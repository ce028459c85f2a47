"""Train and test classifiers of strong-lens images: which dark matter bent this light?

  darklens --demo                                                   simulate, train, test: 5 minutes
  darklens simulate --model j                                       simulate a data set: `darklens simulate --help`
  darklens convert SRC DST                                          other people's files: `darklens convert --help`
  darklens --data_dir images_j --sym_group Dihyderal --N 8          train
  darklens --mode Test --test_time 2026-11-22-10-30-00              test what was trained then
  darklens --resume latest                                          go on after an interruption
  darklens --mode Predict --weights compact-f --data_dir my_images  classify images without labels
  darklens --mode Compare RUN RUN                                   is one network better than another?
  darklens --list                                                   all runs

Data: DATA_DIR/train/CLASS/*.npy and DATA_DIR/val/CLASS/*.npy, one square image a file.
Results: DATASET_GROUP_ORDER/TIMESTAMP/ with log, curves, pictures, metrics.json and best-model-parameters.pt.
"""

import sys

from darklens.commands import run


def main() -> int:
    """The installed command `darklens`, and `python -m darklens`; returns the exit status."""
    return run.main(manual=__doc__, prog="darklens")


if __name__ == "__main__":
    sys.exit(main())
