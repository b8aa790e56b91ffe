"""Files of unknown origin: opening, limits, and refusal.

A byte of a file can request a set of two hundred bytes, and twenty bytes a tree of a
billion branches. So instructions, text, levels and branches are counted. The limits are
far above any real file and far below a harmful one. A network of EDM with 209 arrays
needs 35,000 instructions, 10,000 branches and 30 levels.
"""

import contextlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias

try:
    import fcntl
except ImportError:  # not a POSIX system: two writers in one directory go unnoticed
    fcntl = None

FileName: TypeAlias = str | os.PathLike[str]

WORDS = 300_000  # of all pickles in one file together; items of a header in JSON
TEXT = 4 << 20  # bytes of strings in pickles
LEVELS = 60  # of nesting; models have about ten
BRANCHES = 200_000  # of the tree written out, with what is shared counted each time
NAMES = 50_000  # of arrays, and of numbers beside them
NAME = 512  # characters of one name
HEADER = 8 << 20  # bytes of a header, or of a zip file's directory
SURPLUS = 4  # arrays by name may add up to so many times the file: shared weights
RANK = 32  # axes of an array
LOCK = ".lock"  # the file that is locked in a directory with one writer
LEFTOVERS = ".*.????????????????.tmp"  # of `write_whole`, when it was killed
AGAIN = "The file is incomplete, damaged or forged: fetch it again."


class CheckpointError(ValueError):
    """A file that is not a checkpoint, is damaged, or requests something forbidden.

    Nothing that the file names has been imported or executed.
    """


def bad(expected: str, got: object, cure: str = AGAIN) -> CheckpointError:
    """The three parts of a message. `got` is shown in at most 160 characters."""
    return CheckpointError(f"expected {expected}, got {str(got)[:160]}. {cure}")


def quote(text: str) -> str:
    """A name out of a file, safe to print."""
    return ascii(text[:100])[1:-1]


@contextlib.contextmanager
def opened(path: FileName) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file for reading, and its length; errors inside name the file.

    A pipe would block and a device has no end: both are refused.
    """
    flag = getattr(os, "O_NONBLOCK", 0)  # or to open a pipe waits for a writer
    opener = lambda name, flags: os.open(name, flags | flag)
    # Without a buffer, which would be joined to what is read: twice the memory.
    with open(path, "rb", buffering=0, opener=opener) as file:
        try:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = "a pipe" if stat.S_ISFIFO(status.st_mode) else "a device"
                raise bad("a regular file", kind, "Copy what it gives into a file.")
            yield file, status.st_size
        except CheckpointError as error:
            raise CheckpointError(f"{os.fspath(path)}: {error}") from error.__cause__


def check_header(text: bytes, cure: str = AGAIN) -> None:
    """That a header in JSON is short enough, and makes few enough objects."""
    if len(text) > HEADER:
        raise bad(f"a header of at most {HEADER} bytes", len(text), cure)
    if sum(text.count(mark) for mark in (b"[", b"{", b",")) > WORDS:
        raise bad(f"a header of at most {WORDS} items", "more", cure)


def read_header(text: bytes) -> dict[str, Any]:
    """A dict in JSON, in which every name occurs once."""
    check_header(text)
    try:
        header = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        got = f"{type(error).__name__} in {len(text)} bytes"
        raise bad("a header in JSON", got) from None
    if type(header) is not dict:
        raise bad("a dict as the header", f"a {type(header).__name__}")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise bad("every name once in the header", "one twice")
    return found


def _refuse(constant: str) -> Any:
    raise bad("numbers in the header", constant)


def is_count(value: Any) -> bool:
    """A whole number that may be a length, an offset or a stride."""
    return type(value) is int and 0 <= value < 2**59


def fits(shape: Sequence[int]) -> bool:
    """Whether NumPy can have an array of this shape, which may be empty."""
    # NumPy multiplies the lengths of an empty array too, without the zeros.
    return len(shape) <= RANK and math.prod(max(n, 1) for n in shape) < 2**59


def write_whole(path: FileName, chunks: Iterable[Any], who: str) -> None:
    """Write bytes under another name, then rename: no reader ever sees half a file.

    `who` is the name of the function in errors.
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


def lock_directory(directory: Path) -> IO[str]:
    """The open lock file of a directory, which is this writer's until it is closed.

    The end of the process closes it too. What a killed writer left half written is
    cleared away.
    """
    lock = open(directory / LOCK, "w")  # noqa: SIM115
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for leftover in directory.glob(LEFTOVERS):
            leftover.unlink()
    except BlockingIOError as error:
        lock.close()
        raise ValueError(
            f"directory must not be in use, got {directory}, to which another run is "
            "writing. Wait for it, or choose another."
        ) from error
    except BaseException:
        lock.close()
        raise
    return lock
