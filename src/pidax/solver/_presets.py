"""The published multistep samplers, by name.

Each function makes a `Multistep` and says where the published method differs from the
exact integral of its polynomial. All take one evaluation a step. Other keyword
arguments of `Multistep`, such as `orders` and `lower_order_final`, are passed on.

| function | target, variable | orders | differs from the exact rule |
|---|---|---|---|
| `DDIM` | data, - | 1 | - |
| `DPMSolver` | noise, log_snr | 2, 3 | half a slope at order 2 |
| `DPMSolverPP` | data, log_snr | 2, 3 | half a slope at order 2 |
| `DPMSolverPP3MCode` | data, log_snr | 2 | half of the quadratic term |
| `UniPC` | data or noise, log_snr | 1 to 3, corrected | half a slope with two nodes |
| `DEIStAB` | noise, time | up to 4 | - |
| `DEISrhoAB`, `LMS` | noise, noise_ratio | up to 4 | - |
| `IPNDM` | noise, index | 4 | steps taken as even |
| `GHVB` | noise, index | 1 to 4 | as `IPNDM`, with momentum |
| `Adams` | velocity, angle | any, corrected | - |
| `Ancestral` | data, - | 1, with noise | - |
| `SDEDPMSolverPP` | data, log_snr | 2, 3, with noise | half a slope at order 2 |
| `SASolver` | data, log_snr | any, with noise | - |
"""

from typing import Any, Literal

from .._checks import require, whole_number
from ..types import Key, ScalarLike
from ._charts import Target
from ._multistep import Multistep
from ._weight_rules import (
    AbstractRule,
    HalfCurvature,
    HalfSlope,
    Interpolating,
    Momentum,
)

_FEW = 10  # steps below which DPM-Solver ends with low orders


def DDIM(**options: Any) -> Multistep:
    """Hold the denoised sample: order 1. Song, Meng and Ermon 2021, with eta = 0.

    The same step is DPM-Solver-1, UniP-1, and Euler's method in `UnitSignalClock` and
    `UnitNoiseClock`. On a Gaussian it multiplies by the product of the cosines of the
    steps of the angle; the exact factor is one.
    """
    return Multistep(1, "data", "log_snr", **options)


def DPMSolver(order: int = 2, **options: Any) -> Multistep:
    """DPM-Solver with a history: Lu et al. 2022, "DPM-Solver: a fast ODE solver for
    diffusion probabilistic model sampling in around 10 steps", in their multistep form.

    Order 2 takes half a slope; order 3 is exact. Below 10 steps the last ones have low
    orders. For its single steps see `ExponentialRK`.
    """
    return _of_logsnr(order, "noise", options)


def DPMSolverPP(order: int = 2, **options: Any) -> Multistep:
    """DPM-Solver++ 2M and 3M: Lu et al. 2022, "DPM-Solver++: fast solver for guided
    sampling of diffusion probabilistic models".

    2M takes half a slope. 3M is the paper's integral of a parabola, of third order; the
    published code, which is of second order, is `DPMSolverPP3MCode`. Below 10 steps the
    last ones have low orders.
    """
    return _of_logsnr(order, "data", options)


def DPMSolverPP3MCode(**options: Any) -> Multistep:
    """DPM-Solver++ 3M as its authors' and other public code has it: of second order.

    The quadratic term lacks a factor two. To reproduce published numbers only.
    """
    rule = HalfCurvature(HalfSlope("bh2"))
    return Multistep(3, "data", "log_snr", rule=rule, **_low_end(options))


def UniPC(
    order: int = 2,
    kind: Literal["bh1", "bh2", "exact"] = "bh2",
    target: Target = "data",
    **options: Any,
) -> Multistep:
    """UniPC: Zhao et al. 2023, "UniPC: a unified predictor-corrector framework for fast
    sampling of diffusion models".

    The coefficient of a straight line (the predictor of order 2, the corrector of order
    1) is half of B(h). With more nodes B cancels. `"exact"` is the variant with varying
    coefficients. The last steps always have low orders, and the last is not corrected.
    """
    rule = Interpolating() if kind == "exact" else HalfSlope(kind)
    options = {"lower_order_final": True, **options}
    return Multistep(order, target, "log_snr", corrector=True, rule=rule, **options)


