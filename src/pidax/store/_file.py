"""A model in one file: every field by name, every array bit for bit, and no code.

    magic, format version, header length, SHA-256 of the header | header | arrays

The header is JSON (`header(path)`): the tree of classes and fields, and for each array
its path, dtype, shape and byte offset. Reading runs no constructor and imports nothing:
a file names classes of pidax, `equinox.nn`, Diffrax or the reader's own, and functions
of `jax` and pidax; all else is refused. The result must pass the invariants of its
class (`__check_init__`). The hashes find damage, not malice.
"""

import hashlib
import json
import platform
import struct
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, BinaryIO

import equinox as eqx
import numpy as np

from .._files import (
    AGAIN,
    HEADER,
    CheckpointError,
    FileName,
    bad,
    check_header,
    opened,
    read_header,
    write_whole,
)
from ._tree import Entry, Reader, encode

_MAGIC = b"\x89pidax\r\n"  # not text, and broken by whatever rewrites line ends
_FORMAT = 1
_PREFIX = struct.Struct("<8sIQ32s")


def save(path: FileName, module: eqx.Module) -> None:
    """Write `module` (a network, a denoiser, a flow, ...) to the file `path`.

    The file is written completely or not at all; a failure leaves the previous file. It
    works for any `equinox.Module` whose fields hold arrays, keys, numbers, strings,
    tuples, lists, dicts, dtypes, functions of `jax`, or further modules. A function of
    your own is code and is refused: make it a module.
    """
    if not isinstance(module, eqx.Module):
        raise ValueError(
            f"save expects an equinox.Module, got {type(module).__name__}. Put what "
            "belongs together in the fields of a Module."
        )
    arrays: dict[str, tuple[Entry, np.ndarray]] = {}
    tree = encode(module, "", arrays, 0)
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
    check_header(text, "Save the parts of this module in files of their own.")
    prefix = _PREFIX.pack(_MAGIC, _FORMAT, len(text), hashlib.sha256(text).digest())
    write_whole(path, [prefix, text, *chunks], "save")


def load(
    path: FileName,
    *,
    classes: Iterable[type[eqx.Module]] | Mapping[str, type[eqx.Module]] = (),
) -> Any:
    """Read the module that `save` wrote to `path`.

    `classes` are your own classes that occur in it: `classes=(MyNet,)`, or by their
    names in the file if these have changed, `classes={"__main__:MyNet": MyNet}`.
    """
    known: Any = classes
    if not isinstance(classes, Mapping):
        known = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in classes}
    with opened(path) as (file, size):
        head, payload = _read(file, size, everything=True)
        try:
            return Reader(head, payload, known).build(head["tree"], "")
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise bad("a well-formed header", repr(error)) from error


def header(path: FileName) -> dict[str, Any]:
    """The description in the file, without building anything.

    `tree` (classes and fields), `arrays` (by path: dtype, shape, byte offset), the
    versions that wrote it, and the size and SHA-256 of the arrays.
    """
    with opened(path) as (file, size):
        return _read(file, size, everything=False)[0]


def _read(
    file: BinaryIO, size: int, *, everything: bool
) -> tuple[dict[str, Any], bytes]:
    """The header and, if wanted, the arrays' bytes; both checked for damage."""
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise bad(f"at least {_PREFIX.size} bytes", f"{size} bytes")
    magic, number, length, digest = _PREFIX.unpack(prefix)
    if magic != _MAGIC:
        cure = "It was not written by pidax.save."
        raise bad(f"the first bytes {_MAGIC}", magic, cure)
    if number != _FORMAT:
        cure = "Update pidax to read it." if number > _FORMAT else AGAIN
        raise bad(f"format version {_FORMAT}", number, cure)
    size -= _PREFIX.size
    if length > min(size, HEADER):
        got = f"one of {length} in {size} bytes"
        raise bad(f"a header of at most {HEADER} bytes inside the file", got)
    size -= length
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise bad(f"the header's SHA-256 {digest.hex()}", "another")
    head = read_header(text)
    if head.get("bytes") != size:
        raise bad(f"{head.get('bytes')} bytes of arrays", f"{size} bytes")
    payload = file.read() if everything else b""
    if everything and hashlib.sha256(payload).hexdigest() != head.get("sha256"):
        raise bad(f"the arrays' SHA-256 {head.get('sha256')}", "another")
    return head, payload
