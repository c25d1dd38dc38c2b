"""Places in Python's dictionaries, looked at by native code: thousands of them, between one token and the next."""

import ctypes
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
        read_next: tensors whose addresses are read behind a look at the places, which brings them into the cache.
    """

    def __init__(self, places: Iterable[Place], empty: Iterable[Sized] = (), read_next: Iterable[Tensor] = ()) -> None:
        self._held = list(places), list(empty), list(read_next)
        held, containers, tensors = self._held
        near = [address for tensor in tensors for address in _lines(tensor)]
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


def _lines(tensor: Tensor) -> Iterable[int]:
    """Cache lines that `Tensor.data_ptr` reads: of the Python object, the tensor and its storage."""
    parts = (id(tensor), 2), (tensor._cdata, 3), (tensor.untyped_storage()._cdata, 2)
    return (address + CACHE_LINE * line for address, lines in parts for line in range(lines))
