r"""A published EDM checkpoint as a teacher: a denoiser that knows its process.

A configuration is what the checkpoint says of itself: the preconditioner's class name
and the arguments it was made with. Together with the state dict it gives the network,
its coefficients and the process it was trained for:

| class | coefficients | process | predicts |
|---|---|---|---|
| `EDMPrecond` | `EDMCoefficients` | `EDM(0.002, 80, sigma_data)` | nearly the data |
| `VPPrecond` | `VPCoefficients` | `VP(t_min=1e-5)` | the noise |
| `VEPrecond` | `VECoefficients` | `VE(0.02, 100)` | the negative noise |
| `iDDPMPrecond` | `IDDPMCoefficients` | `EDM` from the least to the largest of its `u` | the noise |
"""  # noqa: E501

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..denoiser import (
    EDMCoefficients,
    IDDPMCoefficients,
    Preconditioned,
    VECoefficients,
    VPCoefficients,
)
from ..nn import DhariwalUNet, SongUNet
from ..process import EDM, VE, VP, AbstractProcess
from ._edm_names import from_state
from ._entries import State, structure

Configuration = Mapping[str, Any]
# The arguments of both networks, there and here.
_SHARED = {
    "model_channels": "width",
    "channel_mult": "multipliers",
    "num_blocks": "blocks",
    "attn_resolutions": "attention",
    "dropout": "dropout",
    "channel_mult_emb": "embedding_multiplier",
}
_SONG = {
    **_SHARED,
    "embedding_type": "features",
    "channel_mult_noise": "noise_multiplier",
    "encoder_type": "encoder",
    "decoder_type": "decoder",
    "resample_filter": "taps",
}
_LISTS = ("multipliers", "attention", "taps")
_COMMON = ("class_name", "img_resolution", "img_channels", "label_dim", "model_type")
# What says nothing about the function: how it was trained, how it was computed.
_UNUSED = ("augment_dim", "label_dropout", "use_fp16", "sigma_min", "sigma_max")
_OWN = {
    "EDMPrecond": ("sigma_data",),
    "VPPrecond": ("beta_d", "beta_min", "M", "epsilon_t"),
    "VEPrecond": (),
    "iDDPMPrecond": ("C_1", "C_2", "M"),
}
_DEFAULT_NETWORK = {"VPPrecond": "SongUNet", "VEPrecond": "SongUNet"}
_PREFIX = "model."


def teacher_from(configuration: Configuration, state: State) -> Preconditioned:
    """The teacher of a checkpoint, with its process and its number of classes.

    - `configuration`: the arguments the preconditioner was made with, and its
      `"class_name"`, without which it is `"EDMPrecond"`.
    - `state`: the arrays by name, with or without the prefix `model.`; the weights
      `map_augment` of the augmentation may be left out.

    A setting that is unknown, an array that is missing, unknown or of another shape is
    an error. Images are channels last here.
    """
    kind = _kind(configuration)
    own = {name: array for name, array in state.items() if name == "u"}
    rest = {name: array for name, array in state.items() if name != "u"}
    network = network_from(configuration, rest)
    coefficients, process = _preconditioner(kind, configuration, own)
    return Preconditioned(network, process, coefficients)


def network_from(configuration: Configuration, state: State) -> SongUNet | DhariwalUNet:
    """The network alone, from a state dict with or without the prefix `model.`."""
    if state and all(name.startswith(_PREFIX) for name in state):
        state = {name.removeprefix(_PREFIX): array for name, array in state.items()}
    kind = _kind(configuration)
    name = configuration.get("model_type", _DEFAULT_NETWORK.get(kind, "DhariwalUNet"))
    kinds = {"SongUNet": (SongUNet, _SONG), "DhariwalUNet": (DhariwalUNet, _SHARED)}
    if name not in kinds:
        raise ValueError(f"model_type must be one of {list(kinds)}, got {name!r}.")
    make, settings = kinds[name]
    known = (*_COMMON, *_UNUSED, *_OWN[kind], *settings)
    unknown = [setting for setting in configuration if setting not in known]
    if unknown:
        raise ValueError(
            f"expected settings of {kind} and {name}, got also {', '.join(unknown)}. "
            "A setting that is not understood may change the function: remove it only "
            "if you know that it does not."
        )
    options = {
        ours: tuple(configuration[theirs]) if ours in _LISTS else configuration[theirs]
        for theirs, ours in settings.items()
        if theirs in configuration
    }
    augments = configuration.get("augment_dim", 0)
    if not any(part.startswith("map_augment.") for part in state):
        augments = 0  # left out of a checkpoint of a student
    channels = configuration["img_channels"]
    outputs = 2 * channels if kind == "iDDPMPrecond" else channels
    network = structure(
        make,
        channels,
        outputs,
        resolution=configuration["img_resolution"],
        classes=configuration.get("label_dim", 0) or None,
        augments=augments or None,
        **options,
    )
    return from_state(network, state)


def _kind(configuration: Configuration) -> str:
    """The preconditioner's class, of whose dotted name the last part counts."""
    given = str(configuration.get("class_name", "EDMPrecond"))
    kind = given.rpartition(".")[2]
    if kind not in _OWN:
        raise ValueError(
            f"class_name must be one of {', '.join(_OWN)}, got {given!r}. Other models "
            "are wrapped with pidax.from_function and its siblings."
        )
    return kind


def _preconditioner(
    kind: str, configuration: Configuration, own: dict[str, Any]
) -> tuple[Any, AbstractProcess]:
    if own and kind != "iDDPMPrecond":
        raise ValueError(
            f"a table `u` of noise levels belongs to iDDPMPrecond, got it with {kind}. "
            "Correct the class_name of the configuration."
        )
    return _PRECONDITIONERS[kind](configuration, own)


def _edm(configuration: Configuration, own: dict[str, Any]) -> tuple[Any, Any]:
    process = EDM()
    if "sigma_data" in configuration:
        process = EDM(sigma_data=float(configuration["sigma_data"]))
    return EDMCoefficients(), process


def _vp(configuration: Configuration, own: dict[str, Any]) -> tuple[Any, Any]:
    given = {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5}
    given.update((k, v) for k, v in configuration.items() if k in given)
    least = float(given["beta_min"])
    process = VP(
        t_min=float(given["epsilon_t"]),
        beta_min=least,
        beta_max=least + float(given["beta_d"]),
    )
    return VPCoefficients(steps=float(given["M"] - 1)), process


def _ve(configuration: Configuration, own: dict[str, Any]) -> tuple[Any, Any]:
    return VECoefficients(), VE()


def _iddpm(configuration: Configuration, own: dict[str, Any]) -> tuple[Any, Any]:
    if "u" not in own:
        raise ValueError(
            "iDDPMPrecond has a table `u` of its noise levels, got a state dict "
            "without it. Read the whole checkpoint, not the network's part alone."
        )
    levels = tuple(float(level) for level in np.asarray(own["u"]))
    return IDDPMCoefficients(levels), EDM(levels[-2], levels[0])


_PRECONDITIONERS: dict[str, Callable[..., tuple[Any, AbstractProcess]]] = {
    "EDMPrecond": _edm,
    "VPPrecond": _vp,
    "VEPrecond": _ve,
    "iDDPMPrecond": _iddpm,
}
