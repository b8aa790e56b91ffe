"""Compiled programs, kept for the next run of the same structure.

Compiling a step takes seconds, and sweeps, notebooks and tests call `fit` with the same
structure repeatedly. The key of a program is everything but its arguments, compared by
value where possible: numbers, tuples, arrays (by their bits), modules (by their
structure and their fields that are not arrays), and functions of Optax and JAX by their
code and what they close over, so that two `optax.adam(1e-3)` are equal. Anything else,
such as a user's function, equals itself only. As with `jax.jit`, values that it reads
from outside are read when it is traced.

The rate of an optimiser is an argument: `opened` takes the rates out of its functions,
and `closed` puts others in their places.
"""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._state import is_key

_KEPT = 32  # programs; the least recently used is dropped
_LIBRARIES = ("jax", "optax")  # functions made anew by each call, and alike
_DEPTH = 40
# Where Optax keeps a rate that is a Python number: a function, and a name in it.
_RATE = ("scale.<locals>.update_fn", "step_size")

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
        if not _is_of_library(value):
            return value
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
        keywords = tuple(sorted((value.__kwdefaults__ or {}).items()))
        return value.__code__, one(cells), one(value.__defaults__), one(keywords)
    leaves, structure = jax.tree.flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        return value  # by its own equality
    return structure, *map(one, leaves)


def _is_of_library(function: types.FunctionType) -> bool:
    return (function.__module__ or "").split(".")[0] in _LIBRARIES


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an argument belongs in an optimiser."""

    index: int


def opened(optimiser: T) -> tuple[tuple[Array, ...], T]:
    """The rates of an optimiser, and the optimiser with their places empty.

    They are the numbers by which Optax's functions scale, and the floating-point
    scalars that are arrays, such as the numbers of `warmup_cosine`. Other Python
    numbers stay: Optax may need their values when it is traced.
    """
    found: list[Array] = []

    def one(value: Any) -> _Place:
        # A Python number is weakly typed, and stays it as an argument.
        found.append(jnp.asarray(value))
        return _Place(len(found) - 1)

    try:
        empty = _replaced(optimiser, _is_rate, one)
    except (TypeError, ValueError):  # it contains itself, or has no value yet
        return (), optimiser
    return tuple(found), empty


def closed(empty: T, rates: Sequence[Array]) -> T:
    """The optimiser with these rates in the places that `opened` made."""
    place = lambda value, name: isinstance(value, _Place)
    return _replaced(empty, place, lambda place: rates[place.index])


def _is_rate(value: Any, name: tuple[str, str]) -> bool:
    if isinstance(value, jax.Array):
        return value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.floating)
    return name == _RATE and type(value) is float


def _replaced(
    value: Any,
    chosen: Callable[[Any, tuple[str, str]], bool],
    new: Callable[[Any], Any],
    name: tuple[str, str] = ("", ""),
    depth: int = 0,
) -> Any:
    """`value` with what is `chosen` replaced; itself where nothing is."""
    if depth > _DEPTH:
        raise TypeError("a structure that contains itself is not taken apart")
    if chosen(value, name):
        return new(value)
    one = lambda value, name=("", ""): _replaced(value, chosen, new, name, depth + 1)
    if isinstance(value, types.FunctionType):
        return _with_cells(value, one) if _is_of_library(value) else value
    leaves, structure = jax.tree.flatten(value, is_leaf=lambda v: v is not value)
    if len(leaves) == 1 and leaves[0] is value:
        return value
    others = [one(leaf) for leaf in leaves]
    if all(a is b for a, b in zip(others, leaves, strict=True)):
        return value
    return jax.tree.unflatten(structure, others)


def _with_cells(function: Any, one: Callable[..., Any]) -> Any:
    """A function whose closure holds what `one` makes of what it holds."""
    cells, names = function.__closure__ or (), function.__code__.co_freevars
    made = [
        types.CellType(new) if new is not cell.cell_contents else cell
        for name, cell in zip(names, cells, strict=True)
        for new in [one(cell.cell_contents, (function.__qualname__, name))]
    ]
    if all(a is b for a, b in zip(made, cells, strict=True)):
        return function
    new = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(made),
    )
    new.__kwdefaults__ = function.__kwdefaults__
    new.__qualname__, new.__module__ = function.__qualname__, function.__module__
    return new
