r"""Arrays of pidax and of a state dict: names, shapes, and layouts.

A state dict maps dotted names to arrays in torch's layouts. Arrays with another layout
in pidax are converted both ways, without rounding:

| layer | pidax | torch |
|---|---|---|
| linear | inputs outputs | outputs inputs |
| convolution | height width inputs outputs | outputs inputs height width |
| one by one convolution | inputs outputs | outputs inputs 1 1 |

A *naming* lists the entries of a network as one family of checkpoints names them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._files import CheckpointError, quote
from ..nn import Conv, DhariwalUNet, Linear, SongUNet
from ..types import Shape

_SHOWN = 20  # lines of a kind
State: TypeAlias = Mapping[str, Any]
Turn: TypeAlias = Callable[[np.ndarray], np.ndarray]
_Network = TypeVar("_Network", SongUNet, DhariwalUNet)


@dataclass(frozen=True)
class KeyReport:
    """Missing and unexpected names, and wrong shapes: (found, expected)."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: dict[str, tuple[Shape, Shape]]
    matched: int

    @property
    def exact(self) -> bool:
        """Whether all arrays are present with their shapes, and no others."""
        return not (self.missing or self.unexpected or self.misshaped)

    def raise_if_not_exact(self) -> None:
        """Raise `CheckpointError` with the list, unless the match is exact."""
        if not self.exact:
            raise CheckpointError(
                f"expected exactly the arrays of the network, got {self}\n"
                "Build the network with the checkpoint's own configuration."
            )

    def __str__(self) -> str:
        shapes = [
            f"{quote(name)}: found {found}, expected {expected}"
            for name, (found, expected) in self.misshaped.items()
        ]
        lines = [f"{self.matched} of {self._expected} arrays as expected"]
        for what, names in (
            ("missing", [quote(name) for name in self.missing]),
            ("unexpected", [quote(name) for name in self.unexpected]),
            ("of another shape", shapes),
        ):
            if names:
                lines.append(f"{len(names)} {what}:")
                lines += [f"    {name}" for name in names[:_SHOWN]]
                more = len(names) - _SHOWN
                lines += [f"    ... and {more} more"] if more > 0 else []
        return "\n".join(lines)

    @property
    def _expected(self) -> int:
        return self.matched + len(self.missing) + len(self.misshaped)


def match(found: Mapping[str, Any], expected: Mapping[str, Shape]) -> KeyReport:
    """Compare arrays by name, `found`, with the shapes that a network expects."""
    shapes = {name: tuple(np.shape(array)) for name, array in found.items()}
    both = [name for name in expected if name in shapes]
    misshaped = {
        name: (shapes[name], tuple(expected[name]))
        for name in both
        if shapes[name] != tuple(expected[name])
    }
    return KeyReport(
        missing=tuple(name for name in expected if name not in shapes),
        unexpected=tuple(name for name in shapes if name not in expected),
        misshaped=misshaped,
        matched=len(both) - len(misshaped),
    )


@dataclass(frozen=True)
class Entry:
    """One array of a state dict: its place in the network, and its conversion."""

    name: str
    leaf: Any  # an array of the network; of a fixed one None
    there: Turn
    here: Turn
    fixed: np.ndarray | None = None


Naming: TypeAlias = Callable[[Any], list[Entry]]


def names(network: Any, naming: Naming) -> dict[str, Shape]:
    """The names of the network's state dict, and the shapes there."""
    # A stand-in with one number in memory gives the resulting shape.
    stand_in = lambda leaf: np.broadcast_to(np.zeros(()), leaf.shape)
    shape_of = lambda e: (
        (e.fixed if e.leaf is None else e.there(stand_in(e.leaf))).shape
    )
    return {e.name: shape_of(e) for e in naming(network)}


def fill(network: _Network, state: State, naming: Naming) -> _Network:
    """A copy of the network with the arrays of a state dict.

    All names must be present with their shapes, and no others. Arrays are converted to
    the dtypes of the network.
    """
    match(state, names(network, naming)).raise_if_not_exact()
    values = []
    for entry in naming(network):
        given = np.asarray(state[entry.name])
        if entry.fixed is None:
            values.append(jnp.asarray(entry.here(given), entry.leaf.dtype))
        elif not np.allclose(given, entry.fixed, rtol=1e-3, atol=1e-6):
            raise ValueError(
                f"{entry.name} must be the filter of the network, "
                f"{entry.fixed[0, 0, 0].tolist()} in its first row, got "
                f"{given[0, 0, 0].tolist()}. Make the network with other taps."
            )
    where = lambda n: [e.leaf for e in naming(n) if e.fixed is None]
    return eqx.tree_at(where, network, values)


def written(network: Any, naming: Naming) -> dict[str, np.ndarray]:
    """The network's state dict: the inverse of `fill`."""
    return {
        e.name: np.array(
            e.fixed if e.fixed is not None else e.there(np.asarray(e.leaf))
        )
        for e in naming(network)
    }


def structure(make: Callable[..., _Network], *args: Any, **options: Any) -> _Network:
    """A network without its arrays, to be filled: nothing is drawn at random."""
    key = jax.random.key(0)
    return eqx.filter_eval_shape(lambda: make(*args, **options, key=key))


# --- the layers -----------------------------------------------------------------------

same: Turn = lambda a: a
turned: Turn = lambda a: a.T


def vector(name: str, leaf: Any) -> Entry:
    return Entry(name, leaf, same, same)


def linear(name: str, layer: Linear) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", layer.weight, turned, turned)
    if layer.bias is not None:
        yield vector(f"{name}.bias", layer.bias)


def pointwise(name: str, layer: Any) -> Iterator[Entry]:
    there: Turn = lambda a: a.T[:, :, None, None]
    here: Turn = lambda a: a[:, :, 0, 0].T
    yield Entry(f"{name}.weight", layer.weight, there, here)
    yield vector(f"{name}.bias", layer.bias)


def conv(name: str, layer: Conv | Any) -> Iterator[Entry]:
    there: Turn = lambda a: a.transpose(3, 2, 0, 1)
    here: Turn = lambda a: a.transpose(2, 3, 1, 0)
    yield Entry(f"{name}.weight", layer.weight, there, here)
    yield vector(f"{name}.bias", layer.bias)


def norm(name: str, layer: Any) -> Iterator[Entry]:
    yield vector(f"{name}.weight", layer.gain)
    yield vector(f"{name}.bias", layer.shift)
