"""The values in pickles of checkpoints: arrays, numbers, and objects as data.

A storage is a row of numbers; a tensor is an offset, a shape and strides on one, and
several tensors may share it. Tensors become NumPy arrays: views of the
file's bytes, refused if they lie outside their storage. Each name that a checkpoint may
call is replaced by a function here, which can only make an array, a number or a
`PersistentObject`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from .._files import NAME, NAMES, RANK, bad, fits, is_count, quote
from ._pickles import Call, Name, Persistent

_KINDS = {
    "Float": "<f4",
    "Half": "<f2",
    "Double": "<f8",
    "BFloat16": ml_dtypes.bfloat16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
STORAGES = {f"torch.{kind}Storage": np.dtype(dtype) for kind, dtype in _KINDS.items()}
STORAGE_NAMES = dict.fromkeys(STORAGES, "type")
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_SCALARS = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_MODULE_DICT = "torch.nn.modules.container.ModuleDict"
LOAD = "torch.storage._load_from_bytes"

TENSOR_NAMES = {
    "collections.OrderedDict": "call",
    _TENSOR: "call",
    _PARAMETER: "call",
}
OBJECT_NAMES = {
    **TENSOR_NAMES,
    **dict.fromkeys(_SCALARS, "call"),
    "numpy.dtype": "call",
    _PERSISTENT: "call",
    LOAD: "call",
    _MODULE_DICT: "new",
}
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_PLAIN = (str, int, float, bool, type(None))
_VERSION = 6  # of the persistent objects


@dataclass(frozen=True, eq=False)
class PersistentObject:
    """An object of a checkpoint that was stored with its source: the data without the
    source.

    `state` has its attributes by name, arrays as NumPy arrays, and objects inside it as
    further `PersistentObject`s. Source code in the file is neither run nor kept. A
    `ModuleDict` of torch is one of these too, without arguments.
    """

    class_name: str
    init_args: tuple[Any, ...] = field(repr=False)
    init_kwargs: dict[str, Any] = field(repr=False)
    state: dict[str, Any] = field(repr=False)

    @property
    def parameters(self) -> dict[str, np.ndarray | None]:
        """Its own parameters by name; None where it has none, such as a
        missing bias.
        """
        return self._part("_parameters", np.ndarray)

    @property
    def buffers(self) -> dict[str, np.ndarray | None]:
        """Its own buffers by name."""
        return self._part("_buffers", np.ndarray)

    @property
    def modules(self) -> dict[str, "PersistentObject | None"]:
        """The modules directly inside it, by name."""
        return self._part("_modules", PersistentObject)

    def _part(self, name: str, kind: type) -> dict[str, Any]:
        part = self.state.get(name, {})
        kinds = (kind, type(None))
        if not isinstance(part, dict) or not all(
            isinstance(key, str) and isinstance(value, kinds)
            for key, value in part.items()
        ):
            got = f"others in {name} of {quote(self.class_name)}"
            raise bad(f"a dict of {kind.__name__}s by name", got)
        return part


def state_dict(module: PersistentObject) -> dict[str, np.ndarray]:
    """All parameters and persistent buffers, named and ordered as torch's state dict.

    `model.enc.32x32_conv.weight` is `weight` of `32x32_conv` of `enc` of `model`.
    """
    return dict(_named(_entries(module, "")))


def parameter_names(module: PersistentObject) -> frozenset[str]:
    """Those names of `state_dict` that are parameters, and not buffers."""
    return frozenset(dict(_named(_entries(module, "", buffers=False))))


def _entries(
    module: PersistentObject, prefix: str, *, buffers: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    passing = module.state.get("_non_persistent_buffers_set", ())
    passing = passing if isinstance(passing, set) else ()
    own: list[Mapping[str, Any]] = [module.parameters]
    if buffers:
        kept = [item for item in module.buffers.items() if item[0] not in passing]
        own.append(dict(kept))
    for part in own:
        for name, array in part.items():
            if array is not None:
                yield _inside(prefix, name)[:-1], array
    for name, inner in module.modules.items():
        if inner is not None:
            yield from _entries(inner, _inside(prefix, name), buffers=buffers)


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts, lists and tuples, by dotted names."""
    if isinstance(tree, dict | list | tuple):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in pairs:
            yield from leaves(value, _inside(prefix, str(key)))
    elif tree is not None:
        yield prefix[:-1], tree


