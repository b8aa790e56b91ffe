"""Pickles read as data, by an interpreter that cannot execute anything.

A pickle is a program for a stack machine. Its instructions GLOBAL, REDUCE, NEWOBJ and
BUILD import, call, construct and set whatever the file names. Here they only record the
request, as a `Name`, a `Call` or a `Persistent`, and only for names on the caller's
list, each with its allowed uses. All other names, and all instructions that today's
writers of checkpoints do not need, are refused by name. Bytes are views of the file.

The memo of a pickle allows a list to contain itself, or to grow exponentially. `survey`
checks that the result is a tree of limited size, which a function may walk by
recursion.
"""

import pickletools  # only names of instructions, for messages
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from .._files import AGAIN, BRANCHES, LEVELS, TEXT, WORDS, CheckpointError, bad, quote

PROTOCOLS = range(2, 6)
ORDERED = "collections.OrderedDict"
_BUILDS = "numpy.dtype", "torch.nn.modules.container.ModuleDict"
_SMALL = 1 << 20  # integers below it are keys, larger ones could be made to collide
_LINE = 128  # characters of a module's or a class's name

# name -> how it may be used: "call" (REDUCE), "new" (NEWOBJ), "type" (as it stands)
Names = Mapping[str, str]


@dataclass
class Budget:
    """The remaining limits for one file."""

    words: int = WORDS
    text: int = TEXT

    def word(self) -> None:
        self.words -= 1
        if self.words < 0:
            raise bad(f"at most {WORDS} pickle words", "more")

    def string(self, length: int) -> None:
        self.text -= length
        if self.text < 0:
            raise bad(f"at most {TEXT} bytes of strings", "more")


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
    """An object outside the pickle, by the values that identify it."""

    words: Any


class Ordered(dict):
    """An OrderedDict of the file, the only kind of dict that BUILD may change."""

    __slots__ = ()


def read_pickle(
    data: memoryview, start: int, names: Names, budget: Budget
) -> tuple[Any, int]:
    """The value of the pickle at byte `start`, and its end."""
    machine = _Machine(data, start, names, budget)
    return machine.run(), machine.at


