"""That what a pickle says is a tree: no loops, no depth, no billion branches.

The memo of a pickle lets a list hold itself, or hold twice a list that holds twice a
list, and so on. After `survey` a function may walk the tree by recursion.
"""

from collections.abc import Iterable
from typing import Any

from ._budget import BRANCHES, LEVELS
from ._error import bad
from ._nodes import Call, Persistent

_INNER = (dict, list, tuple, Call, Persistent)


def survey(root: Any) -> list[Persistent]:
    """Every `Persistent` of the tree, each once; raises if it is no tree."""
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
    """Levels and branches below a node, those of what it holds being known."""
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
