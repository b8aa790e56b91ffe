"""The one error of this room: what was expected, what the file holds, what to do."""

import os
from collections.abc import Callable
from typing import Any

AGAIN = "The file is incomplete, damaged or forged: fetch it again."


class CheckpointError(ValueError):
    """A file that is not a checkpoint, is damaged, or asks for what is not allowed.

    Nothing that the file names has been imported, called or executed.
    """


def bad(expected: str, got: object, cure: str = AGAIN) -> CheckpointError:
    """The three parts of a message. `got` is shown in at most 160 characters."""
    return CheckpointError(f"expected {expected}, got {str(got)[:160]}. {cure}")


def quote(text: str) -> str:
    """A name out of a file, safe to print."""
    return ascii(text[:100])[1:-1]


def named(path: str | os.PathLike[str], make: Callable[[], Any]) -> Any:
    """What goes wrong with a file's contents names the file."""
    try:
        return make()
    except (ValueError, KeyError, TypeError) as error:
        what = f"a setting is missing, {error}" if type(error) is KeyError else error
        raise CheckpointError(f"{path}: {what}") from error
