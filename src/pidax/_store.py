"""A model in one file: every field by name, every array bit for bit, and no code.

    magic, format version, header length, SHA-256 of the header | header | arrays

The header is JSON (`header(path)`): the tree of classes and fields, and for each array
its path, dtype, shape and byte offset. Reading runs no constructor and imports nothing:
a file names classes of pidax, `equinox.nn`, Diffrax or the reader's own, and functions
of `jax` and pidax; all else is refused. The hashes find damage, not malice.
"""

import dataclasses
import hashlib
import inspect
import json
import math
import os
import platform
import secrets
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._checks import is_traced

FileName: TypeAlias = str | os.PathLike[str]
Node: TypeAlias = Any  # what JSON can hold
Entry: TypeAlias = dict[str, Node]

_MAGIC = b"\x89pidax\r\n"  # not text, and broken by whatever rewrites line ends
_FORMAT = 1
_PREFIX = struct.Struct("<8sIQ32s")
_DEPTH = 100  # levels of nesting; models have about ten
_AGAIN = "The file is incomplete, damaged or forged: fetch it or save it again."
# Where names may come from; a dot at the end includes the modules inside.
_CLASSES = ("pidax.", "equinox.nn.", "diffrax.")
_FUNCTIONS = ("jax.nn", "jax.numpy", "jax.lax", "jax", "pidax.")
_FILE_FUNCTIONS = ("load", "save", "savez")  # of those modules, and not of arrays
# Equinox's default for the last activation is a function without a name of its own.
_IDENTITY = inspect.signature(eqx.nn.MLP).parameters["final_activation"].default
_NAMELESS = {"equinox.nn:MLP(final_activation)": _IDENTITY}
_JAX_TYPES = [t for t in vars(jnp).values() if isinstance(t, type(jnp.float32))]
_DTYPES = {t.dtype.name: t.dtype.newbyteorder("<") for t in _JAX_TYPES}
_TYPES = {  # the three forms in which a field may hold a dtype
    "jax": {t.dtype.name: t for t in _JAX_TYPES},
    "numpy": {name: dtype.type for name, dtype in _DTYPES.items()},
    "dtype": _DTYPES,
}


def save(path: FileName, module: eqx.Module) -> None:
    """Write `module` (a network, a denoiser, a flow, ...) to the file `path`.

    The file appears whole or not at all: a failure leaves what was there before. Any
    `equinox.Module` will do whose fields hold arrays, keys, numbers, strings, tuples,
    lists, dicts, dtypes, functions of `jax`, or further modules. A function of your
    own is code and is refused: make it a module.
    """
    if not isinstance(module, eqx.Module):
        raise ValueError(
            f"save expects an equinox.Module, got {type(module).__name__}. Put what "
            "belongs together in the fields of a Module."
        )
    arrays: dict[str, tuple[Entry, np.ndarray]] = {}
    tree = _encode(module, "", arrays, 0)
    chunks, digest, size = [], hashlib.sha256(), 0
    for entry, array in arrays.values():
        chunks.append(array.reshape(-1).view(np.uint8))
        entry["offset"] = size
        size += array.nbytes
        digest.update(chunks[-1])
    head = {
        "format": _FORMAT,
        **{name: version(name) for name in ("pidax", "jax", "equinox")},
        "python": platform.python_version(),
        "bytes": size,
        "sha256": digest.hexdigest(),
        "tree": tree,
        "arrays": {name: entry for name, (entry, _) in arrays.items()},
    }
    text = json.dumps(head, allow_nan=False).encode()
    prefix = _PREFIX.pack(_MAGIC, _FORMAT, len(text), hashlib.sha256(text).digest())
    _write(Path(path), [prefix, text, *chunks])


def load(
    path: FileName,
    *,
    classes: Iterable[type[eqx.Module]] | Mapping[str, type[eqx.Module]] = (),
) -> Any:
    """Read the module that `save` wrote to `path`.

    `classes` are your own classes that occur in it: `classes=(MyNet,)`, or by their
    names in the file if these have changed, `classes={"__main__:MyNet": MyNet}`.
    """
    if not isinstance(classes, Mapping):
        classes = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in classes}
    head, payload = _read(path, everything=True)
    try:
        return _Reader(path, head, payload, classes).build(head["tree"], "")
    except (KeyError, TypeError, AttributeError) as error:
        raise _bad(path, "a well-formed header", repr(error)) from error


def header(path: FileName) -> dict[str, Any]:
    """What the file says of itself, without building anything.

    `tree` (classes and fields), `arrays` (by path: dtype, shape, byte offset), the
    versions that wrote it, and the size and SHA-256 of the arrays.
    """
    return _read(path, everything=False)[0]


