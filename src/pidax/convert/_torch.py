"""The two formats of `torch.save`, and EDM's pickles, which contain the older one.

    zip      NAME/data.pkl, the graph; NAME/data/KEY, one storage each; NAME/byteorder
    legacy   five pickles: magic, 1001, system, graph, [keys]; then the storages in the
             order of the keys, each as int64 length and numbers
    EDM      one pickle, in which every storage is a legacy file of its own, as bytes

The bytes of a storage come after the graph or beside it: tensors are made last.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._files import bad, quote
from ._objects import (
    LOAD,
    OBJECT_NAMES,
    STORAGE_NAMES,
    TENSOR_NAMES,
    Label,
    Rebuilder,
    label,
    storage,
)
from ._pickles import Budget, Call, Names, Persistent, read_pickle, survey
from ._zip import members

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STATE = {**TENSOR_NAMES, **STORAGE_NAMES}
_Rows = Mapping[str, np.ndarray]


def read_torch_zip(data: memoryview) -> Any:
    """The contents of a zip file of `torch.save`: dicts, lists, numbers and arrays."""
    parts = members(data)
    graphs = [name for name in parts if name == "data.pkl" or name[-9:] == "/data.pkl"]
    if len(graphs) != 1:
        cure = "It may be a data set or a .npz file."
        raise bad("one data.pkl in a zip file", f"{len(graphs)}", cure)
    folder = graphs[0][: -len("data.pkl")]
    if folder + "constants.pkl" in parts:
        cure = "Save the state dict instead: torch.save(module.state_dict(), path)."
        raise bad("a state dict", "a TorchScript archive", cure)
    order = bytes(parts.get(folder + "byteorder", memoryview(b"little"))[:9])
    if order != b"little":
        raise bad("a little-endian file", order)
    graph = parts[graphs[0]]
    root, end = read_pickle(graph, 0, _STATE, Budget())
    if end != len(graph):
        raise bad("the end of data.pkl", f"{len(graph) - end} more bytes")
    rows: dict[str, np.ndarray] = {}
    for each in _labels(survey(root)).values():
        part = parts.get(f"{folder}data/{each.key}", memoryview(b""))
        if len(part) != each.length * each.dtype.itemsize:
            expected = (
                f"{each.length} numbers of {each.dtype} in data/{quote(each.key)}"
            )
            raise bad(expected, f"{len(part)} bytes")
        rows[each.key] = storage(each.dtype, part)
    return _rebuilt(root, rows)


def read_torch_legacy(data: memoryview) -> Any:
    """The contents of a file of `torch.save` before PyTorch 1.6, likewise."""
    root, rows = _read_legacy(data, _STATE, Budget())
    return _rebuilt(root, rows)


def read_edm_pickle(data: memoryview) -> dict[str, Any]:
    """An EDM pickle: its networks as `PersistentObject`s, by `ema` and other names."""
    budget = Budget()
    root, end = read_pickle(data, 0, OBJECT_NAMES, budget)
    if end != len(data):
        raise bad("the pickle's end at the end of the file", f"byte {end}")
    if survey(root):
        raise bad("storages as bytes inside an EDM pickle", "a persistent id")
    if type(root) is not dict:
        raise bad("a dict with 'ema' at the root", f"a {type(root).__name__}")

    def blob(node: Any) -> np.ndarray:
        if not (type(node) is Call and node.name == LOAD):
            raise bad("a tensor's storage", f"a {type(node).__name__}")
        if len(node.args) != 1 or type(node.args[0]) is not memoryview:
            raise bad(f"bytes as the argument of {LOAD}", "something else")
        inner, rows = _read_legacy(node.args[0], STORAGE_NAMES, budget)
        return _row(inner, rows)

    return Rebuilder(blob).value(root)


def _read_legacy(data: memoryview, names: Names, budget: Budget) -> tuple[Any, _Rows]:
    """The graph and the storages by key."""
    at = 0
    for expected in (MAGIC, _PROTOCOL):
        found, at = read_pickle(data, at, {}, budget)
        if type(found) is not int or found != expected:
            raise bad(f"{expected:#x} at the start of a torch file", "something else")
    system, at = read_pickle(data, at, {}, budget)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise bad("a little-endian torch file", "another")
    root, at = read_pickle(data, at, names, budget)
    labels = _labels(survey(root))
    keys, at = read_pickle(data, at, {}, budget)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise bad("a list of storage keys", "something else")
    if len(set(keys)) != len(keys) or set(keys) != set(labels):
        raise bad(f"the keys of {len(labels)} storages, each once", f"{len(keys)} keys")
    rows: dict[str, np.ndarray] = {}
    for key in keys:
        each = labels[key]
        size = each.length * each.dtype.itemsize
        length = int.from_bytes(data[at : at + 8], "little")
        at += 8
        if length != each.length or at + size > len(data):
            got = f"{length}, of which {max(len(data) - at, 0)} bytes are there"
            raise bad(f"{each.length} numbers in storage {quote(key)}", got)
        rows[key] = storage(each.dtype, data[at : at + size])
        at += size
    if at != len(data):
        raise bad("the storages' end at the end of the file", f"{len(data) - at} more")
    return root, rows


def _labels(found: list[Persistent]) -> dict[str, Label]:
    """Storages by key; what is named twice is named alike."""
    labels: dict[str, Label] = {}
    for pid in found:
        each = label(pid)
        if labels.setdefault(each.key, each) != each:
            raise bad(f"one storage {quote(each.key)}", "two that differ")
    return labels


def _rebuilt(root: Any, rows: _Rows) -> Any:
    return Rebuilder(lambda node: _row(node, rows)).value(root)


def _row(node: Any, rows: _Rows) -> np.ndarray:
    if type(node) is not Persistent:
        raise bad("a tensor's storage", f"a {type(node).__name__}")
    return rows[label(node).key]
