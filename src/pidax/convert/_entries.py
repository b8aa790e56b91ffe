r"""Arrays here and in a state dict: names, shapes, and how each is turned.

A state dict maps dotted names to arrays in torch's layouts. What is kept here in
another layout is turned both ways, without rounding:

| | here | there |
|---|---|---|
| linear | inputs outputs | outputs inputs |
| convolution | height width inputs outputs | outputs inputs height width |
| one by one convolution | inputs outputs | outputs inputs 1 1 |

A *naming* lists the entries of a network as one family of checkpoints names them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..nn import Conv, DhariwalUNet, Linear, SongUNet
from ._match import match

State: TypeAlias = Mapping[str, Any]
Turn: TypeAlias = Callable[[np.ndarray], np.ndarray]
_Network = TypeVar("_Network", SongUNet, DhariwalUNet)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a state dict: where it is here, and how it is turned."""

    name: str
    leaf: Any  # an array of the network; of a fixed one None
    there: Turn
    here: Turn
    fixed: np.ndarray | None = None


Naming: TypeAlias = Callable[[Any], list[Entry]]


def names(
    network: SongUNet | DhariwalUNet, naming: Naming
) -> dict[str, tuple[int, ...]]:
    """The names of the network's state dict, and the shapes there."""
    return {e.name: _state_shape(e) for e in naming(network)}


def from_state(network: _Network, state: State, naming: Naming) -> _Network:
    """A copy of the network with the arrays of a state dict.

    Every name must be there, in its shape, and no other. Arrays are converted to the
    dtypes of the network's own.
    """
    found = naming(network)
    match(state, names(network, naming)).raise_if_not_exact()
    for entry in found:
        if entry.fixed is not None:
            _require_fixed(entry.name, np.asarray(state[entry.name]), entry.fixed)
    loaded = [entry for entry in found if entry.fixed is None]
    values = [
        jnp.asarray(entry.here(np.asarray(state[entry.name])), entry.leaf.dtype)
        for entry in loaded
    ]
    where = lambda n: [e.leaf for e in naming(n) if e.fixed is None]
    return eqx.tree_at(where, network, values)


def to_state(network: SongUNet | DhariwalUNet, naming: Naming) -> dict[str, np.ndarray]:
    """The network's state dict: the inverse of `from_state`."""
    return {
        e.name: np.array(
            e.fixed if e.fixed is not None else e.there(np.asarray(e.leaf))
        )
        for e in naming(network)
    }


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


# --- what a state dict is refused for -------------------------------------------------


def _state_shape(entry: Entry) -> tuple[int, ...]:
    if entry.fixed is not None:
        return entry.fixed.shape
    # A stand-in of the same shape that holds one number.
    return entry.there(np.broadcast_to(np.zeros(()), entry.leaf.shape)).shape


def _require_fixed(name: str, given: np.ndarray, fixed: np.ndarray) -> None:
    if not np.allclose(given, fixed, rtol=1e-3, atol=1e-6):
        raise ValueError(
            f"{name} must be the filter of the network, {fixed[0, 0, 0].tolist()} in "
            f"its first row, got {np.asarray(given)[0, 0, 0].tolist()}. Make the "
            "network with other taps."
        )


def structure(make: Callable[..., _Network], *args: Any, **options: Any) -> _Network:
    """A network without its arrays, to be filled by `from_state`: nothing is drawn."""
    key = jax.random.key(0)
    return eqx.filter_eval_shape(lambda: make(*args, **options, key=key))
