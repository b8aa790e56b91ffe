"""OpenAI's checkpoints of "Consistency models" (Song et al. 2023): state dicts of ADM.

`edm_*_ema.pt` are diffusion models, teachers; `cd_*.pt` and `ct_*.pt` consistency
models, which return a sample in one evaluation. The files contain arrays only, so pass
the network's arguments; the default is the network for ImageNet at 64 by 64.

The blocks are numbered through, down (`input_blocks`) and up (`output_blocks`); a block
of the way up that is the last of its level also holds the one that doubles the image.
Queries, keys and values are each by heads there, as here (`flash`), or each head's
three together (guided diffusion's older order).
"""

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from .._files import FileName
from ..denoiser import ConsistencyCoefficients, EDMCoefficients, Preconditioned
from ..nn import DhariwalUNet
from ..process import EDM
from ._reader import named, read_checkpoint
from ._state_dict import (
    Entry,
    Naming,
    State,
    Turn,
    conv,
    fill,
    linear,
    norm,
    pointwise,
    same,
    structure,
)

THOUSANDS = EDMCoefficients(slope=250.0)
GROUPS = 32  # of every normalisation there; here at least four channels in each
LEAST = 4 * GROUPS


def load_openai(
    path: FileName, *, flash: bool = True, **network: Any
) -> Preconditioned:
    """A teacher from `edm_imagenet64_ema.pt` or another such file of OpenAI.

    `network` are arguments of `nn.DhariwalUNet` that differ from those for ImageNet at
    64 by 64: `resolution=64, width=192, multipliers=(1, 2, 3, 4), blocks=3,
    attention=(32, 16, 8), classes=1000`. `flash=False` is the row order of attention in
    networks that were trained without flash attention.
    """
    return Preconditioned(_loaded(path, flash, network), EDM(), THOUSANDS)


def load_consistency(
    path: FileName, *, flash: bool = True, **network: Any
) -> Preconditioned:
    r"""A consistency model from `cd_imagenet64_l2.pt` or another such file of OpenAI.

    `f = load_consistency(path)` is the function $f(x, \sigma)$. `f(z, 80.0,
    condition=label)` is a sample in one evaluation, for a draw `z` of `EDM().prior`. It
    is not a posterior mean, so it has no flow to solve. `network` as in `load_openai`.
    Song et al. 2023.
    """
    found = _loaded(path, flash, network)
    return Preconditioned(found, EDM(), ConsistencyCoefficients())


def _loaded(path: FileName, flash: bool, options: dict[str, Any]) -> DhariwalUNet:
    state = read_checkpoint(path).state
    return named(path, lambda: openai_network(state, flash=flash, **options))


def openai_network(
    state: State, *, flash: bool = True, channels: int = 3, **options: Any
) -> DhariwalUNet:
    """The network alone, from OpenAI's state dict."""
    chosen = {"resolution": 64, "classes": 1000, "dropout": 0.0, **options}
    network = structure(DhariwalUNet, channels, channels, **chosen)
    least = min(norm.gain.shape[0] for norm in _norms(network))
    if least < LEAST:
        raise ValueError(
            f"OpenAI's networks normalise {GROUPS} groups of channels, which agrees "
            f"with nn.DhariwalUNet from {LEAST} channels on, got {least} in a layer. "
            f"Their own have 192; give the width that the file was made with."
        )
    return fill(network, state, openai_naming(flash))


def _norms(network: DhariwalUNet) -> list[Any]:
    encoder = [b for level in network.encoder.levels for b in level.blocks]
    decoder = [b for level in network.decoder.levels for b in level.blocks]
    return [norm for block in (*encoder, *decoder) for norm in block.norms]


def openai_naming(flash: bool = True) -> Naming:
    """The naming of a `DhariwalUNet`, with one of two orders of attention's rows."""
    return lambda network: list(_network(network, flash))


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


def _block(name: str, block: Any, flash: bool) -> Generator[Entry, None, int]:
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
