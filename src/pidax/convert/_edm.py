r"""A published EDM checkpoint as a teacher: a denoiser with its process.

The configuration of a checkpoint is the preconditioner's class name and its arguments.
Together with the state dict it determines the network, its coefficients and the process
that it was trained for:

| class | coefficients | process | predicts |
|---|---|---|---|
| `EDMPrecond` | `EDMCoefficients` | `EDM(0.002, 80, sigma_data)` | nearly the data |
| `VPPrecond` | `VPCoefficients` | `VP(t_min=1e-5)` | the noise |
| `VEPrecond` | `VECoefficients` | `VE(0.02, 100)` | the negative noise |
| `iDDPMPrecond` | `IDDPMCoefficients` | `EDM` from the least to the largest of its `u` | the noise |

In the state dict queries, keys and values alternate within a head; here each is ordered by
heads. Resampling filters are arrays there and settings here; they must agree.
"""  # noqa: E501

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from .._files import CheckpointError, FileName
from ..denoiser import (
    EDMCoefficients,
    IDDPMCoefficients,
    Preconditioned,
    VECoefficients,
    VPCoefficients,
)
from ..nn import Attention, DhariwalUNet, Fourier, Resample, SongUNet
from ..process import EDM, VE, VP, AbstractProcess
from ..student import Student
from ._reader import named, read_checkpoint
from ._state_dict import (
    Entry,
    State,
    conv,
    fill,
    linear,
    norm,
    pointwise,
    same,
    structure,
    vector,
    written,
)

_Network = TypeVar("_Network", SongUNet, DhariwalUNet)
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
# Settings that do not change the function: of training and computing.
_UNUSED = ("augment_dim", "label_dropout", "use_fp16", "sigma_min", "sigma_max")
_OWN = {
    "EDMPrecond": ("sigma_data",),
    "VPPrecond": ("beta_d", "beta_min", "M", "epsilon_t"),
    "VEPrecond": (),
    "iDDPMPrecond": ("C_1", "C_2", "M"),
}
_DEFAULT_NETWORK = {"VPPrecond": "SongUNet", "VEPrecond": "SongUNet"}
_PREFIX = "model."
# Default arguments of a preconditioner are in its attributes only.
_NUMBERS = ("sigma_data", "beta_d", "beta_min", "M", "epsilon_t", "C_1", "C_2")


def load_edm(
    path: FileName, *, configuration: Configuration | None = None
) -> Preconditioned:
    """A teacher from a checkpoint of EDM, without torch and without executing the
    file.

    An EDM pickle, or a file made from one by `python -m pidax.convert convert`,
    contains its configuration. For a state dict pass it as `configuration`: the
    arguments of the preconditioner, `img_resolution`, `img_channels`, `model_type` and
    so on, and its `class_name` if it is not EDMPrecond.

    The result has its `process`, its `classes` and its `shape`, one image with channels
    last: `ProbabilityFlow(teacher, teacher.process)` is its ODE. Weights of an
    augmentation are kept; calls without `augment` do not use them. Karras et al. 2022.
    """
    checkpoint = read_checkpoint(path)
    given = dict(configuration or {})
    if configuration is None:
        made = checkpoint.configuration
        if "init_kwargs" not in made:
            raise CheckpointError(
                f"{path}: expected a file that says how its network was made, got "
                f"{checkpoint.format} with arrays alone. Pass configuration= with the "
                "arguments of the preconditioner: img_resolution, img_channels, "
                "model_type, model_channels, channel_mult, ..."
            )
        numbers = {k: v for k, v in made.get("attributes", {}).items() if k in _NUMBERS}
        given = {**numbers, **made["init_kwargs"], "class_name": made["class_name"]}
    return named(path, lambda: teacher_from(given, checkpoint.state))


def load_pid(
    path: FileName, configuration: Configuration, process: AbstractProcess | None = None
) -> Student:
    """A student from a checkpoint of PID's authors, `ema_*.pt` or `model*.pt`.

    `configuration` is the configuration of its teacher,
    `read_checkpoint(teacher).configuration["init_kwargs"]`; `process` is the teacher's,
    by default `EDM()`. The output is the network's own, as in `Student(network,
    process)`.
    """
    checkpoint = read_checkpoint(path)
    network = named(path, lambda: network_from(configuration, checkpoint.state))
    size, channels = configuration["img_resolution"], configuration["img_channels"]
    process = EDM() if process is None else process
    return Student(network, process, shape=(size, size, channels))


def teacher_from(configuration: Configuration, state: State) -> Preconditioned:
    """The teacher of a checkpoint, with its process and its number of classes.

    - `configuration`: the arguments of the preconditioner, and its `"class_name"`, by
      default `"EDMPrecond"`.
    - `state`: the arrays by name, with or without the prefix `model.`; the weights
      `map_augment` of the augmentation may be missing.

    Unknown settings, and arrays that are missing, unknown or of another shape, are
    errors. Images have their channels last.
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
        raise ValueError(
            f"model_type must be one of {list(kinds)}, got {name!r}. Other networks "
            "are wrapped with pidax.from_function and its siblings."
        )
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
    """The last part of the dotted name of the preconditioner's class."""
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


def from_state(network: _Network, state: State) -> _Network:
    """A copy of the network with the arrays of EDM's state dict.

    All names must be present with their shapes, and no others. Arrays are converted to
    the dtypes of the network.
    """
    return fill(network, state, edm_naming)


def to_state(network: SongUNet | DhariwalUNet) -> dict[str, np.ndarray]:
    """The network's state dict: the inverse of `from_state`."""
    return written(network, edm_naming)


def edm_naming(network: SongUNet | DhariwalUNet) -> list[Entry]:
    """Every array of a network's state dict, in any order."""
    return list(_network(network))


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
