"""Train and test classifiers of strong-lens images: which dark matter bent this light?

  python main.py --demo                                                    simulate, train, test: 5 minutes
  python main.py --data_dir images_j --sym_group Dihyderal --N 8           train
  python main.py --mode Test --test_time 2026-11-22-10-30-00               test what was trained then
  python main.py --resume latest                                           go on after an interruption
  python main.py --mode Predict --test_time latest --data_dir my_images    classify images without labels
  python main.py --mode Compare RUN RUN                                    is one network better than another?
  python main.py --list                                                    all runs
  torchrun --nproc_per_node=4 main.py --data_dir images_j                  train on four GPUs (docs/scale.md)

Data: DATA_DIR/train/CLASS/*.npy and DATA_DIR/val/CLASS/*.npy, one square image a file; `simulate.py` makes them.
Results: DATASET_GROUP_ORDER/TIMESTAMP/ with log, curves, pictures, metrics.json and best-model-parameters.pt.
"""

import sys

from darklens.commands.run import main

if __name__ == "__main__":
    sys.exit(main(manual=__doc__))