def _inside(prefix: str, name: str) -> str:
    """The prefix of what is inside `name`, before names grow without bound."""
    if len(prefix) + len(name) > NAME:
        raise bad(f"names of at most {NAME} characters", f"{quote(prefix + name)}...")
    return f"{prefix}{name}."


def named_leaves(tree: Any) -> dict[str, Any]:
    """`leaves` as a dict, in which no name occurs twice."""
    return dict(_named(leaves(tree)))


def _named(entries: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The same, no name twice and not too many of them."""
    seen: set[str] = set()
    for name, value in entries:
        if name in seen:
            raise bad("every name once", f"{quote(name)} twice")
        seen.add(name)
        if len(seen) > NAMES:
            raise bad(f"at most {NAMES} names", "more")
        yield name, value


@dataclass(frozen=True)
class Label:
    """The description of a storage whose bytes are elsewhere in the file."""

    dtype: np.dtype
    key: str
    length: int


def label(pid: Persistent) -> Label:
    """The label in ('storage', type, key, location, length[, None])."""
    match pid.words:
        case ("storage", Name() as kind, str(key), str(), length, *view) if (
            kind.text in STORAGES and is_count(length) and view in ([], [None])
        ):
            return Label(STORAGES[kind.text], key, length)
    raise bad("a persistent id that names a storage", "another")


def storage(dtype: np.dtype, data: memoryview) -> np.ndarray:
    """Bytes as a row of numbers."""
    row = np.ndarray((len(data) // dtype.itemsize,), dtype, data)
    check_bools(row)
    return row


def check_bools(row: np.ndarray) -> None:
    """Refuse bools that are neither 0 nor 1, whose truth would be undefined."""
    if row.dtype == bool and row.size and row.view(np.uint8).max() > 1:
        raise bad("bools that are 0 or 1", "other bytes")


def tensor(row: np.ndarray, args: tuple[Any, ...]) -> np.ndarray:
    """The view of a storage described by (offset, shape, strides, ...)."""
    offset, shape, strides = args
    tuples = type(shape) is tuple and type(strides) is tuple
    if not tuples or not all(map(is_count, (offset, *shape, *strides))):
        raise bad("an offset, a shape and strides of whole numbers", "others")
    if len(shape) != len(strides) or len(shape) > RANK:
        got = f"{len(shape)} and {len(strides)}"
        raise bad(f"a shape and strides of one length, at most {RANK}", got)
    size = math.prod(shape)
    if not fits(shape) or size > row.size:
        raise bad(f"a tensor of at most its storage's {row.size} numbers", shape)
    if size == 0:
        if offset > row.size:
            raise bad(f"an offset within {row.size} numbers", offset)
        return np.empty(shape, row.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= row.size:
        got = f"offset {offset}, shape {shape}, strides {strides}"
        raise bad(f"a tensor inside its storage's {row.size} numbers", got)
    # A length of one is never stepped over, whatever stride a file gives it.
    steps = [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    view = np.lib.stride_tricks.as_strided(
        row[offset:], shape, [step * row.itemsize for step in steps], writeable=False
    )
    return view


class Rebuilder:
    """Rebuilds a surveyed tree. `storage` finds the numbers that a tensor views."""

    def __init__(self, storage: Callable[[Any], np.ndarray]):
        self.storage = storage
        self.known: dict[int, Any] = {}  # what is shared is rebuilt once
        self.rows: dict[int, np.ndarray] = {}  # storages
        self.calls: dict[str, Callable[[Call], Any]] = {
            _TENSOR: self._tensor,
            _PARAMETER: self._parameter,
            _PERSISTENT: self._persistent,
            _MODULE_DICT: self._module_dict,
            **dict.fromkeys(_SCALARS, _scalar),
        }

    def value(self, node: Any) -> Any:
        """Dicts, lists, tuples, sets of strings and numbers; and what calls make."""
        if type(node) in _PLAIN or type(node) is set:
            return node
        if id(node) not in self.known:
            self.known[id(node)] = self._value(node)
        return self.known[id(node)]

    def _value(self, node: Any) -> Any:
        if isinstance(node, dict):
            return {key: self.value(child) for key, child in node.items()}
        if type(node) is list:
            return [self.value(child) for child in node]
        if type(node) is tuple:
            return tuple(self.value(child) for child in node)
        if type(node) is Call and node.name in self.calls:
            return self.calls[node.name](node)
        name = node.name if type(node) is Call else type(node).__name__
        name = node.text if type(node) is Name else name
        raise bad("numbers, strings, arrays and objects", f"{name}, out of its place")

    def _tensor(self, call: Call) -> np.ndarray:
        """(storage, offset, shape, strides, requires_grad, hooks[, metadata])."""
        if len(call.args) not in (6, 7) or any(call.args[6:]):
            raise bad(f"6 arguments of {_TENSOR}", f"{len(call.args)}, or metadata")
        source = call.args[0]
        if id(source) not in self.rows:
            self.rows[id(source)] = self.storage(source)
        return tensor(self.rows[id(source)], call.args[1:4])

    def _parameter(self, call: Call) -> np.ndarray:
        """(tensor, requires_grad, hooks)."""
        array = self.value(call.args[0]) if len(call.args) == 3 else None
        if not isinstance(array, np.ndarray):
            raise bad(f"a tensor and 2 more arguments of {_PARAMETER}", "others")
        return array

    def _persistent(self, call: Call) -> PersistentObject:
        """({type, version, module_src, class_name, state},); the source is dropped."""
        match call.args:
            case ({"class_name": str(name), "state": dict(state), **rest},):
                kind, version = rest.get("type"), rest.get("version")
            case _:
                raise bad("a persistent object's class_name and state", "none")
        if kind != "class" or type(version) is not int or version != _VERSION:
            known = type(version) is int and abs(version) < 1000
            got = f"version {version}" if known else "another"
            raise bad(f"a persistent class of version {_VERSION}", got)
        state = self.value(state)
        args, kwargs = state.get("_init_args", ()), state.get("_init_kwargs", {})
        if type(args) is not tuple or type(kwargs) is not dict:
            raise bad(f"the arguments {quote(name)} was made with", "others")
        return PersistentObject(name, args, kwargs, state)

    def _module_dict(self, call: Call) -> PersistentObject:
        if not isinstance(call.state, dict):
            raise bad("a ModuleDict with its attributes", "one without")
        return PersistentObject("ModuleDict", (), {}, self.value(call.state))


def _scalar(call: Call) -> bool | int | float:
    """(dtype, bytes): one number of NumPy's, as Python's."""
    match call.args:
        case (Call(name="numpy.dtype") as kind, memoryview() as data):
            dtype = _dtype(kind)
        case _:
            raise bad("a dtype and bytes of a NumPy number", "others")
    if len(data) != dtype.itemsize:
        raise bad(f"{dtype.itemsize} bytes of {dtype}", len(data))
    row = np.ndarray((1,), dtype, data)
    check_bools(row)
    return row.item()


def _dtype(call: Call) -> np.dtype:
    """(code, align, copy), and its byte order in the first places of its state."""
    code = call.args[0] if call.args else None
    if type(code) is not str or code not in _NUMBERS:
        raise bad("a dtype of numbers", quote(code) if type(code) is str else "another")
    match call.state:
        case None | (3, "<" | "|", None, None, None, -1, -1, 0):
            return np.dtype(code).newbyteorder("<")
    raise bad(f"a little-endian {code}", "another order or more state")