def _encode(value: Any, path: str, arrays: dict, depth: int) -> Node:
    """`value` as JSON, its arrays set aside under their paths."""
    if depth > _DEPTH:
        raise ValueError(
            f"save expects at most {_DEPTH} levels of nesting, got more at "
            f"{path[:60]}... Does a list or dict contain itself?"
        )
    inner = lambda child, step: _encode(child, path + step, arrays, depth + 1)
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
        name = _public(kind, _CLASSES) or f"{kind.__module__}:{kind.__qualname__}"
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
    if name not in _DTYPES:
        raise ValueError(
            f"save expects arrays of a dtype that JAX has, got {array.dtype} at "
            f"{path}. Convert it, or store it as a tuple or a dict."
        )
    entry |= {"dtype": name, "shape": list(array.shape)}
    return entry, array.astype(_DTYPES[name], copy=False)


def _encode_name(value: Any, path: str) -> Node:
    """A dtype or a function, by its name."""
    for form, table in _TYPES.items():
        for name, known in table.items():
            if type(known) is type(value) and known == value:
                return {"dtype": name, "as": form}
    nameless = [name for name, known in _NAMELESS.items() if known is value]
    function = _public(value, _FUNCTIONS) if _is_function(value) else None
    if not (nameless or function):
        raise ValueError(
            "a file holds data, not code: save expects arrays, numbers, strings, "
            "tuples, lists, dicts with string keys, modules, and functions of jax.nn, "
            f"jax.numpy, jax.lax, jax or pidax, got {repr(value)[:200]} at {path}. If "
            "it wraps a network, save the network inside it and wrap it again after "
            "loading; or make it an equinox.Module of your own and load with classes=."
        )
    return {"function": nameless[0] if nameless else function}


def _public(value: Any, homes: tuple[str, ...]) -> str | None:
    """The shortest `module:name` at which `value` is found in one of the homes."""
    parts = str(getattr(value, "__module__", "")).split(".")
    modules = [home for home in homes if not home.endswith(".")]
    modules += [".".join(parts[: i + 1]) for i in range(len(parts))]
    names = [f"{module}:{getattr(value, '__name__', '')}" for module in modules]
    return next((name for name in names if _find(name, homes) is value), None)


def _find(name: str, homes: tuple[str, ...]) -> Any:
    """What `module:name` is, or None: nothing is imported and no hook is run."""
    module, _, member = name.partition(":")
    inside = [(module + ".").startswith(h) for h in homes if h.endswith(".")]
    if not (module in homes or any(inside)) or module not in sys.modules:
        return None
    value = vars(sys.modules[module]).get(member)
    # A module also holds what it imports, `os` for one: only its own package counts.
    owner = str(getattr(value, "__module__", ""))
    return value if owner.split(".")[0] == module.split(".")[0] else None


def _is_function(value: Any) -> bool:
    """A public function, and not one of the few that read and write files."""
    name = str(getattr(value, "__name__", "_"))
    public = not name.startswith("_") and name not in _FILE_FUNCTIONS
    return public and callable(value) and not isinstance(value, type | eqx.Module)


