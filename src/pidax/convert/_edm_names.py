r"""EDM's names of the arrays of its networks.

Queries, keys and values alternate in a head there and are each by heads here. Filters
of resampling are there as arrays, here as settings: they must agree.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from ..nn import Attention, DhariwalUNet, Fourier, Resample, SongUNet
from . import _entries
from ._entries import (
    Entry,
    State,
    conv,
    linear,
    norm,
    pointwise,
    same,
    vector,
)

_Network = TypeVar("_Network", SongUNet, DhariwalUNet)


def entries(network: SongUNet | DhariwalUNet) -> list[Entry]:
    """Every array of a network's state dict, in no order that matters."""
    return list(_network(network))


def names(network: SongUNet | DhariwalUNet) -> dict[str, tuple[int, ...]]:
    """The names of the network's state dict, and the shapes there."""
    return _entries.names(network, entries)


def from_state(network: _Network, state: State) -> _Network:
    """A copy of the network with the arrays of EDM's state dict.

    Every name must be there, in its shape, and no other. Arrays are converted to the
    dtypes of the network's own.
    """
    return _entries.from_state(network, state, entries)


def to_state(network: SongUNet | DhariwalUNet) -> dict[str, np.ndarray]:
    """The network's state dict: the inverse of `from_state`."""
    return _entries.to_state(network, entries)


# --- the networks, from the outside in ------------------------------------------------


def _network(network: SongUNet | DhariwalUNet) -> Iterator[Entry]:
    song = isinstance(network, SongUNet)
    embedding = network.embedding
    if isinstance(embedding.features, Fourier):
        yield vector("map_noise.freqs", embedding.features.frequencies)
    if embedding.label is not None:
        yield from linear("map_label", embedding.label)
    if embedding.augment is not None:
        yield from linear("map_augment", embedding.augment)
    for i, layer in enumerate(embedding.layers):
        yield from linear(f"map_layer{i}", layer)
    encoder, decoder = network.encoder, network.decoder
    for depth, level in enumerate(encoder.levels):
        at = f"enc.{_grid(network, depth)}_"
        if level.down is None:
            yield from conv(at + "conv", encoder.stem)
        else:
            yield from _block(at + "down", level.down)
        if depth and encoder.kind == "skip":
            yield _filter(at + "aux_down", encoder.shrink)
            yield from pointwise(at + "aux_skip", level.extra)
        if depth and encoder.kind == "residual":
            yield from conv(at + "aux_residual", level.extra)
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
            yield from norm(head + "_norm", level.norm)
            yield from conv(head + "_conv", level.out)


def _grid(network: SongUNet | DhariwalUNet, depth: int) -> str:
    side = network.image[0] >> depth
    return f"{side}x{side}"


def _block(name: str, block: Any) -> Iterator[Entry]:
    for i in (0, 1):
        yield from norm(f"{name}.norm{i}", block.norms[i])
        yield from conv(f"{name}.conv{i}", block.convs[i])
    yield from linear(f"{name}.affine", block.modulation)
    if block.shortcut is not None:
        yield from pointwise(f"{name}.skip", block.shortcut)
    if block.resample is not None:
        yield _filter(f"{name}.conv0", block.resample)
        yield _filter(f"{name}.skip", block.resample)
    if block.attention is not None:
        yield from norm(f"{name}.norm2", block.attention_norm)
        yield from _attention(name, block.attention)


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
    yield from pointwise(f"{name}.proj", layer.out)


def _filter(name: str, resample: Resample) -> Entry:
    taps = np.asarray(resample.taps, np.float32)
    square = np.outer(taps, taps)[None, None] / taps.sum() ** 2
    return Entry(f"{name}.resample_filter", None, same, same, square)
