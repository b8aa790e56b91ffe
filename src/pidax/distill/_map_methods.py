"""Published distillations of flow maps, by name.

Each function makes a `MapDistillation` and says what it costs for a draw, in passes of
the student and calls of the teacher, and where it differs from its paper. `fit` without
data trains each on the student's own states, which no paper but PID's and FreeFlow's
does. Other keyword arguments of `MapDistillation` are passed on.

| function | rule | start | end | derivative | teacher |
|---|---|---|---|---|---|
| `ConsistencyDistillation` | semigroup, the teacher first | grid | `t_min` | no | 2 |
| `ConsistencyTraining` | the same, data for the teacher | grid | `t_min` | no | 0 |
| `ContinuousConsistency` (sCM) | Eulerian, normalised | any | `t_min` | yes | 1 |
| `ConsistencyTrajectory` (CTM) | semigroup, the teacher first | grid | any | no | 2 |
| `Shortcut` | semigroup | any | any | no | 1, at equal times |
| `MeanFlow` | Eulerian | any | any | yes | 1 |
| `AlignYourFlow` | Eulerian, normalised | any | any | yes | 1 |
| `LagrangianMap` | Lagrangian | any | any | yes | 1 |
| `FreeFlow`, `BOOT` | Lagrangian, derivative held | `t_max` | any | yes | 1 |
"""

from typing import Any

from .._checks import whole_number
from ..flow import ProbabilityFlow
from ..process import karras
from ..types import WholeLike
from ._denoising import LogNormal
from ._losses import Adaptive, PseudoHuber
from ._map_rules import Eulerian, Lagrangian, Semigroup
from ._maps import MapDistillation

_CONSISTENCY = 18  # steps of the grid, of consistency distillation on CIFAR-10
_FIRST, _LAST = 10, 1280  # steps of improved consistency training
_SLOW = 0.95


def ConsistencyDistillation(
    flow: ProbabilityFlow, steps: WholeLike = _CONSISTENCY, **options: Any
) -> MapDistillation:
    """Neighbours on a trajectory have the same sample: Song et al. 2023, "Consistency
    models".

    One step of Heun's method (here in the angle) from each of `steps` times, and the
    sample of a slow copy from there, as states. Two passes of the student, two calls of
    the teacher. The paper's distance is LPIPS for images, its decay 0.95 or more.
    """
    steps = whole_number("steps", steps, least=2)
    rule = Semigroup(
        "denoiser", heun=True, grid=karras(steps + 1, flow.process), to_end=True
    )
    return MapDistillation(flow, rule, **{"form": "state", "slow": _SLOW, **options})


def ConsistencyTraining(
    flow: ProbabilityFlow,
    steps: WholeLike = _LAST,
    start_steps: WholeLike = _FIRST,
    **options: Any,
) -> MapDistillation:
    """A consistency model from data alone: Song and Dhariwal 2024, "Improved techniques
    for training consistency models".

    Of `flow` the process is used. Both states have the same noise, without a slow copy;
    the grid doubles from `start_steps` to `steps` steps in the course of the run. Two
    passes of the student.
    """
    steps = whole_number("steps", steps, least=2)
    rule = Semigroup(
        "denoiser",
        grid=karras(steps + 1, flow.process),
        start_steps=start_steps,
        to_end=True,
    )
    made = {"answers": "data", "form": "state", "distance": PseudoHuber(0.00054)}
    return MapDistillation(flow, rule, **{**made, **options})


def ContinuousConsistency(flow: ProbabilityFlow, **options: Any) -> MapDistillation:
    """sCM: Lu and Song 2025, "Simplifying, stabilizing and scaling continuous-time
    consistency models".

    The residual normalised with c = 0.1 and log-normal starts, as published. Their
    learned weight of each time and the warm-up of the tangent are left out. Two passes,
    one with a derivative, and one call of the teacher.
    """
    rule = Eulerian(normalise=0.1, to_end=True)
    made = {"law": LogNormal(-0.5, 1.5)}
    return MapDistillation(flow, rule, **{**made, **options})


def ConsistencyTrajectory(
    flow: ProbabilityFlow, steps: WholeLike = _CONSISTENCY, **options: Any
) -> MapDistillation:
    """CTM: Kim et al. 2024, "Consistency trajectory models".

    A step of the teacher (Heun's, between neighbours of the grid) and the map of a slow
    copy from there to any later time. Their comparison at `t_min`, several steps of
    the teacher and adversarial loss are left out: the maps are compared at $t$ itself.
    """
    steps = whole_number("steps", steps, least=2)
    rule = Semigroup("denoiser", heun=True, grid=karras(steps + 1, flow.process))
    return MapDistillation(flow, rule, **{"slow": _SLOW, **options})


def Shortcut(flow: ProbabilityFlow, **options: Any) -> MapDistillation:
    """Two short maps are one long: Frans et al. 2025, "One step diffusion via shortcut
    models"; the "progressive" self-distillation of Boffi et al. 2025.

    The meeting time is any, not the middle of a power of two. A quarter of the draws
    have equal times, where the map is the denoiser, as published. Three passes of the
    student, and one call of the teacher.
    """
    return MapDistillation(flow, Semigroup("map"), **options)


def MeanFlow(
    flow: ProbabilityFlow, *, improved: bool = False, **options: Any
) -> MapDistillation:
    """The mean velocity by its Eulerian equation: Geng et al. 2025, "Mean flows for
    one-step generative modeling".

    Published for data, `answers="data"`, with three quarters of the draws on the
    diagonal; a teacher needs none there. `improved=True` takes the
    student's own direction, as their "Improved mean flows".
    """
    made: dict[str, Any] = {"distance": Adaptive()}
    if options.get("answers") == "data":
        made["diagonal"] = 0.5 if improved else 0.75
    rule = Eulerian(own=improved)
    return MapDistillation(flow, rule, **{**made, **options})


def AlignYourFlow(flow: ProbabilityFlow, **options: Any) -> MapDistillation:
    """The normalised Eulerian loss: Sabour, Fidler and Kreis 2025, "Align your flow:
    scaling continuous-time flow map distillation".

    Without their guided teacher, adversarial fine-tuning and warm-up of the derivative.
    """
    return MapDistillation(flow, Eulerian(normalise=0.1), **options)


def LagrangianMap(flow: ProbabilityFlow, **options: Any) -> MapDistillation:
    """The residual of the end, from any state: Boffi et al. 2024, "Flow map matching".

    From `t_max` alone, `whole=1`, it is `PID` with the derivative of the network.
    """
    return MapDistillation(flow, Lagrangian(), **options)


def BOOT(flow: ProbabilityFlow, **options: Any) -> MapDistillation:
    """Bootstrapping: Gu et al. 2023, "BOOT: data-free distillation of denoising
    diffusion models with bootstrapping".

    PID's residual with no gradient through the derivative, which their difference of
    two times tends to. The boundary is the student's own. No data.
    """
    return MapDistillation(flow, Lagrangian(hold=True), **{"whole": 1.0, **options})


def FreeFlow(flow: ProbabilityFlow, **options: Any) -> MapDistillation:
    """The predictor of FreeFlow: Tong et al. 2025, "Flow map distillation without
    data".

    `BOOT` with each draw's loss divided by its own size. Their corrector is
    `Corrector(flow)`, to be added by `Sum`. No data.
    """
    made = {"whole": 1.0, "distance": Adaptive()}
    return MapDistillation(flow, Lagrangian(hold=True), **{**made, **options})
