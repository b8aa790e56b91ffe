"""OpenAI's checkpoints of "Consistency models" (Song et al. 2023): state dicts of ADM.

`edm_*_ema.pt` are diffusion models, teachers; `cd_*.pt` and `ct_*.pt` consistency
models, which answer with a sample in one evaluation. The files hold arrays alone, so
how the network was made is given: by default as for ImageNet at 64 by 64.
"""

from typing import Any

from ..denoiser import ConsistencyCoefficients, EDMCoefficients, Preconditioned
from ..nn import DhariwalUNet
from ..process import EDM
from ._checkpoint import read_checkpoint
from ._entries import State, from_state, structure
from ._error import named
from ._openai_names import openai_naming
from ._safetensors import FileName

THOUSANDS = EDMCoefficients(slope=250.0)
GROUPS = 32  # of every normalisation there; here at least four channels in each
LEAST = 4 * GROUPS


def load_openai(
    path: FileName, *, flash: bool = True, **network: Any
) -> Preconditioned:
    """A teacher from `edm_imagenet64_ema.pt` or another such file of OpenAI's.

    `network` are arguments of `nn.DhariwalUNet`, where they are not those of ImageNet
    at 64 by 64: `resolution=64, width=192, multipliers=(1, 2, 3, 4), blocks=3,
    attention=(32, 16, 8), classes=1000`. `flash=False` is the order of attention's rows
    in networks that were trained without flash attention.
    """
    return Preconditioned(_loaded(path, flash, network), EDM(), THOUSANDS)


def load_consistency(
    path: FileName, *, flash: bool = True, **network: Any
) -> Preconditioned:
    """A consistency model from `cd_imagenet64_l2.pt` or another such file of OpenAI's.

    `f = load_consistency(path)` is the function $f(x, \\sigma)$: `f(z, 80.0,
    condition=label)` is a sample in one evaluation, `z` a draw of `EDM().prior`. It is
    no posterior mean: there is no flow to solve. `network` as in `load_openai`.
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
    return from_state(network, state, openai_naming(flash))


def _norms(network: DhariwalUNet) -> list[Any]:
    encoder = [b for level in network.encoder.levels for b in level.blocks]
    decoder = [b for level in network.decoder.levels for b in level.blocks]
    return [norm for block in (*encoder, *decoder) for norm in block.norms]
