"""What a pickle says, written down: names not looked up, calls not made."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Name:
    """A name that was not looked up."""

    text: str


@dataclass(slots=True, eq=False)
class Call:
    """A call that was not made."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


@dataclass(slots=True, eq=False)
class Persistent:
    """An object outside the pickle, by the words that say which."""

    words: Any


class Ordered(dict):
    """What the file calls an OrderedDict: the one kind of dict that may be built on."""

    __slots__ = ()
