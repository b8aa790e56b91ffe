"""A module as a tree of names and numbers, with its arrays apart; and back.

The names of classes, functions and dtypes are looked up, never imported, and only in
the modules listed here.
"""

import dataclasses
import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import is_traced
from .._files import LEVELS, bad, fits, is_count

Node: TypeAlias = Any  # what JSON can hold
Entry: TypeAlias = dict[str, Node]

# Where names may come from; a dot at the end includes the modules inside.
CLASSES = ("pidax.", "equinox.nn.", "diffrax.")
FUNCTIONS = ("jax.nn", "jax.numpy", "jax.lax", "jax", "pidax.")
_FILE_FUNCTIONS = ("load", "save", "savez")  # of those modules, and not of arrays
# Equinox's default for the last activation is a function without a name of its own.
_IDENTITY = inspect.signature(eqx.nn.MLP).parameters["final_activation"].default
NAMELESS = {"equinox.nn:MLP(final_activation)": _IDENTITY}
_JAX_TYPES = [t for t in vars(jnp).values() if isinstance(t, type(jnp.float32))]
DTYPES = {t.dtype.name: t.dtype.newbyteorder("<") for t in _JAX_TYPES}
TYPES = {  # the three forms in which a field may hold a dtype
    "jax": {t.dtype.name: t for t in _JAX_TYPES},
    "numpy": {name: dtype.type for name, dtype in DTYPES.items()},
    "dtype": DTYPES,
}


def encode(
    value: Any, path: str, arrays: dict[str, tuple[Entry, np.ndarray]], depth: int
) -> Node:
    """`value` as JSON, its arrays set aside under their paths."""
    if depth > LEVELS:
        raise ValueError(
            f"save expects at most {LEVELS} levels of nesting, got more at "
            f"{path[:60]}... Does a list or dict contain itself?"
        )
    inner = lambda child, step: encode(child, path + step, arrays, depth + 1)
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is complex:
        return {"complex": [inner(value.real, ""), inner(value.imag, "")]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind in (tuple, list):
        items = [inner(item, f"[{i}]") for i, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: inner(value[key], f"[{key!r}]") for key in value}}
    if isinstance(value, eqx.Module):
        names = [field.name for field in dataclasses.fields(value)]
        fields = {name: inner(getattr(value, name), f".{name}") for name in names}
        name = public_name(kind, CLASSES) or f"{kind.__module__}:{kind.__qualname__}"
        return {"class": name, "fields": fields}
    if isinstance(value, jax.Array | np.generic) or kind is np.ndarray:
        arrays[path] = _encode_array(value, path)
        return {"array": path}
    return _encode_name(value, path)


def _encode_array(value: Any, path: str) -> tuple[Entry, np.ndarray]:
    if is_traced(value):
        raise ValueError(
            f"save expects arrays with values, got a tracer at {path}. Call it outside "
            "jax.jit and the other transformations."
        )
    entry: Entry = {"kind": "numpy" if type(value) is np.ndarray else "scalar"}
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            entry = {"kind": "key", "impl": str(jax.random.key_impl(value))}
            value = jax.random.key_data(value)
        else:
            entry = {"kind": "weak" if value.weak_type else "jax"}
    array = np.asarray(value)
    name = array.dtype.name
    if name not in DTYPES:
        raise ValueError(
            f"save expects arrays of a dtype that JAX has, got {array.dtype} at "
            f"{path}. Convert it, or store it as a tuple or a dict."
        )
    entry |= {"dtype": name, "shape": list(array.shape)}
    return entry, array.astype(DTYPES[name], copy=False)


def _encode_name(value: Any, path: str) -> Node:
    """A dtype or a function, by its name."""
    for form, table in TYPES.items():
        for name, known in table.items():
            if type(known) is type(value) and known == value:
                return {"dtype": name, "as": form}
    nameless = [name for name, known in NAMELESS.items() if known is value]
    function = public_name(value, FUNCTIONS) if is_function(value) else None
    if not (nameless or function):
        raise ValueError(
            "a file holds data, not code: save expects arrays, numbers, strings, "
            "tuples, lists, dicts with string keys, modules, and functions of jax.nn, "
            f"jax.numpy, jax.lax, jax or pidax, got {repr(value)[:200]} at {path}. If "
            "it wraps a network, save the network inside it and wrap it again after "
            "loading; or make it an equinox.Module of your own and load with classes=."
        )
    return {"function": nameless[0] if nameless else function}


