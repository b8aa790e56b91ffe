"""A configuration in words, to compare two runs or two data sets.

Any value becomes a flat dictionary from paths to text: the fields of modules and other
dataclasses, what a function was closed over (an Optax optimiser is two functions that
close over its learning rate), and arrays by dtype and shape and, where their values
matter, by a hash of these.
"""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

_DEPTH = 40


def describe(value: Any, name: str, *, values: bool) -> dict[str, str]:
    """`value` as text by path; with `values`, arrays are told apart by content."""
    return dict(_walk(value, name, values, (), 0))


def differences(
    saved: Mapping[str, str], now: Mapping[str, str], place: str = "the file"
) -> list[str]:
    """In words, where a configuration differs from the one saved in `place`."""
    found = []
    for name in [*saved, *(n for n in now if n not in saved)]:
        before, after = saved.get(name, "absent"), now.get(name, "absent")
        if before != after:
            found.append(f"{name}: {before} in {place}, {after} now")
    return found


def _walk(
    value: Any, path: str, values: bool, seen: tuple[int, ...], depth: int
) -> Iterator[tuple[str, str]]:
    children = _children(value)
    if children is None or id(value) in seen or depth > _DEPTH:
        yield path, _leaf(value, values)
        return
    yield path, _kind(value)
    for step, child in children:
        yield from _walk(child, path + step, values, (*seen, id(value)), depth + 1)


def _children(value: Any) -> list[tuple[str, Any]] | None:
    """What `value` is made of, or None if it is a leaf."""
    if eqx.is_array_like(value) or isinstance(value, str | bytes | type):
        return None
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return [(f".{f.name}", getattr(value, f.name, None)) for f in fields]
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple) and names is not None:
        return [(f".{n}", v) for n, v in zip(names, value, strict=True)]
    if isinstance(value, tuple | list):
        return [(f"[{i}]", v) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return [(f"[{k!r}]", value[k]) for k in value]
    if isinstance(value, functools.partial):
        parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
        return [(f".{n}", v) for n, v in parts.items()]
    if isinstance(value, types.MethodType):
        return [(".self", value.__self__)]
    if isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        cells = zip(names, value.__closure__ or (), strict=True)
        found = [(f".{n}", _content(cell)) for n, cell in cells]
        given = {"defaults": value.__defaults__, "keywords": value.__kwdefaults__}
        return found + [(f".{n}", v) for n, v in given.items() if v]
    if type(value).__module__.startswith("optax") and hasattr(value, "__dict__"):
        return [(f".{n}", v) for n, v in vars(value).items()]
    return None


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def _kind(value: Any) -> str:
    if isinstance(value, types.FunctionType | types.MethodType):
        text = f"{value.__module__}.{value.__qualname__}"
        if value.__name__ == "<lambda>":  # its name says nothing: what it holds does
            text += f" of {_code(value.__code__)}"
        return text
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _code(code: types.CodeType) -> str:
    """The names and constants of a function's code, the same in every process."""
    constants = [
        _code(c)
        if isinstance(c, types.CodeType)
        else repr(sorted(map(repr, c)) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return f"{code.co_names} {constants}"


def _leaf(value: Any, values: bool) -> str:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if isinstance(value, jax.Array) and _is_key(value):
            value = jax.random.key_data(value)
        text = f"{value.dtype}{list(value.shape)}"
        if not values:
            return text
        if value.size <= 4:  # as short as tells them apart: 0.1, not 0.10000000149
            numbers = ", ".join(map(str, np.ravel(np.asarray(value))))
            return f"{text} [{numbers}]" if value.ndim else f"{text} {numbers}"
        data = np.ascontiguousarray(value)
        return f"{text} {hashlib.sha256(data.tobytes()).hexdigest()[:16]}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    name = getattr(value, "__qualname__", None)
    if name is not None:  # functions of C, classes, jitted functions
        return f"{getattr(value, '__module__', '')}.{name}"
    return type(value).__qualname__


def _is_key(value: jax.Array) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
