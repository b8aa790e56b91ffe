"""From what a pickle says to what it means: the few calls that checkpoints make.

Each name that a checkpoint may call has its function here, which makes an array, a
number or a `PersistentObject` out of the arguments and can do nothing else.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ._error import bad, quote
from ._module import PersistentObject
from ._nodes import Call, Name
from ._tensors import check_bools, tensor

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
