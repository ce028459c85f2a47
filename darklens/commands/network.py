"""From flags to the trained network that they mean."""

from __future__ import annotations

import torch

from darklens import machine
from darklens.commands.flags import Settings
from darklens.runs.trained import NetworkChoice, TrainedNetwork, open_network
from darklens.storage.runs import run_folder_name
from darklens.storage.training_config import NETWORK_SETTINGS


def device_of(settings: Settings) -> torch.device:
    """The GPU or CPU that the flags ask for."""
    cuda_asked = settings.use_cuda and bool({"use_cuda", "cuda_idx"} & settings.explicit)
    return machine.choose_device(settings.use_cuda, settings.cuda_idx, cuda_asked)


def network_of(settings: Settings) -> TrainedNetwork:
    """The network of `--weights` or `--test_time`, on that device."""
    naming = {"sym_group", "N", "use_CNN", *(["data_dir"] if settings.mode == "Test" else [])}
    name = run_folder_name(settings.data_dir, settings.sym_group, settings.N, settings.use_CNN)
    choice = NetworkChoice(
        weights=settings.weights,
        timestamp=settings.test_time,
        results_dir=settings.results_dir,
        run_name=name if naming & settings.explicit else None,
        network={key: getattr(settings, key) for key in NETWORK_SETTINGS if key in settings.explicit},
    )
    return open_network(choice, device_of(settings), settings.conv)