class _Machine:
    def __init__(self, data: memoryview, start: int, names: Names, budget: Budget):
        self.data, self.at, self.names, self.budget = data, start, names, budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def run(self) -> Any:
        if self.number(1) != 0x80 or self.number(1) not in PROTOCOLS:
            self.fail(f"a pickle of protocol {PROTOCOLS[0]} to {PROTOCOLS[-1]}", "none")
        while True:
            self.budget.word()
            code = self.number(1)
            if code == _STOP:
                break
            step = _STEPS.get(code)
            if step is None:
                self.fail("the words of a checkpoint", f"the pickle word {_word(code)}")
            step(self)
        if len(self.stack) != 1 or self.marks:
            self.fail("one object at STOP", f"{len(self.stack)}")
        return self.stack.pop()

    def fail(self, expected: str, got: object, cure: str = AGAIN) -> NoReturn:
        raise bad(expected, f"{got} at byte {self.at}", cure)

    # --- bytes ---

    def take(self, length: int) -> memoryview:
        if length < 0 or length > len(self.data) - self.at:
            left = len(self.data) - self.at
            self.fail(f"{length} more bytes", f"the file's end {left} bytes on")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def text(self, length: int) -> str:
        data = self.take(length)
        self.budget.string(length)
        return self.decode(data)

    def decode(self, data: memoryview) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            self.fail("text in UTF-8", "other bytes")

    def line(self) -> str:
        window = bytes(self.data[self.at : self.at + _LINE])
        length = window.find(b"\n")
        if length < 0:
            self.fail(f"a name of less than {_LINE} characters", "a longer one")
        text = self.text(length)
        self.take(1)
        return text

    # --- the stack ---

    def pop(self, count: int = 1) -> list[Any]:
        """The last `count` objects, none from below the last mark."""
        split = len(self.stack) - count
        if split < (self.marks[-1] if self.marks else 0):
            self.fail(f"{count} objects on the stack", "fewer")
        found = self.stack[split:]
        del self.stack[split:]
        return found

    def pop_mark(self) -> list[Any]:
        """All objects above the last mark."""
        if not self.marks:
            self.fail("a mark on the stack", "none")
        split = self.marks.pop()
        found = self.stack[split:]
        del self.stack[split:]
        return found

    def top(self, kind: type) -> Any:
        [top] = self.pop()
        if not isinstance(top, kind):
            self.fail(f"a {kind.__name__} to add to", f"a {type(top).__name__}")
        self.stack.append(top)
        return top

    def put(self, index: int) -> None:
        """The memo: writers number what they keep 0, 1, 2, ..."""
        if index != len(self.memo):
            self.fail(f"memo number {len(self.memo)}", index)
        [top] = self.pop()
        self.stack.append(top)
        self.memo.append(top)

    def get(self, index: int) -> None:
        if index >= len(self.memo):
            self.fail(f"a memo number below {len(self.memo)}", index)
        self.stack.append(self.memo[index])

    # --- instructions with something to check ---

    def frame(self) -> None:
        length = self.number(8)
        if length > len(self.data) - self.at:
            self.fail("a frame inside the file", f"one of {length} bytes")

    def long1(self) -> None:
        length = self.number(1)
        if length > 16:
            self.fail("an integer of at most 16 bytes", f"one of {length}")
        self.stack.append(self.number(length, signed=True))

    def tuple_of(self, items: list[Any]) -> None:
        self.stack.append(tuple(items))

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            self.fail("keys and values in pairs", f"{len(items)} objects")
        for key, value in zip(items[::2], items[1::2], strict=True):
            small = type(key) is int and 0 <= key < _SMALL
            if not small and type(key) is not str:
                self.fail("keys that are strings or small integers", _kind(key))
            target[key] = value

    def add_items(self, items: list[Any]) -> None:
        target = self.top(set)
        if not all(type(item) is str for item in items):
            self.fail("sets of strings", "others")
        target.update(items)

    # --- instructions that would act ---

    def name(self, module: Any, member: Any) -> None:
        if type(module) is not str or type(member) is not str:
            self.fail("a name in two strings", f"{_kind(module)}, {_kind(member)}")
        text = f"{module}.{member}"
        if text not in self.names:
            raise CheckpointError(
                f"expected a checkpoint's own names only, got {quote(text)} at byte "
                f"{self.at}, which is refused and was not looked up. If you trust the "
                "file, load it with the program that wrote it and save its state dict."
            )
        self.stack.append(Name(text))

    def use(self, how: str) -> tuple[str, tuple[Any, ...]]:
        name, args = self.pop(2)
        if type(name) is not Name or type(args) is not tuple:
            self.fail(f"a name and a tuple to {how}", f"{_kind(name)}, {_kind(args)}")
        if self.names[name.text] != how:
            self.fail(f"names to {how}", f"{name.text}, which is none")
        return name.text, args

    def reduce(self) -> None:
        name, args = self.use("call")
        if name == ORDERED and args:
            self.fail(f"{ORDERED} without arguments", f"{len(args)} of them")
        self.stack.append(Ordered() if name == ORDERED else Call(name, args))

    def new(self) -> None:
        name, args = self.use("new")
        if args:
            self.fail(f"{name} without arguments", f"{len(args)} of them")
        self.stack.append(Call(name, args))

    def build(self) -> None:
        target, state = self.pop(2)
        kind = target.name if type(target) is Call else _kind(target)
        if type(target) is Ordered:  # a state dict's `_metadata`, which nothing needs
            if type(state) is not dict or state.keys() != {"_metadata"}:
                self.fail("nothing but _metadata on an OrderedDict", _kind(state))
        elif type(target) is Call and target.state is None and kind in _BUILDS:
            target.state = state
        else:
            self.fail("no state set here", f"BUILD on {kind}")
        self.stack.append(target)


def _kind(value: Any) -> str:
    """The type of a value, for a message. Never its repr, which may be endless."""
    return value.text if type(value) is Name else type(value).__name__