class Reader:
    """Builds the module that a header describes, taking no word of it on trust."""

    def __init__(
        self, head: Any, payload: bytes, classes: Mapping[str, type[eqx.Module]]
    ):
        self.classes = classes
        self.cure = f"It was written by pidax {head['pidax']}: load it with that, or "
        self.cure += "bring the class or the file up to date."
        self.arrays = dict(self._views(head["arrays"], payload))

    def build(self, node: Node, where: str, depth: int = 0) -> Any:
        if depth > LEVELS:
            raise bad(f"at most {LEVELS} levels of nesting", "more")
        inner = lambda child, step: self.build(child, where + step, depth + 1)
        match node:
            case None | bool() | int() | float() | str():
                return node
            case list(items):
                return [inner(item, f"[{i}]") for i, item in enumerate(items)]
            case {"tuple": list(items)}:
                return tuple(inner(item, f"[{i}]") for i, item in enumerate(items))
            case {"dict": dict(items)}:
                return {key: inner(item, f"[{key!r}]") for key, item in items.items()}
            case {"float": "inf" | "-inf" | "nan" as text}:
                return float(text)
            case {"complex": [real, imag]}:
                return complex(inner(real, ""), inner(imag, ""))
            case {"bytes": str(text)}:
                return bytes.fromhex(text)
            case {"dtype": str(name), "as": str(form)}:
                return TYPES[form][name]
            case {"function": str(name)}:
                return self._function(name, where)
            case {"array": str(name)}:
                return self._array(*self.arrays.pop(name), where)
            case {"class": str(name), "fields": dict(fields)}:
                module = object.__new__(self._class(name, set(fields), where))
                for field, child in fields.items():
                    object.__setattr__(module, field, inner(child, f".{field}"))
                self._check(module, where)
                return module
        raise TypeError(f"{str(node)[:60]} at {where}")

    def _class(self, name: str, fields: set[str], where: str) -> type[eqx.Module]:
        """The class of this name, if it is known and has exactly these fields."""
        cls = self.classes.get(name) or find(name, CLASSES)
        if not (isinstance(cls, type) and issubclass(cls, eqx.Module)):
            own = name.rpartition(":")[2].rpartition(".")[2]
            cure = f"If it is your own, pass classes=({own},); if it has moved, "
            cure += f'classes={{"{name}": {own}}}. {self.cure}'
            expected = "a class of pidax, equinox.nn or diffrax, or one of classes,"
            raise bad(expected, f"{name} at {where or 'the root'}", cure)
        today = {field.name for field in dataclasses.fields(cls)}
        if today != fields:
            missing, unexpected = sorted(today - fields), sorted(fields - today)
            got = f"missing {missing}, unexpected {unexpected}"
            expected = f"at {where or 'the root'} exactly the fields of {name}"
            raise bad(expected, got, self.cure)
        return cls

    def _check(self, module: eqx.Module, where: str) -> None:
        """The invariants of its class and of the bases, as after a constructor."""
        cls = type(module)
        try:
            for base in cls.__mro__:
                if "__check_init__" in vars(base):
                    base.__check_init__(module)
        except Exception as error:
            expected = f"at {where or 'the root'} values that {cls.__name__} allows"
            raise bad(expected, str(error).rstrip("."), self.cure) from error

    def _function(self, name: str, where: str) -> Any:
        if name in NAMELESS:
            return NAMELESS[name]
        value = find(name, FUNCTIONS)
        if not is_function(value):
            expected = "a function of jax.nn, jax.numpy, jax.lax, jax or pidax"
            raise bad(expected, f"{name} at {where}", self.cure)
        return value

    def _views(
        self, entries: dict[str, Entry], payload: bytes
    ) -> Iterator[tuple[str, tuple[Entry, np.ndarray]]]:
        """Each array in its place: the next begins where the last one ends."""
        end = 0
        for name, entry in entries.items():
            shape, offset, dtype = entry["shape"], entry["offset"], entry["dtype"]
            start, known = end, dtype in DTYPES and all(map(is_count, [offset, *shape]))
            known = known and fits(shape)
            end += math.prod(shape) * DTYPES[dtype].itemsize if known else 0
            if not known or offset != start or end > len(payload):
                expected = f"{name} at byte {start} of {len(payload)}"
                raise bad(expected, f"{dtype}{shape} at {offset}")
            view = np.ndarray(shape, DTYPES[dtype], payload, offset)
            yield name, (entry, view)
        if end != len(payload):
            raise bad(f"{len(payload)} bytes of arrays", f"{end}")

    def _array(self, entry: Entry, array: np.ndarray, where: str) -> Any:
        match entry:
            case {"kind": "numpy"}:
                return array.copy()
            case {"kind": "scalar"}:
                return array[()]
            case {"kind": "key", "impl": str(impl)}:
                return jax.random.wrap_key_data(jnp.array(array), impl=impl)
            case {"kind": "jax" | "weak" as kind}:
                if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype:
                    return _weak(array) if kind == "weak" else jnp.array(array)
                cure = "Set jax.config.update('jax_enable_x64', True), or save the "
                cure += "module with its arrays in 32 bits."
                got = f"{array.dtype} at {where}, which JAX would round"
                raise bad("arrays of at most 32 bits a number", got, cure)
        raise TypeError(f"{entry} at {where}")


def _weak(array: np.ndarray) -> Array:
    """A weakly typed array, as Python numbers make: `.at` keeps what it updates so."""
    with jax.enable_x64(array.dtype.name in ("int64", "float64", "complex128")):
        blank = jnp.broadcast_to(jnp.asarray(array.dtype.type(0).item()), array.shape)
        return blank.at[...].set(array)


def public_name(value: Any, homes: tuple[str, ...]) -> str | None:
    """The shortest `module:name` at which `value` is found in one of the homes."""
    parts = str(getattr(value, "__module__", "")).split(".")
    modules = [home for home in homes if not home.endswith(".")]
    modules += [".".join(parts[: i + 1]) for i in range(len(parts))]
    names = [f"{module}:{getattr(value, '__name__', '')}" for module in modules]
    return next((name for name in names if find(name, homes) is value), None)


def find(name: str, homes: tuple[str, ...]) -> Any:
    """What `module:name` is, or None: nothing is imported and no hook is run."""
    module, _, member = name.partition(":")
    inside = [(module + ".").startswith(h) for h in homes if h.endswith(".")]
    if not (module in homes or any(inside)) or module not in sys.modules:
        return None
    value = vars(sys.modules[module]).get(member)
    # A module also holds what it imports, `os` for one: only its own package counts.
    owner = str(getattr(value, "__module__", ""))
    return value if owner.split(".")[0] == module.split(".")[0] else None


def is_function(value: Any) -> bool:
    """A public function, and not one of the few that read and write files."""
    name = str(getattr(value, "__name__", "_"))
    public = not name.startswith("_") and name not in _FILE_FUNCTIONS
    return public and callable(value) and not isinstance(value, type | eqx.Module)
