"""Train and test classifiers of strong-lens images: which dark matter bent this light?

  python main.py --demo                                                    simulate, train, test: minutes
  python main.py --data_dir images_j --sym_group Dihyderal --N 8           train
  python main.py --mode Test --test_time 2026-11-22-10-30-00               test what was trained then
  python main.py --resume latest                                           go on after an interruption
  python main.py --mode Predict --test_time latest --data_dir my_images    classify images without labels
  python main.py --mode Fit --data_dir list.csv --output fits.csv          the lens in each image, without a network
  python main.py --mode Compare RUN RUN                                    is one network better than another?
  python main.py --list                                                    all runs
  torchrun --nproc_per_node=4 main.py --data_dir images_j                  train on four GPUs (docs/scale.md)

Data: DATA_DIR/train/CLASS/*.npy and DATA_DIR/val/CLASS/*.npy, one square image a file; `simulate.py` makes them.
Results: DATASET_GROUP_ORDER/TIMESTAMP/ with log, curves, pictures, metrics.json and best-model-parameters.pt.
"""

import sys

from darklens.commands.run import main as run_program
from darklens.storage.training_config import TrainingConfig


def train(config: TrainingConfig) -> None:
    """A training run, from its settings to the report in its folder. Other modes are in darklens/commands."""
    from darklens.runs.data import open_data, read_images  # after the flags: `--help` does not wait for PyTorch
    from darklens.runs.networks import build_equivariant, build_resnet
    from darklens.runs.report import report
    from darklens.runs.run import open_run
    from darklens.runs.train import build_trainer

    with open_run(config) as run:  # its folder, log and device
        data = open_data(run)  # classes, sizes, and how an image is prepared
        classifier = build_resnet(run, data) if run.config.use_CNN else build_equivariant(run, data)
        batches = read_images(run, data)  # of train, val and, if there is one, test
        trainer = build_trainer(run, data, classifier, batches)
        trainer.fit()  # keeps the network of the best epoch
        report(run, data, batches, trainer)  # measures it: metrics.json, pictures, predictions


if __name__ == "__main__":
    sys.exit(run_program(manual=__doc__, train=train))  # parses the flags; errors become one line and an exit status