def _word(code: int) -> str:
    """The name of an instruction of the pickle language."""
    names = [word.name for word in pickletools.opcodes if ord(word.code) == code]
    return names[0] if names else f"0x{code:02x}, which does not exist"


_STOP = ord(".")
_Step = Callable[[_Machine], Any]
_STEPS: dict[int, _Step] = {
    ord("("): lambda m: m.marks.append(len(m.stack)),
    0x95: lambda m: m.frame(),
    # constants and numbers
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("K"): lambda m: m.stack.append(m.number(1)),
    ord("M"): lambda m: m.stack.append(m.number(2)),
    ord("J"): lambda m: m.stack.append(m.number(4, signed=True)),
    0x8A: lambda m: m.long1(),
    ord("G"): lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    # strings and bytes
    0x8C: lambda m: m.stack.append(m.text(m.number(1))),
    ord("X"): lambda m: m.stack.append(m.text(m.number(4))),
    0x8D: lambda m: m.stack.append(m.text(m.number(8))),
    ord("C"): lambda m: m.stack.append(m.take(m.number(1))),
    ord("B"): lambda m: m.stack.append(m.take(m.number(4))),
    0x8E: lambda m: m.stack.append(m.take(m.number(8))),
    # containers
    ord(")"): lambda m: m.stack.append(()),
    ord("t"): lambda m: m.tuple_of(m.pop_mark()),
    0x85: lambda m: m.tuple_of(m.pop(1)),
    0x86: lambda m: m.tuple_of(m.pop(2)),
    0x87: lambda m: m.tuple_of(m.pop(3)),
    ord("]"): lambda m: m.stack.append([]),
    ord("a"): lambda m: m.extend(m.pop(1)),
    ord("e"): lambda m: m.extend(m.pop_mark()),
    ord("}"): lambda m: m.stack.append({}),
    ord("s"): lambda m: m.set_items(m.pop(2)),
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    0x8F: lambda m: m.stack.append(set()),
    0x90: lambda m: m.add_items(m.pop_mark()),
    # the memo
    ord("q"): lambda m: m.put(m.number(1)),
    ord("r"): lambda m: m.put(m.number(4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number(1)),
    ord("j"): lambda m: m.get(m.number(4)),
    # instructions that would act, and are recorded here
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: lambda m: m.name(*m.pop(2)),
    ord("R"): lambda m: m.reduce(),
    0x81: lambda m: m.new(),
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.stack.append(Persistent(*m.pop())),
}


_INNER = (dict, list, tuple, Call, Persistent)


def survey(root: Any) -> list[Persistent]:
    """Every `Persistent` of the tree, each once; raises if it is not a tree."""
    found: list[Persistent] = []
    sizes: dict[int, tuple[int, int]] = {}  # id -> levels, branches
    open_: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)] * isinstance(root, _INNER)
    while stack:
        node, done = stack.pop()
        if done:
            open_.discard(id(node))
            sizes[id(node)] = _measure(node, sizes)
            if isinstance(node, Persistent):
                found.append(node)
            continue
        if id(node) in sizes:
            continue
        if id(node) in open_:
            raise bad("a tree", f"a {type(node).__name__} that contains itself")
        open_.add(id(node))
        if len(open_) > LEVELS:
            raise bad(f"at most {LEVELS} levels of nesting", "more")
        stack.append((node, True))
        inner = [child for child in _children(node) if isinstance(child, _INNER)]
        stack += [(child, False) for child in inner]
    return found


def _measure(node: Any, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Levels and branches below a node, from its children's."""
    levels, branches = 0, 1
    for child in _children(node):
        below = sizes.get(id(child), (0, 1)) if isinstance(child, _INNER) else (0, 1)
        levels, branches = max(levels, below[0]), branches + below[1]
    if levels >= LEVELS:
        raise bad(f"at most {LEVELS} levels of nesting", "more")
    if branches > BRANCHES:
        raise bad(f"a tree of at most {BRANCHES} branches", "more")
    return levels + 1, branches


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    if isinstance(node, Call):
        return (node.args, node.state)
    if isinstance(node, Persistent):
        return (node.words,)
    return node
