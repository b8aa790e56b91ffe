"""The members of a zip file as views of its bytes; nothing is decompressed.

`torch.save` stores without compression, so that a member is a stretch of the file and
can be no larger than it. Compressed, encrypted and overlapping members are refused.
"""

import struct
import zlib
from itertools import pairwise

from .._files import AGAIN, HEADER, bad, quote

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_COMMENT = 0xFFFF  # the longest comment after the end record
_FULL = 0xFFFFFFFF  # in a 32-bit field: see the 64-bit one


def members(data: memoryview) -> dict[str, memoryview]:
    """Every member by name, its checksum compared."""
    start, size, count = _directory(data)
    if size > HEADER or start + size > len(data):
        raise bad(f"a zip directory of at most {HEADER} bytes in the file", size)
    found: dict[str, tuple[memoryview, int]] = {}
    stretches: list[tuple[int, int]] = [(start, len(data))]
    at, end = start, start + size
    while at < end:
        name, at, stretch, crc, length = _entry(data, at, end)
        if name in found:
            raise bad("every zip member once", f"{quote(name)} twice")
        found[name] = data[stretch[1] - length : stretch[1]], crc
        stretches.append(stretch)
    if len(found) != count:
        raise bad(f"{count} zip members", len(found))
    stretches.sort()
    for one, other in pairwise(stretches):
        if one[1] > other[0]:
            raise bad("zip members beside each other", "members that overlap")
    for name, (part, crc) in found.items():
        if zlib.crc32(part) != crc:
            cure = AGAIN + " (Or it was saved with torch's checksums switched off.)"
            raise bad(f"the checksum {crc:08x} of {quote(name)}", "another", cure)
    return {name: part for name, (part, _) in found.items()}


def _directory(data: memoryview) -> tuple[int, int, int]:
    """Where the directory begins, its bytes, its entries."""
    tail = bytes(data[max(0, len(data) - _END.size - _COMMENT) :])
    at = len(data) - len(tail) + tail.rfind(b"PK\x05\x06")
    if b"PK\x05\x06" not in tail or at + _END.size > len(data):
        raise bad("a zip file's directory at its end", "none")
    _, disk, first, here, count, size, start, _ = _END.unpack_from(data, at)
    locator = at - _LOCATOR.size
    if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\x06\x07":
        _, _, at, _ = _LOCATOR.unpack_from(data, locator)
        if at + _END64.size > len(data) or bytes(data[at : at + 4]) != b"PK\x06\x06":
            raise bad("a zip64 end record where its locator says", "none")
        record = _END64.unpack_from(data, at)
        _, _, _, _, disk, first, here, count, size, start = record
    if disk or first or here != count:
        raise bad("a zip file in one part", "several")
    return start, size, count


def _entry(
    data: memoryview, at: int, end: int
) -> tuple[str, int, tuple[int, int], int, int]:
    """Name, next entry, (begin, end) with its local header, checksum, length."""
    if at + _CENTRAL.size > end:
        raise bad("whole entries in a zip directory", "a part of one")
    magic, _, _, flags, method, _, _, crc, packed, length, *rest = _CENTRAL.unpack_from(
        data, at
    )
    name_size, extra_size, comment_size, disk, _, _, local = rest
    at += _CENTRAL.size
    name = _name(data[at : at + name_size])
    extra = data[at + name_size : at + name_size + extra_size]
    at += name_size + extra_size + comment_size
    if magic != b"PK\x01\x02" or at > end or disk:
        raise bad("whole entries in a zip directory", "something else")
    length, packed, local = _wide(extra, length, packed, local)
    if method or flags & 1:
        how = "encrypted" if flags & 1 else f"compressed by method {method}"
        cure = "torch.save compresses nothing: unpack the file and zip it with -0."
        raise bad("zip members stored as they are", f"{quote(name)} {how}", cure)
    if packed != length:
        raise bad(f"{length} bytes of {quote(name)} stored", f"{packed}")
    if local + _LOCAL.size > len(data):
        raise bad(f"{quote(name)} inside the file", "a place beyond it")
    head = _LOCAL.unpack_from(data, local)
    begin = local + _LOCAL.size + head[9] + head[10]
    inner = bytes(data[local + _LOCAL.size : local + _LOCAL.size + head[9]])
    if head[0] != b"PK\x03\x04" or _name(memoryview(inner)) != name or head[3]:
        raise bad(f"{quote(name)} where the directory says", "something else")
    if begin + length > len(data):
        raise bad(f"{length} bytes of {quote(name)}", f"{len(data) - begin}")
    return name, at, (local, begin + length), crc, length


def _name(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise bad("names of zip members in UTF-8", "other bytes") from None


def _wide(extra: memoryview, *numbers: int) -> list[int]:
    """The `numbers` that did not fit into 32 bits, from the zip64 field."""
    field, at = memoryview(b""), 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + size]
            break
        at += 4 + size
    wide, used = [], 0
    for number in numbers:
        if number == _FULL:
            if used + 8 > len(field):
                raise bad("a zip64 field with the lengths", "a shorter one")
            [number] = struct.unpack_from("<Q", field, used)
            used += 8
        wide.append(number)
    return wide
