"""Compiled programs, kept for the next run of the same structure.

To compile a step takes seconds, and sweeps, notebooks and tests call `fit` with one
structure again and again. A program is found again by all that it is made of beside its
arguments, which is compared by value where that can be done: numbers, tuples, arrays
(by their bits), modules (by their structure and what in them is not an array), and the
functions of Optax and JAX by their code and by what they close over, so that two
`optax.adam(1e-3)` are one. Anything else, a function of the user's too, is only equal
to itself: as with `jax.jit`, what it reads from outside is read when it is traced.
"""

import functools
import hashlib
import types
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import numpy as np

from ._state import is_key

_KEPT = 32  # programs; what has not been used for longest makes room
_LIBRARIES = ("jax", "optax")  # functions made anew by each call, and alike
_DEPTH = 40

T = TypeVar("T")


class _Entry:
    """What is to be made, and the key by which it is found."""

    def __init__(self, key: Hashable, make: Callable[[], Any] | None):
        self.key, self.make = key, make

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Entry) and self.key == other.key


def kept(make: Callable[[], T], *structure: Any) -> T:
    """What `make()` returns; made once for a structure, if that can be compared."""
    try:
        key = mark(structure)
        entry = _Entry(key, make)
        hash(entry)
    except (TypeError, ValueError):  # something in it has no hash, or no value yet
        return make()
    return _made(entry)


@functools.lru_cache(maxsize=_KEPT)
def _made(entry: _Entry) -> Any:
    make, entry.make = entry.make, None  # the cache holds the key alone
    assert make is not None
    return make()


def mark(value: Any, depth: int = 0) -> Hashable:
    """A hashable stand-in for a value: equal for what makes the same program."""
    if depth > _DEPTH:
        raise TypeError("a structure that contains itself is not compared")
    one = lambda value: mark(value, depth + 1)
    if isinstance(value, bool | int | float | complex | np.generic):
        return type(value), repr(value)  # 1, 1.0 and True are equal, and differ
    if isinstance(value, jax.Array):
        bits = np.asarray(jax.random.key_data(value) if is_key(value) else value)
        digest = hashlib.sha256(bits.tobytes()).digest()
        return str(value.dtype), value.shape, value.weak_type, digest
    if isinstance(value, tuple):
        return type(value), *map(one, value)
    if isinstance(value, functools.partial):
        keywords = tuple(sorted(value.keywords.items()))
        return functools.partial, one(value.func), one(value.args), one(keywords)
    if isinstance(value, types.MethodType):
        return types.MethodType, one(value.__func__), one(value.__self__)
    if isinstance(value, types.FunctionType):
        if (value.__module__ or "").split(".")[0] not in _LIBRARIES:
            return value
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
        keywords = tuple(sorted((value.__kwdefaults__ or {}).items()))
        return value.__code__, one(cells), one(value.__defaults__), one(keywords)
    leaves, structure = jax.tree.flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        return value  # by its own equality
    return structure, *map(one, leaves)
