"""Reads a file of any supported format, recognised by its first bytes."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._files import (
    HEADER,
    SURPLUS,
    CheckpointError,
    FileName,
    bad,
    opened,
    quote,
)
from ._objects import PersistentObject, named_leaves, parameter_names, state_dict
from ._pickles import PROTOCOLS, survey
from ._safetensors import parse_safetensors
from ._torch import MAGIC, read_edm_pickle, read_torch_legacy, read_torch_zip

_LEGACY = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")
_CHUNK = 1 << 20
_HEAD = 512
_CONFIGURATION = "configuration"  # of the metadata that this package writes
_OTHERS = [  # first bytes of what is not a checkpoint, and what to do then
    (b"version https://git-lfs", "a git-lfs pointer", "Fetch it with `git lfs pull`."),
    (b"\x1f\x8b", "a gzip file", "Unpack it first: `gunzip` or `tar -xzf`."),
    (b"\x89pidax", "a file of pidax.save", "Read it with pidax.load."),
    (b"\x89HDF", "an HDF5 file", "Convert it with what wrote it."),
    (b"\x93NUMPY", "one NumPy array", "Read it with numpy.load."),
    (b"<", "a web page", "The server sent a page, not the file: download it again."),
]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The contents of a file, as data.

    `state`: arrays by torch's names. They are read-only views of the file's bytes,
    which stay in memory as long as one of them. `configuration`: for an EDM pickle,
    class, arguments and numbers (`sigma_data`) of `ema` and of the modules directly
    inside it, and `dataset_kwargs`; for other files, their contents other than arrays.
    `source`: the file's name, length and SHA-256. `parameters`: the names in `state`
    that are parameters, if the file says so. `objects`: for an EDM pickle, all its
    contents (`ema`, `loss_fn`, ...), with networks as `PersistentObject`s.
    """

    format: str
    state: dict[str, np.ndarray] = field(repr=False)
    configuration: dict[str, Any]
    source: dict[str, Any]
    parameters: frozenset[str] | None = field(default=None, repr=False)
    objects: dict[str, Any] = field(default_factory=dict, repr=False)


def read_checkpoint(path: FileName, *, allow_nonfinite: bool = False) -> Checkpoint:
    """Read an EDM pickle, a state dict of torch.save, or a safetensors file.

    Nothing in the file is executed or imported. Anything that is not a checkpoint
    raises `CheckpointError`. A weight that is NaN or infinite does too, with its name,
    unless `allow_nonfinite=True`. Memory: at most twice the file's size and 100 MB.
    """
    with opened(path) as (file, _):
        read = _reader(file.read(_HEAD))
        file.seek(0)
        data = file.read()
        found = read(memoryview(data))
        _check_size(found, len(data))
        if not allow_nonfinite:
            for name, array in found.state.items():
                _check_finite(name, array)
    source = {"file": Path(path).name, "bytes": len(data)}
    source["sha256"] = hashlib.sha256(data).hexdigest()
    return replace(found, source=found.source | source)


def named(path: FileName, make: Callable[[], Any]) -> Any:
    """Name the file in errors about its contents."""
    try:
        return make()
    except (ValueError, KeyError, TypeError) as error:
        what = f"a setting is missing, {error}" if type(error) is KeyError else error
        raise CheckpointError(f"{path}: {what}") from error


def _reader(head: bytes) -> Callable[[memoryview], Checkpoint]:
    """The reader of the format that begins with these bytes."""
    if head[:2] == b"PK":
        return lambda data: _torch("torch zip", read_torch_zip(data))
    if head[:1] == b"\x80" and len(head) > 1 and head[1] in PROTOCOLS:
        if _LEGACY in head[:32]:
            return lambda data: _torch("torch legacy", read_torch_legacy(data))
        return lambda data: _edm(read_edm_pickle(data))
    if head[8:9] == b"{" and not any(head[6:8]):  # a header below 2**48 bytes
        return _safetensors
    raise _unknown(head)


