"""Images in pairs with their masses, as DeepLense saved them."""

import os
import pickle

import numpy as np
import pytest


def scene(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).poisson(300, (size, size)).astype(float)


def pair(image: object, mass: object) -> np.ndarray:
    """What `np.save(path, [image, mass])` made of the axion images of DeepLense."""
    both = np.empty(2, object)
    both[0], both[1] = image, mass
    return both


def assert_one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert str(part) in message


OBJECTS = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }".ljust(117) + b"\n"


def saved(thing: object, protocol: int = 4) -> bytes:
    """A .npy file that pickles anything."""
    return OBJECTS + pickle.dumps(thing, protocol=protocol)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


BOMB = Call(os.mkdir, "bomb")
