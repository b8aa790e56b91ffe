"""From a file to what it is for: a teacher, a student, a distance."""

from collections.abc import Mapping
from typing import Any

from ..denoiser import Preconditioned
from ..metrics import LPIPS
from ..process import EDM, AbstractProcess
from ..student import Student
from ._checkpoint import Checkpoint, read_checkpoint
from ._edm import network_from, teacher_from
from ._error import CheckpointError, named
from ._lpips import lpips_from
from ._safetensors import FileName

Configuration = Mapping[str, Any]
# What a preconditioner was made with by default is in its attributes alone.
_NUMBERS = ("sigma_data", "beta_d", "beta_min", "M", "epsilon_t", "C_1", "C_2")


def load_edm(
    path: FileName, *, configuration: Configuration | None = None
) -> Preconditioned:
    """A teacher from a checkpoint of EDM: no torch, and nothing in it is executed.

    An EDM pickle, or what `python -m pidax.convert convert` made of one, says itself
    how its network was made. For a state dict pass that as `configuration`: the
    arguments of the preconditioner, `img_resolution`, `img_channels`, `model_type` and
    so on, and its `class_name` if it is not EDMPrecond.

    It knows its `process`, its `classes` and its `shape`, that of one image, channels
    last: `ProbabilityFlow(teacher, teacher.process)` is its ODE. Weights of an
    augmentation are kept: calls without `augment` do not use them.
    """
    checkpoint = read_checkpoint(path)
    given = _configured(path, checkpoint, configuration)
    return named(path, lambda: teacher_from(given, checkpoint.state))


def load_pid(
    path: FileName, configuration: Configuration, process: AbstractProcess | None = None
) -> Student:
    """A student from a checkpoint of PID's authors, `ema_*.pt` or `model*.pt`.

    `configuration` is that of the teacher it was distilled from,
    `read_checkpoint(teacher).configuration["init_kwargs"]`; `process` the teacher's, by
    default `EDM()`. Its output is the network's own, as in `Student(network, process)`.
    """
    checkpoint = read_checkpoint(path)
    network = named(path, lambda: network_from(configuration, checkpoint.state))
    size, channels = configuration["img_resolution"], configuration["img_channels"]
    process = EDM() if process is None else process
    return Student(network, process, shape=(size, size, channels))


def load_lpips(
    convolutions: FileName,
    linear: FileName,
    *,
    pooling: str = "average",
    size: int | None = 224,
) -> LPIPS:
    """The perceptual distance from your files of its two halves.

    `convolutions` is torchvision's VGG16 (`vgg16-397923af.pth`), `linear` the weights
    that the `lpips` package fitted to it (`vgg.pth`, version 0.1). By default as Tee et
    al. 2024 use it; `pooling="max", size=None` is the original.
    """
    states = [read_checkpoint(path).state for path in (convolutions, linear)]
    return named(linear, lambda: lpips_from(*states, pooling=pooling, size=size))


def _configured(
    path: FileName, checkpoint: Checkpoint, given: Configuration | None
) -> dict[str, Any]:
    """The arguments of the preconditioner, from the file unless they are given."""
    if given is not None:
        return dict(given)
    made = checkpoint.configuration
    if "init_kwargs" not in made:
        raise CheckpointError(
            f"{path}: expected a file that says how its network was made, got "
            f"{checkpoint.format} with arrays alone. Pass configuration= with the "
            "arguments of the preconditioner: img_resolution, img_channels, "
            "model_type, model_channels, channel_mult, ..."
        )
    numbers = {k: v for k, v in made.get("attributes", {}).items() if k in _NUMBERS}
    return {**numbers, **made["init_kwargs"], "class_name": made["class_name"]}