def _edm(root: dict[str, Any]) -> Checkpoint:
    ema = root.get("ema")
    if not isinstance(ema, PersistentObject):
        got = [quote(key) for key in root if isinstance(key, str)][:9]
        raise bad("a network by the name 'ema' in an EDM pickle", got)
    configuration = _made_with(ema)
    inner = {name: _made_with(m) for name, m in ema.modules.items() if m is not None}
    configuration["modules"] = inner
    dataset = root.get("dataset_kwargs")
    if dataset is not None:
        configuration["dataset_kwargs"] = _plain(dataset)
    names = parameter_names(ema)
    state = state_dict(ema)
    return Checkpoint("EDM pickle", state, configuration, {}, names, root)


def _made_with(module: PersistentObject) -> dict[str, Any]:
    """The class, its arguments, and its public attributes that are numbers or text."""
    numbers = {
        name: value
        for name, value in module.state.items()
        if isinstance(name, str)
        and isinstance(value, bool | int | float | str)
        and not name.startswith("_")
    }
    return {
        "class_name": module.class_name,
        "init_args": _plain(module.init_args),
        "init_kwargs": _plain(module.init_kwargs),
        "attributes": numbers,
    }


def _torch(kind: str, root: Any) -> Checkpoint:
    if type(root) is not dict:
        raise bad("a dict of arrays", f"a {type(root).__name__}")
    found = named_leaves(root)
    state = {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
    if not state:
        raise bad("a dict of arrays", "none in it")
    rest = {key: _plain(found[key]) for key in found if key not in state}
    return Checkpoint(kind, state, rest, {})


def _safetensors(data: memoryview) -> Checkpoint:
    state, metadata = parse_safetensors(data)
    configuration: dict[str, Any] = {}
    try:
        written = json.loads(metadata.get(_CONFIGURATION, "{}"))
        survey(written)
        configuration = written if type(written) is dict else {}
    except (ValueError, RecursionError):
        pass  # someone else's metadata
    others = {k: v for k, v in metadata.items() if k != _CONFIGURATION}
    return Checkpoint("safetensors", state, configuration, {"metadata": others})


def metadata_of(checkpoint: Checkpoint) -> dict[str, str]:
    """What `read_checkpoint` restores from the metadata of a safetensors file."""
    return {
        "format": "pt",  # the names and the layout are torch's
        _CONFIGURATION: json.dumps(checkpoint.configuration),
        "source": json.dumps({"format": checkpoint.format, **checkpoint.source}),
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it: tuples as lists, sets sorted, objects by their names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, PersistentObject):
        return {"class_name": value.class_name}
    if isinstance(value, np.ndarray):
        return {"array": list(value.shape), "dtype": value.dtype.name}
    return value


def _check_size(found: Checkpoint, size: int) -> None:
    """Limit the size of shared values when they are copied."""
    total = sum(array.nbytes for array in found.state.values())
    if total > SURPLUS * size:
        raise bad(f"arrays of at most {SURPLUS} times the file's {size} bytes", total)
    if _text(found.configuration) > HEADER:
        raise bad(f"a configuration of at most {HEADER} bytes", "more")


def _text(value: Any) -> int:
    """At most so many bytes of text, before anyone writes it."""
    if isinstance(value, dict):
        return sum(4 * len(key) + 2 + _text(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(2 + _text(inner) for inner in value)
    return 4 * len(value) if isinstance(value, str) else 40


def _check_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "fV":  # bfloat16 is of kind V
        return
    row = array.reshape(-1)
    for at in range(0, row.size, _CHUNK):
        part = np.isfinite(row[at : at + _CHUNK])
        if not part.all():
            cure = (
                "It diverged in training or was damaged; allow_nonfinite=True reads it."
            )
            got = f"{row[at + int(part.argmin())]} at {at + int(part.argmin())}"
            raise bad(f"finite numbers in {quote(name)}", got, cure)


def _unknown(head: bytes) -> CheckpointError:
    """A guess at what a file is that is not a checkpoint."""
    expected = "an EDM pickle, a torch state dict or a safetensors file"
    if not head:
        return bad(expected, "an empty file", "Download it again.")
    for start, what, cure in _OTHERS:
        if head.lstrip()[: len(start)] == start:
            return bad(expected, what, cure)
    if head[257:262] == b"ustar":
        return bad(expected, "a tar file", "Unpack it first.")
    return bad(expected, f"a file that begins {head[:16]!r}", "Is it the right file?")
