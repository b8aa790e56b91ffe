"""Compiled programs, kept for the next run of the same structure.

Compiling a step takes seconds, and sweeps, notebooks and tests call `fit` with the same
structure repeatedly. The key of a program is everything but its arguments, compared by
value where possible: numbers, tuples, arrays (by their bits), modules (by their
structure and their fields that are not arrays), and functions of Optax and JAX by their
code and what they close over, so that two `optax.adam(1e-3)` are equal. Anything else,
such as a user's function, equals itself only. As with `jax.jit`, values that it reads
from outside are read when it is traced.
"""

import functools
import hashlib
import types
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import numpy as np

from ._state import is_key

_KEPT = 32  # programs; the least recently used is dropped
_LIBRARIES = ("jax", "optax")  # functions made anew by each call, and alike
_DEPTH = 40

T = TypeVar("T")


class _Entry:
    """The function that makes a program, and its key."""

    def __init__(self, key: Hashable, make: Callable[[], Any] | None):
        self.key, self.make = key, make

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Entry) and self.key == other.key


def kept(make: Callable[[], T], *structure: Any) -> T:
    """The result of `make()`, made once for a structure that can be compared."""
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
    """A hashable stand-in for a value: equal for values that make the same program."""
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
