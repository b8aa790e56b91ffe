r"""EDM's networks and their published state dicts: one name for each array.

A state dict maps dotted names to arrays in torch's layouts. What is kept here in
another layout is turned both ways, without rounding:

| | here | there |
|---|---|---|
| linear | inputs outputs | outputs inputs |
| convolution | height width inputs outputs | outputs inputs height width |
| one by one convolution | inputs outputs | outputs inputs 1 1 |
| queries, keys, values | each of them by heads | alternating in a head |

Filters of resampling are there as arrays, here as settings: they must agree.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..nn import Attention, Conv, DhariwalUNet, Fourier, Linear, Resample, SongUNet
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


def entries(network: SongUNet | DhariwalUNet) -> list[Entry]:
    """Every array of a network's state dict, in no order that matters."""
    return list(_network(network))


def names(network: SongUNet | DhariwalUNet) -> dict[str, tuple[int, ...]]:
    """The names of the network's state dict, and the shapes there."""
    return {e.name: _state_shape(e) for e in entries(network)}


def from_state(network: _Network, state: State) -> _Network:
    """A copy of the network with the arrays of a state dict.

    Every name must be there, in its shape, and no other. Arrays are converted to the
    dtypes of the network's own.
    """
    found = entries(network)
    match(state, names(network)).raise_if_not_exact()
    for entry in found:
        if entry.fixed is not None:
            _require_fixed(entry.name, np.asarray(state[entry.name]), entry.fixed)
    loaded = [entry for entry in found if entry.fixed is None]
    values = [
        jnp.asarray(entry.here(np.asarray(state[entry.name])), entry.leaf.dtype)
        for entry in loaded
    ]
    where = lambda n: [e.leaf for e in entries(n) if e.fixed is None]
    return eqx.tree_at(where, network, values)


def to_state(network: SongUNet | DhariwalUNet) -> dict[str, np.ndarray]:
    """The network's state dict: the inverse of `from_state`."""
    return {
        e.name: np.array(
            e.fixed if e.fixed is not None else e.there(np.asarray(e.leaf))
        )
        for e in entries(network)
    }


# --- the networks, from the outside in ------------------------------------------------


def _network(network: SongUNet | DhariwalUNet) -> Iterator[Entry]:
    song = isinstance(network, SongUNet)
    embedding = network.embedding
    if isinstance(embedding.features, Fourier):
        yield _vector("map_noise.freqs", embedding.features.frequencies)
    if embedding.label is not None:
        yield from _linear("map_label", embedding.label)
    if embedding.augment is not None:
        yield from _linear("map_augment", embedding.augment)
    for i, layer in enumerate(embedding.layers):
        yield from _linear(f"map_layer{i}", layer)
    encoder, decoder = network.encoder, network.decoder
    for depth, level in enumerate(encoder.levels):
        at = f"enc.{_grid(network, depth)}_"
        if level.down is None:
            yield from _conv(at + "conv", encoder.stem)
        else:
            yield from _block(at + "down", level.down)
        if depth and encoder.kind == "skip":
            yield _filter(at + "aux_down", encoder.shrink)
            yield from _pointwise(at + "aux_skip", level.extra)
        if depth and encoder.kind == "residual":
            yield from _conv(at + "aux_residual", level.extra)
            yield _filter(at + "aux_residual", encoder.shrink)
        for i, block in enumerate(level.blocks):
            yield from _block(f"{at}block{i}", block)
    last = len(decoder.levels) - 1
    for depth, level in enumerate(decoder.levels):
        at = f"dec.{_grid(network, depth)}_"
        for i, block in enumerate(level.into):
            yield from _block(at + (f"in{i}" if depth == last else "up"), block)
        for i, block in enumerate(level.blocks):
            yield from _block(f"{at}block{i}", block)
        if decoder.kind == "skip" and depth < last:
            yield _filter(at + "aux_up", decoder.grow)
        if level.norm is not None and level.out is not None:
            head = at + "aux" if song else "out"
            yield from _norm(head + "_norm", level.norm)
            yield from _conv(head + "_conv", level.out)


def _grid(network: SongUNet | DhariwalUNet, depth: int) -> str:
    side = network.image[0] >> depth
    return f"{side}x{side}"


def _block(name: str, block: Any) -> Iterator[Entry]:
    for i, (norm, conv) in enumerate(zip(block.norms, block.convs, strict=True)):
        yield from _norm(f"{name}.norm{i}", norm)
        yield from _conv(f"{name}.conv{i}", conv)
    yield from _linear(f"{name}.affine", block.modulation)
    if block.shortcut is not None:
        yield from _pointwise(f"{name}.skip", block.shortcut)
    if block.resample is not None:
        yield _filter(f"{name}.conv0", block.resample)
        yield _filter(f"{name}.skip", block.resample)
    if block.attention is not None:
        yield from _norm(f"{name}.norm2", block.attention_norm)
        yield from _attention(name, block.attention)


# --- the layers -----------------------------------------------------------------------

_same: Turn = lambda a: a
_turned: Turn = lambda a: a.T


def _vector(name: str, leaf: Any) -> Entry:
    return Entry(name, leaf, _same, _same)


def _linear(name: str, layer: Linear) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", layer.weight, _turned, _turned)
    if layer.bias is not None:
        yield _vector(f"{name}.bias", layer.bias)


def _pointwise(name: str, layer: Any) -> Iterator[Entry]:
    there: Turn = lambda a: a.T[:, :, None, None]
    here: Turn = lambda a: a[:, :, 0, 0].T
    yield Entry(f"{name}.weight", layer.weight, there, here)
    yield _vector(f"{name}.bias", layer.bias)


def _conv(name: str, layer: Conv | Any) -> Iterator[Entry]:
    there: Turn = lambda a: a.transpose(3, 2, 0, 1)
    here: Turn = lambda a: a.transpose(2, 3, 1, 0)
    yield Entry(f"{name}.weight", layer.weight, there, here)
    yield _vector(f"{name}.bias", layer.bias)


def _norm(name: str, layer: Any) -> Iterator[Entry]:
    yield _vector(f"{name}.weight", layer.gain)
    yield _vector(f"{name}.bias", layer.shift)


def _attention(name: str, layer: Attention) -> Iterator[Entry]:
    heads = layer.heads

    def there(a: np.ndarray) -> np.ndarray:  # outputs first: 3, heads, d -> heads, d, 3
        split = a.reshape(3, heads, -1, *a.shape[1:])
        return np.moveaxis(split, 0, 2).reshape(a.shape)

    def here(a: np.ndarray) -> np.ndarray:
        split = a.reshape(heads, -1, 3, *a.shape[1:])
        return np.moveaxis(split, 2, 0).reshape(a.shape)

    yield Entry(
        f"{name}.qkv.weight",
        layer.qkv.weight,
        lambda a: there(a.T)[:, :, None, None],
        lambda a: here(a[:, :, 0, 0]).T,
    )
    yield Entry(f"{name}.qkv.bias", layer.qkv.bias, there, here)
    yield from _pointwise(f"{name}.proj", layer.out)


def _filter(name: str, resample: Resample) -> Entry:
    taps = np.asarray(resample.taps, np.float32)
    square = np.outer(taps, taps)[None, None] / taps.sum() ** 2
    return Entry(f"{name}.resample_filter", None, _same, _same, square)


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