def _write(target: Path, chunks: Iterable[Any]) -> None:
    """Write under another name, then rename: no reader ever sees half a file."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"save expects a directory that exists, got {target.parent}. Make it first."
        )
    try:
        with open(temporary, "xb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _bad(path: FileName, expected: str, got: object, cure: str = _AGAIN) -> ValueError:
    return ValueError(f"{os.fspath(path)}: expected {expected}, got {got}. {cure}")


def _read(path: FileName, *, everything: bool) -> tuple[dict[str, Any], bytes]:
    """The header and, if wanted, the arrays' bytes; both checked for damage."""
    with open(path, "rb") as file:
        size, prefix = os.fstat(file.fileno()).st_size, file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise _bad(path, f"at least {_PREFIX.size} bytes", f"{size} bytes")
        magic, number, length, digest = _PREFIX.unpack(prefix)
        if magic != _MAGIC:
            cure = "It is no file of pidax.save: see pidax.convert for other formats."
            raise _bad(path, f"the first bytes {_MAGIC}", magic, cure)
        if number != _FORMAT:
            cure = "Update pidax to read it." if number > _FORMAT else _AGAIN
            raise _bad(path, f"format version {_FORMAT}", number, cure)
        size -= _PREFIX.size + length
        if size < 0:
            raise _bad(path, f"a header of {length} bytes", f"{size + length} bytes")
        text = file.read(length)
        if hashlib.sha256(text).digest() != digest:
            raise _bad(path, f"the header's SHA-256 {digest.hex()}", "another")
        try:
            head = json.loads(text)
            expected, checksum = head["bytes"], head["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _bad(path, "a well-formed header", repr(error)[:99]) from error
        if size != expected:
            raise _bad(path, f"{expected} bytes of arrays", f"{size} bytes")
        payload = file.read() if everything else b""
    if everything and hashlib.sha256(payload).hexdigest() != checksum:
        raise _bad(path, f"the arrays' SHA-256 {checksum}", "another")
    return head, payload


class _Reader:
    """Builds the module that a header describes, taking no word of it on trust."""

    def __init__(self, path: FileName, head: Any, payload: bytes, classes: Mapping):
        self.path, self.classes = path, classes
        self.cure = f"It was written by pidax {head['pidax']}: load it with that, or "
        self.cure += "bring the class or the file up to date."
        self.arrays = dict(self._views(head["arrays"], payload))

    def build(self, node: Node, where: str, depth: int = 0) -> Any:
        if depth > _DEPTH:
            raise _bad(self.path, f"at most {_DEPTH} levels of nesting", "more")
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
                return _TYPES[form][name]
            case {"function": str(name)}:
                return self._function(name, where)
            case {"array": str(name)}:
                return self._array(*self.arrays.pop(name), where)
            case {"class": str(name), "fields": dict(fields)}:
                module = object.__new__(self._class(name, set(fields), where))
                for field, child in fields.items():
                    object.__setattr__(module, field, inner(child, f".{field}"))
                return module
        raise TypeError(f"{str(node)[:60]} at {where}")

    def _class(self, name: str, fields: set[str], where: str) -> type[eqx.Module]:
        """The class of this name, if it is known and has exactly these fields."""
        cls = self.classes.get(name) or _find(name, _CLASSES)
        if not (isinstance(cls, type) and issubclass(cls, eqx.Module)):
            own = name.rpartition(":")[2].rpartition(".")[2]
            cure = f"If it is your own, pass classes=({own},); if it has moved, "
            cure += f'classes={{"{name}": {own}}}. {self.cure}'
            expected = "a class of pidax, equinox.nn or diffrax, or one of classes,"
            raise _bad(self.path, expected, f"{name} at {where or 'the root'}", cure)
        today = {field.name for field in dataclasses.fields(cls)}
        if today != fields:
            missing, unexpected = sorted(today - fields), sorted(fields - today)
            got = f"missing {missing}, unexpected {unexpected}"
            expected = f"at {where or 'the root'} exactly the fields of {name}"
            raise _bad(self.path, expected, got, self.cure)
        return cls

    def _function(self, name: str, where: str) -> Any:
        if name in _NAMELESS:
            return _NAMELESS[name]
        value = _find(name, _FUNCTIONS)
        if not _is_function(value):
            expected = "a function of jax.nn, jax.numpy, jax.lax, jax or pidax"
            raise _bad(self.path, expected, f"{name} at {where}", self.cure)
        return value

    def _views(
        self, entries: dict[str, Entry], payload: bytes
    ) -> Iterator[tuple[str, tuple[Entry, np.ndarray]]]:
        """Each array in its place: the next begins where the last one ends."""
        end = 0
        for name, entry in entries.items():
            shape, offset, dtype = entry["shape"], entry["offset"], entry["dtype"]
            start, known = end, dtype in _DTYPES
            known &= all(type(n) is int and n >= 0 for n in [offset, *shape])
            # NumPy multiplies the lengths of an empty array too, without the zeros.
            known = known and math.prod(max(n, 1) for n in shape) < 2**59
            end += math.prod(shape) * _DTYPES[dtype].itemsize if known else 0
            if not known or offset != start or end > len(payload):
                expected = f"{name} at byte {start} of {len(payload)}"
                raise _bad(self.path, expected, f"{dtype}{shape} at {offset}")
            view = np.ndarray(shape, _DTYPES[dtype], payload, offset)
            yield name, (entry, view)
        if end != len(payload):
            raise _bad(self.path, f"{len(payload)} bytes of arrays", f"{end}")

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
                raise _bad(self.path, "arrays of at most 32 bits a number", got, cure)
        raise TypeError(f"{entry} at {where}")


def _weak(array: np.ndarray) -> Array:
    """A weakly typed array, as Python numbers make: `.at` keeps what it updates so."""
    with jax.enable_x64(array.dtype.name in ("int64", "float64", "complex128")):
        blank = jnp.broadcast_to(jnp.asarray(array.dtype.type(0).item()), array.shape)
        return blank.at[...].set(array)
