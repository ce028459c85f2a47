"""The pickles of the later DeepLense sets, [image, mass]: read step by step, nothing executed."""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from darklens.data import checks, npy
from darklens.data.image import Picture, make_picture
from darklens.errors import DataError

MAX_PICKLE = 8 * checks.MAX_PIXELS + 2**16  # bytes
MAX_STEPS = 10_000  # an `[image, mass]` pair takes about 70
NAMES = {  # all that a pickled array needs; a name that isn't here ends the reading
    **{f"numpy{dot}core.multiarray {name}": name for dot in (".", "._") for name in ("_reconstruct", "scalar")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}
VALUES = ["BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"]
VALUES += ["SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"]
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
OTHERS = ["PROTO", "FRAME", "STOP", "MARK", "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS", "GLOBAL", "STACK_GLOBAL"]
OTHERS += ["REDUCE", "BUILD", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"]
KNOWN = {op.code: op for op in pickletools.opcodes if op.name in {*VALUES, *CONSTANTS, *TUPLES, *OTHERS}}
MARK = object()


class Refused(Exception):
    """A pickle that is more, or less, than an array of arrays and numbers; says why."""


@dataclass(eq=False, repr=False)  # what a pickle nests may be endless
class Name:
    """A name that a pickle mentions. It stays a name: nothing is imported."""

    name: str


@dataclass(eq=False, repr=False)  # what a pickle nests may be endless
class Call:
    """What a pickle asks to be called, a function of arguments, and the state of its result. Nothing is called."""

    function: str
    arguments: tuple
    state: object = None


def read_pair(path: str | Path, data: bytes) -> tuple[Picture, float]:
    """The `[image, mass]` in a pickled object array. data: what follows the .npy header."""
    if len(data) > MAX_PICKLE:
        raise DataError(f"{path}: expected an [image, mass] pair of at most {MAX_PICKLE} bytes")
    try:
        shape, number_type, _, items = _array_parts(parse_pickle(data))
        if number_type != "O" or math.prod(shape) != 2 or type(items) is not list or len(items) != 2:
            raise Refused(f"its pickle has an array {shape} of type {number_type}")
        image, mass = _array(items[0]), _number(items[1])
    except (Refused, ValueError) as error:
        raise DataError(f"{path}: expected a pickled [image, mass], refused: {error}; nothing was run") from None
    return make_picture(path, image), mass


def parse_pickle(data: bytes) -> object:
    """What a pickle describes, as lists, tuples, values and `Call`; nothing is imported, called or executed.

    Only the operations that NumPy's arrays are written with are known (protocols 2 to 4). What is held at any time
    is a small multiple of len(data). Raises Refused.
    """
    stack: list = []
    memo: dict[int, object] = {}
    try:
        for name, argument in _operations(io.BytesIO(data)):
            _step(name, argument, stack, memo)
        (result,) = stack
        if result is MARK:
            raise ValueError("a mark without end")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"its pickle is damaged ({' '.join(str(error).split())[:80]})") from None
    return result


def _operations(file: io.BytesIO) -> Iterator[tuple[str, object]]:
    """Name and argument of each operation of a pickle, up to its end, which must be that of the file."""
    for _ in range(MAX_STEPS):
        code = file.read(1).decode("latin1")
        if code not in KNOWN:  # before the argument is read
            raise Refused(f"its pickle has the operation {code!r}" if code else "its pickle is truncated")
        operation = KNOWN[code]
        yield operation.name, operation.arg.reader(file) if operation.arg else None
        if operation.name == "STOP":
            if file.read(1):
                raise Refused("its pickle is followed by something else")
            return
    raise Refused(f"its pickle takes more than {MAX_STEPS} steps")


def _step(name: str, argument: Any, stack: list, memo: dict[int, object]) -> None:
    """One operation of a pickle."""
    if name in VALUES:
        stack.append(argument)
    elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name in TUPLES:
        stack.append(tuple(stack.pop() for _ in range(TUPLES[name]))[::-1])
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name not in ("PROTO", "FRAME", "STOP"):
        stack.append(ACTIONS[name](argument, stack))


def _to_mark(stack: list) -> list:
    """Take what lies above the last mark, and the mark."""
    start = len(stack) - 1
    while stack[start] is not MARK:  # IndexError where there is none
        start -= 1
    items = stack[start + 1 :]
    del stack[start:]
    return items


def _append(items: list, stack: list) -> list:
    target = stack.pop()
    if type(target) is not list:
        raise TypeError("items for what is no list")
    target.extend(items)
    return target


def _mention(name: str) -> Name:
    if name not in NAMES:
        raise Refused(f"its pickle asks for {name.replace(' ', '.')[:80]}")
    return Name(NAMES[name])


def _stack_global(_: object, stack: list) -> Name:
    name, module = stack.pop(), stack.pop()
    if type(name) is not str or type(module) is not str:
        raise TypeError("a name that is no text")
    return _mention(f"{module} {name}")


def _reduce(_: object, stack: list) -> Call:
    arguments, function = stack.pop(), stack.pop()
    if type(function) is not Name or type(arguments) is not tuple:
        raise TypeError("a call of what is no function")
    return Call(function.name, arguments)


def _build(_: object, stack: list) -> Call:
    state, call = stack.pop(), stack.pop()
    if type(call) is not Call or call.state is not None:
        raise TypeError("a state for what has none")
    call.state = state
    return call


ACTIONS: dict[str, Callable[[Any, list], object]] = {  # operation -> what it leaves on the stack
    "MARK": lambda _, stack: MARK,
    "TUPLE": lambda _, stack: tuple(_to_mark(stack)),
    "EMPTY_LIST": lambda _, stack: [],
    "APPEND": lambda _, stack: _append([stack.pop()], stack),
    "APPENDS": lambda _, stack: _append(_to_mark(stack), stack),
    "GLOBAL": lambda name, stack: _mention(name),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _bytes(data: object) -> bytes:
    """Bytes, also where Python 2 wrote text, or protocol 2 a call of encode(text, "latin1")."""
    if type(data) is Call and data.function == "encode" and data.arguments[1:] == ("latin1",):
        data = data.arguments[0]
    if type(data) is str:
        data = data.encode("latin1")
    if type(data) is not bytes:
        raise Refused("its pickle has something else where bytes should be")
    return data


def _array_parts(call: object) -> tuple[tuple[int, ...], str, bool, object]:
    """Shape, number type, order and data of what should be an array."""
    state = call.state if isinstance(call, Call) and call.function == "_reconstruct" else None
    if type(state) is not tuple or len(state) not in (4, 5):  # version 0 and 1 of the format
        raise Refused("its pickle has something else where an array should be")
    shape, number_type, fortran, data = state[-4:]
    if type(shape) is not tuple or len(shape) > 3 or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused("its pickle has an array of impossible shape")
    return shape, _number_type(number_type), bool(fortran), data


def _number_type(call: object) -> str:
    """'<f8' and the like, or 'O' for objects."""
    state = call.state if isinstance(call, Call) and call.function == "dtype" and call.arguments else None
    if not isinstance(call, Call) or not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
        raise Refused("its pickle has something else where a number type should be")  # or fields, arrays within
    if len(state) < 2:
        raise ValueError("a number type without byte order")
    kind, order = call.arguments[0], state[1]
    if isinstance(kind, str) and kind in ("O", "O4", "O8"):
        return "O"
    if not (isinstance(kind, str) and isinstance(order, str) and npy.NUMBERS.fullmatch(order + kind)):
        stated = kind[:20] if isinstance(kind, str) else type(kind).__name__
        raise Refused(f"its pickle has numbers of type {stated!r}, expected integers or float16/32/64")
    return order + kind


def _array(call: object) -> np.ndarray:
    """An array of numbers."""
    shape, number_type, fortran, data = _array_parts(call)
    return _numbers(shape, number_type, data, "F" if fortran else "C")


def _numbers(shape: tuple[int, ...], number_type: str, data: object, order: Literal["C", "F"] = "C") -> np.ndarray:
    if number_type == "O":
        raise Refused("its pickle has objects where numbers should be")
    promised, data = math.prod(shape) * np.dtype(number_type).itemsize, _bytes(data)
    if promised != len(data):
        raise Refused(f"its pickle has an array {shape} of {promised} bytes, and {len(data)} bytes for it")
    return np.frombuffer(data, number_type).reshape(shape, order=order).copy()


def _number(value: object) -> float:
    """A finite number: Python's, NumPy's, or an array of one."""
    if isinstance(value, Call) and value.function == "scalar" and len(value.arguments) == 2:
        value = _numbers((), _number_type(value.arguments[0]), value.arguments[1]).item()
    elif isinstance(value, Call):
        array = _array(value)
        value = array.item() if array.size == 1 else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        raise Refused("its pickle has something else where a finite mass should be")
    return float(value)
