"""Objects of a checkpoint as data: a class's name, its arguments, its attributes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._budget import NAME, NAMES
from ._error import bad, quote


@dataclass(frozen=True, eq=False)
class PersistentObject:
    """An object that a checkpoint holds with its source: its data, and not the source.

    `state` has its attributes by name, arrays as NumPy arrays and objects inside it as
    further `PersistentObject`s. What the file has of source code is neither run nor
    kept. A `ModuleDict` of torch is one of these too, without arguments.
    """

    class_name: str
    init_args: tuple[Any, ...] = field(repr=False)
    init_kwargs: dict[str, Any] = field(repr=False)
    state: dict[str, Any] = field(repr=False)

    @property
    def parameters(self) -> dict[str, np.ndarray | None]:
        """Its own parameters by name; None where there is none, a bias for one."""
        return self._part("_parameters", np.ndarray)

    @property
    def buffers(self) -> dict[str, np.ndarray | None]:
        """Its own buffers by name."""
        return self._part("_buffers", np.ndarray)

    @property
    def modules(self) -> dict[str, "PersistentObject | None"]:
        """The modules right inside it, by name."""
        return self._part("_modules", PersistentObject)

    def _part(self, name: str, kind: type) -> dict[str, Any]:
        part = self.state.get(name, {})
        kinds = (kind, type(None))
        if not isinstance(part, dict) or not all(
            isinstance(key, str) and isinstance(value, kinds)
            for key, value in part.items()
        ):
            got = f"others in {name} of {quote(self.class_name)}"
            raise bad(f"a dict of {kind.__name__}s by name", got)
        return part


def state_dict(module: PersistentObject) -> dict[str, np.ndarray]:
    """All parameters and persistent buffers, named and ordered as torch's state dict.

    `model.enc.32x32_conv.weight` is `weight` of `32x32_conv` of `enc` of `model`.
    """
    return dict(_named(_entries(module, "")))


def parameter_names(module: PersistentObject) -> frozenset[str]:
    """Those names of `state_dict` that are parameters, and not buffers."""
    return frozenset(dict(_named(_entries(module, "", buffers=False))))


def _entries(
    module: PersistentObject, prefix: str, *, buffers: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    passing = module.state.get("_non_persistent_buffers_set", ())
    passing = passing if isinstance(passing, set) else ()
    own: list[Mapping[str, Any]] = [module.parameters]
    if buffers:
        kept = [item for item in module.buffers.items() if item[0] not in passing]
        own.append(dict(kept))
    for part in own:
        for name, array in part.items():
            if array is not None:
                yield _inside(prefix, name)[:-1], array
    for name, inner in module.modules.items():
        if inner is not None:
            yield from _entries(inner, _inside(prefix, name), buffers=buffers)


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What is in dicts, lists and tuples within each other, by dotted names."""
    if isinstance(tree, dict | list | tuple):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in pairs:
            yield from leaves(value, _inside(prefix, str(key)))
    elif tree is not None:
        yield prefix[:-1], tree


def _inside(prefix: str, name: str) -> str:
    """The prefix of what is inside `name`, before names grow without bound."""
    if len(prefix) + len(name) > NAME:
        raise bad(f"names of at most {NAME} characters", f"{quote(prefix + name)}...")
    return f"{prefix}{name}."


def named_leaves(tree: Any) -> dict[str, Any]:
    """`leaves` as a dict, in which no name occurs twice."""
    return dict(_named(leaves(tree)))


def _named(entries: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The same, no name twice and not too many of them."""
    seen: set[str] = set()
    for name, value in entries:
        if name in seen:
            raise bad("every name once", f"{quote(name)} twice")
        seen.add(name)
        if len(seen) > NAMES:
            raise bad(f"at most {NAMES} names", "more")
        yield name, value
