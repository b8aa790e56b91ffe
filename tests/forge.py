"""Checkpoints and pickles written by hand, word by word: honest ones and forged."""

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}


@dataclass
class Global:
    """The name `module.member`, which a pickle would import."""

    module: str
    member: str


@dataclass
class Reduce:
    """A call. `how` is the word for it; `state` is set by BUILD."""

    name: Any
    args: Any = ()
    state: Any = None
    how: bytes = b"R"


@dataclass
class Persistent:
    words: Any


@dataclass
class Raw:
    """Words of the pickle language as they stand."""

    words: bytes


ORDERED = Global("collections", "OrderedDict")
TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Global("torch._utils", "_rebuild_parameter")
LOAD = Global("torch.storage", "_load_from_bytes")
OBJECT = Global("torch_utils.persistence", "_reconstruct_persistent_obj")
MODULE_DICT = Global("torch.nn.modules.container", "ModuleDict")
FLOAT = Global("torch", "FloatStorage")


def words(value: Any) -> bytes:
    """The words that make `value`."""
    match value:
        case Raw():
            return value.words
        case Global():
            return words(value.module) + words(value.member) + b"\x93"
        case Reduce():
            state = b"" if value.state is None else words(value.state) + b"b"
            return words(value.name) + words(value.args) + value.how + state
        case Persistent():
            return words(value.words) + b"Q"
        case None | bool():
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            size = value.bit_length() // 8 + 1
            return bytes([0x8A, size]) + value.to_bytes(size, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(words, value)) + b"t"
        case list():
            return b"](" + b"".join(map(words, value)) + b"e"
        case set():
            return b"\x8f(" + b"".join(map(words, sorted(value))) + b"\x90"
        case dict():
            pairs = b"".join(words(k) + words(v) for k, v in value.items())
            return b"}(" + pairs + b"u"
    raise TypeError(value)


def dump(value: Any, protocol: int = 4) -> bytes:
    return bytes([0x80, protocol]) + words(value) + b"."


def legacy(graph: Any, storages: dict[str, tuple[int, bytes]], **system: Any) -> bytes:
    """A legacy torch file: five pickles, then the storages by key."""
    parts = (MAGIC, PROTOCOL, SYSTEM | system, graph, list(storages))
    data = b"".join(struct.pack("<q", n) + raw for n, raw in storages.values())
    return b"".join(map(dump, parts)) + data


def torch_zip(
    graph: Any, storages: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """A torch file in a zip; `graph` may be a pickle already."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr("x/data.pkl", graph if isinstance(graph, bytes) else dump(graph))
        file.writestr("x/byteorder", "little")
        for key, raw in storages.items():
            file.writestr(f"x/data/{key}", raw)
    return out.getvalue()


def pid(
    key: str, length: int, kind: Global = FLOAT, *, old: bool = False
) -> Persistent:
    """The words for a storage, in a zip file or an `old` one."""
    return Persistent(("storage", kind, key, "cpu", length) + (None,) * old)


def view(storage: Any, offset: Any, shape: Any, strides: Any) -> Reduce:
    return Reduce(TENSOR, (storage, offset, shape, strides, False, Reduce(ORDERED)))


def blob(array: np.ndarray, kind: Global = FLOAT) -> Reduce:
    """A storage as EDM's pickles hold it."""
    one = {"7": (array.size, array.tobytes())}
    return Reduce(LOAD, (legacy(pid("7", array.size, kind, old=True), one),))


def parameter(array: np.ndarray) -> Reduce:
    steps = np.array(array.strides, int) // array.itemsize
    whole = view(blob(array), 0, array.shape, tuple(map(int, steps)))
    return Reduce(PARAMETER, (whole, False, Reduce(ORDERED)))


def module(name: str, parameters=None, modules=None, **state: Any) -> Reduce:
    """A persistent object as EDM's pickles hold it."""
    attributes = {
        "_parameters": parameters or {},
        "_buffers": {},
        "_non_persistent_buffers_set": set(),
        "_modules": modules or {},
        "_init_args": (),
        "_init_kwargs": {},
    } | state
    meta = {"type": "class", "version": 6, "module_src": "raise SystemExit"}
    return Reduce(OBJECT, (meta | {"class_name": name, "state": attributes},))


def edm(ema: Any = None, **beside: Any) -> bytes:
    """A whole small EDM pickle, or one with `ema` in its place."""
    weight = np.arange(6, dtype="f4").reshape(2, 3)
    inner = Reduce(MODULE_DICT, (), how=b"\x81")
    inner.state = {"_modules": {"conv": module("Conv", {"weight": parameter(weight)})}}
    kwargs = {"img_resolution": 8, "label_dim": 4, "model_type": "SongUNet"}
    net = module("SongUNet", modules={"enc": inner})
    whole = module("EDMPrecond", modules={"model": net}, _init_kwargs=kwargs)
    root = {"ema": whole if ema is None else ema, "loss_fn": None}
    return dump(root | {"dataset_kwargs": {"path": "birds.zip"}} | beside)


def small_files() -> dict[str, bytes]:
    """One small honest file of each format of pickles, for mutation."""
    numbers = np.arange(12, dtype="f4")
    whole = {"7": numbers.tobytes()}
    graphs = [
        {
            "a.weight": view(storage, 0, (3, 4), (4, 1)),
            "a.bias": view(storage, 2, (3,), (4,)),
            "step": 7,
        }
        for storage in (pid("7", 12), pid("7", 12, old=True))
    ]
    return {
        "EDM pickle": edm(),
        "torch zip": torch_zip(graphs[0], whole),
        "torch legacy": legacy(graphs[1], {"7": (12, whole["7"])}),
    }