def DEIStAB(order: int = 3, **options: Any) -> Multistep:
    """DEIS in the process's time: Zhang and Chen 2023, "Fast sampling of diffusion
    models with exponential integrator".

    Their tAB-k has order k + 1, with VP as the process. They integrate by 10,000
    rectangles, this exactly.
    """
    return Multistep(order, "noise", "time", **options)


def DEISrhoAB(order: int = 3, **options: Any) -> Multistep:
    r"""DEIS in $\sigma/\alpha$: Zhang and Chen 2023; their $\rho$AB-k has order k + 1.

    It is the Adams-Bashforth method for uneven steps in `UnitSignalClock`.
    """
    return Multistep(order, "noise", "noise_ratio", **options)


def LMS(order: int = 4, **options: Any) -> Multistep:
    """The linear multistep sampler of k-diffusion: `DEISrhoAB` of order 4."""
    return DEISrhoAB(order, **options)


def IPNDM(order: int = 4, **options: Any) -> Multistep:
    """iPNDM: Zhang and Chen 2023, from Liu et al. 2022, "Pseudo numerical methods for
    diffusion models on manifolds", without their Runge-Kutta start.

    The weights are right for even steps: 55, -59, 37, -9 over 24. On smooth uneven
    grids it is of second order. The variant for uneven steps is `LMS`.
    """
    return Multistep(order, "noise", "index", **options)


def GHVB(order: int = 4, momentum: ScalarLike = 0.8, **options: Any) -> Multistep:
    """Generalised heavy ball: Wizadwongsa et al. 2023, "Diffusion sampling with
    momentum for mitigating divergence artifacts".

    The history holds a running average with the share `momentum` of the new noise.
    `momentum=1` is `IPNDM`, order 1 the heavy ball.
    """
    rule = Momentum(float(momentum))
    return Multistep(order, "noise", "index", rule=rule, **options)


def Adams(order: int = 3, corrector: bool = True, **options: Any) -> Multistep:
    """Adams-Bashforth (with Moulton's corrector) of the velocity in the angle.

    For data of one scale it needs fewer evaluations than the samplers in log_snr.
    """
    return Multistep(order, "velocity", "angle", corrector, **options)


def Ancestral(*, key: Key, **options: Any) -> Multistep:
    """DDPM's sampler: Ho, Jain and Abbeel 2020. Each step draws from the posterior.

    It is order 1 with `noise=1`, of weak order 1.
    """
    return Multistep(1, "data", "log_snr", noise=1.0, key=key, **options)


def SDEDPMSolverPP(
    order: int = 2, *, key: Key, noise: Any = 1.0, **options: Any
) -> Multistep:
    """SDE-DPM-Solver++ 2M and 3M: Lu et al. 2022; k-diffusion.

    2M takes half a slope. 3M is the integral of a parabola; the public code halves its
    quadratic term: pass `rule=pidax.solver.HalfCurvature()` for it.
    """
    order = whole_number("order", order)
    rule: AbstractRule = HalfSlope("bh2") if order == 2 else Interpolating()
    options = {"rule": rule, **options}
    return Multistep(order, "data", "log_snr", noise=noise, key=key, **options)


def SASolver(
    order: int = 3,
    *,
    key: Key,
    noise: Any = 1.0,
    corrector: bool = True,
    interval: tuple[float, float] = (0.05, 50.0),
    **options: Any,
) -> Multistep:
    """SA-Solver: Xue et al. 2023, "SA-Solver: stochastic Adams solver for fast sampling
    of diffusion models".

    Noise is added for ratios sigma/alpha in `interval` only. The corrected step has one
    node more than the predicted one, with the same noise. Their variant for few steps
    alters the second-order predictor by terms of third order; this is the exact one.
    """
    given = {"noise": noise, "key": key, "interval": interval, **options}
    return Multistep(order, "data", "log_snr", corrector, **given)


def _of_logsnr(order: int, target: Target, options: dict[str, Any]) -> Multistep:
    order = whole_number("order", order)
    require(
        None,
        order <= 3,
        f"DPM-Solver has the orders 1, 2 and 3, got order={order}. For other orders "
        f"take Multistep({order}, {target!r}, 'log_snr').",
    )
    rule = HalfSlope("bh2")
    return Multistep(order, target, "log_snr", **{"rule": rule, **_low_end(options)})


def _low_end(options: dict[str, Any]) -> dict[str, Any]:
    return {"lower_order_final": _FEW, **options}
