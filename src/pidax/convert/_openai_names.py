"""OpenAI's names of the arrays of ADM, in their consistency models.

The blocks are numbered through, down (`input_blocks`) and up (`output_blocks`); a block
of the way up that is the last of its level also holds the one that doubles the image.
Queries, keys and values are each by heads there, as here (`flash`), or each head's
three together (guided diffusion's older order).
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..nn import DhariwalUNet
from ._entries import Entry, Naming, Turn, conv, linear, norm, pointwise, same


def openai_naming(flash: bool = True) -> Naming:
    """The naming of a `DhariwalUNet`, with one of two orders of attention's rows."""
    return functools.partial(_entries_of, flash)


def _entries_of(flash: bool, network: DhariwalUNet) -> list[Entry]:
    return list(_network(network, flash))


def _network(network: DhariwalUNet, flash: bool) -> Iterator[Entry]:
    embedding, encoder, decoder = network.embedding, network.encoder, network.decoder
    for i, layer in zip((0, 2), embedding.layers, strict=True):
        yield from linear(f"time_embed.{i}", layer)
    if embedding.label is not None:
        yield Entry("label_emb.weight", embedding.label.weight, same, same)
    yield from conv("input_blocks.0.0", encoder.stem)
    down = [b for level in encoder.levels for b in (level.down, *level.blocks)]
    for i, block in enumerate((b for b in down if b is not None), start=1):
        yield from _block(f"input_blocks.{i}", block, flash)
    coarsest = decoder.levels[-1]
    first, second = coarsest.into
    yield from _block("middle_block", first, flash)
    yield from _residual("middle_block.2", second)
    number, at, parts = 0, "", 0
    for depth in reversed(range(len(decoder.levels))):
        for block in decoder.levels[depth].blocks:
            at, number = f"output_blocks.{number}", number + 1
            parts = yield from _block(at, block, flash)
        if depth:
            (up,) = decoder.levels[depth - 1].into
            yield from _residual(f"{at}.{parts}", up)
    finest: Any = decoder.levels[0]
    yield from norm("out.0", finest.norm)
    yield from conv("out.2", finest.out)


def _block(name: str, block: Any, flash: bool) -> Iterator[Entry]:
    """A residual block and its attention; how many parts they are there."""
    yield from _residual(f"{name}.0", block)
    if block.attention is None:
        return 1
    yield from norm(f"{name}.1.norm", block.attention_norm)
    yield from _qkv(f"{name}.1.qkv", block.attention, flash)
    yield from pointwise(f"{name}.1.proj_out", block.attention.out)
    return 2


def _residual(name: str, block: Any) -> Iterator[Entry]:
    yield from norm(f"{name}.in_layers.0", block.norms[0])
    yield from conv(f"{name}.in_layers.2", block.convs[0])
    yield from linear(f"{name}.emb_layers.1", block.modulation)
    yield from norm(f"{name}.out_layers.0", block.norms[1])
    yield from conv(f"{name}.out_layers.3", block.convs[1])
    if block.shortcut is not None:
        yield from pointwise(f"{name}.skip_connection", block.shortcut)


def _qkv(name: str, layer: Any, flash: bool) -> Iterator[Entry]:
    heads = layer.heads

    def there(a: np.ndarray) -> np.ndarray:  # outputs first: 3, heads, d
        split = a.reshape(3, heads, -1, *a.shape[1:])
        return (split if flash else split.swapaxes(0, 1)).reshape(a.shape)

    def here(a: np.ndarray) -> np.ndarray:
        if flash:
            return a
        split = a.reshape(heads, 3, -1, *a.shape[1:])
        return split.swapaxes(0, 1).reshape(a.shape)

    out: Turn = lambda a: there(a.T)[:, :, None, None]
    back: Turn = lambda a: here(a[:, :, 0, 0]).T
    yield Entry(f"{name}.weight", layer.qkv.weight, out, back)
    if layer.qkv.bias is not None:
        yield Entry(f"{name}.bias", layer.qkv.bias, there, here)
