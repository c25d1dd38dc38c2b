"""Places in Python's dictionaries, looked at by native code: thousands of them, between one token and the next."""

import ctypes
import sys
from collections.abc import Iterable, Sized
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from spikeconv.ops.native import load

__all__ = ["NOTHING", "Place", "Places"]

NOTHING = object()
"""The value of a place where there is nothing of that name."""

CACHE_LINE = 64
"""Bytes that come into a processor's cache at once."""

KEYS_AND_VALUES = (32, 40)
"""Where in a dictionary CPython's PyDictObject has these addresses (3.11 to 3.14)."""

MOST_LINES = 24
"""Of a dictionary's keys; longer ones are read in few places."""


class Place(NamedTuple):
    """Where something is looked up that may be replaced, and what was found there."""

    owner: dict[str, Any]
    name: str
    value: Any


class _Place(ctypes.Structure):
    _fields_ = (("dictionary", ctypes.c_void_p), ("name", ctypes.c_void_p), ("value", ctypes.c_void_p))


class Places:
    """Some places, each with what it must hold; what they are made of lives as long as they do.

    Args:
        places: their values are compared by identity.
        empty: containers without an element.
        read_next: tensors whose addresses are read behind a look at the places; they are fetched into the cache along
            with the dictionaries, all at once.
    """

    def __init__(self, places: Iterable[Place], empty: Iterable[Sized] = (), read_next: Iterable[Tensor] = ()) -> None:
        self._held = list(places), list(empty), list(read_next)
        held, containers, tensors = self._held
        owners = {id(place.owner): place.owner for place in held}.values()
        near = [line for owner in owners for line in _lines_of(owner)]
        near += [line for tensor in tensors for line in _lines(tensor)]
        self._arguments = (
            (_Place * len(held))(*map(_as_ids, held)),
            len(held),
            (ctypes.c_void_p * len(containers))(*map(id, containers)),
            len(containers),
            (ctypes.c_void_p * len(near))(*near),
            len(near),
            ctypes.pythonapi.PyDict_GetItemWithError,
            ctypes.pythonapi.PyObject_Size,
        )

    def hold(self) -> bool:
        """Whether all hold what they must, and what must be empty is."""
        return bool(_native()(*self._arguments))


def _as_ids(place: Place) -> _Place:
    return _Place(id(place.owner), id(place.name), 0 if place.value is NOTHING else id(place.value))


@cache
def _native() -> Any:
    # PyDLL: Python's lock is held while its dictionaries are looked at.
    hold = ctypes.PyDLL(str(load("cpu").path)).spikeconv_places_hold
    hold.restype = ctypes.c_bool
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    hold.argtypes = (pointer, count, pointer, count, pointer, count, pointer, pointer)
    return hold


def _lines_of(dictionary: dict[str, Any]) -> Iterable[int]:
    """Cache lines that a look into a dictionary reads: of the object, its keys and its values.

    Where CPython has the addresses of the latter two. If it has them elsewhere one day these are numbers without
    meaning, and harmless: what is fetched into a cache is not looked at.
    """
    keys, values = (ctypes.c_size_t.from_address(id(dictionary) + at).value for at in KEYS_AND_VALUES)
    lines_of_keys = min(-(-sys.getsizeof(dictionary) // CACHE_LINE), MOST_LINES)
    parts = (id(dictionary), 1), (keys, lines_of_keys), (values, 2 if values else 0)
    return (address + CACHE_LINE * line for address, lines in parts for line in range(lines))


def _lines(tensor: Tensor) -> Iterable[int]:
    """Cache lines that `Tensor.data_ptr` reads: of the Python object, the tensor and its storage."""
    parts = (id(tensor), 2), (tensor._cdata, 3), (tensor.untyped_storage()._cdata, 2)
    return (address + CACHE_LINE * line for address, lines in parts for line in range(lines))
