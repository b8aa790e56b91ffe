"""A model in one file: every field by name, every array bit for bit, and no code.

    magic, format version, header length, SHA-256 of the header | header | arrays

The header is JSON (`header(path)`): the tree of classes and fields, and for each array
its path, dtype, shape and byte offset. Reading runs no constructor and imports nothing:
a file names classes of pidax, `equinox.nn`, Diffrax or the reader's own, and functions
of `jax` and pidax; all else is refused. The hashes find damage, not malice.
"""

import hashlib
import json
import os
import platform
import secrets
import struct
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from ._tree import AGAIN, Entry, FileName, Reader, bad, encode

_MAGIC = b"\x89pidax\r\n"  # not text, and broken by whatever rewrites line ends
_FORMAT = 1
_PREFIX = struct.Struct("<8sIQ32s")


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
    prefix = _PREFIX.pack(_MAGIC, _FORMAT, len(text), hashlib.sha256(text).digest())
    write_whole(path, [prefix, text, *chunks])


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
        return Reader(path, head, payload, classes).build(head["tree"], "")
    except (KeyError, TypeError, AttributeError) as error:
        raise bad(path, "a well-formed header", repr(error)) from error


def header(path: FileName) -> dict[str, Any]:
    """What the file says of itself, without building anything.

    `tree` (classes and fields), `arrays` (by path: dtype, shape, byte offset), the
    versions that wrote it, and the size and SHA-256 of the arrays.
    """
    return _read(path, everything=False)[0]


def write_whole(path: FileName, chunks: Iterable[Any], who: str = "save") -> None:
    """Write bytes under another name, then rename: no reader ever sees half a file.

    `who` is the function that an error speaks of.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{who} expects a directory that exists, got {target.parent}. Make it "
            "first."
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


def _read(path: FileName, *, everything: bool) -> tuple[dict[str, Any], bytes]:
    """The header and, if wanted, the arrays' bytes; both checked for damage."""
    with open(path, "rb") as file:
        size, prefix = os.fstat(file.fileno()).st_size, file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise bad(path, f"at least {_PREFIX.size} bytes", f"{size} bytes")
        magic, number, length, digest = _PREFIX.unpack(prefix)
        if magic != _MAGIC:
            cure = "It was not written by pidax.save."
            raise bad(path, f"the first bytes {_MAGIC}", magic, cure)
        if number != _FORMAT:
            cure = "Update pidax to read it." if number > _FORMAT else AGAIN
            raise bad(path, f"format version {_FORMAT}", number, cure)
        size -= _PREFIX.size + length
        if size < 0:
            raise bad(path, f"a header of {length} bytes", f"{size + length} bytes")
        text = file.read(length)
        if hashlib.sha256(text).digest() != digest:
            raise bad(path, f"the header's SHA-256 {digest.hex()}", "another")
        try:
            head = json.loads(text)
            expected, checksum = head["bytes"], head["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise bad(path, "a well-formed header", repr(error)[:99]) from error
        if size != expected:
            raise bad(path, f"{expected} bytes of arrays", f"{size} bytes")
        payload = file.read() if everything else b""
    if everything and hashlib.sha256(payload).hexdigest() != checksum:
        raise bad(path, f"the arrays' SHA-256 {checksum}", "another")
    return head, payload
