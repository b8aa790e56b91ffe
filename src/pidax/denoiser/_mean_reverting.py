r"""Models of a process that ends at a given mean instead of zero.

Restoration models (RDDM, IR-SDE and others) noise a clean sample towards a known
degraded one, $\mu$:

$$ x_t = \alpha(t)\, x_0 + (1 - \alpha(t))\, \mu + \sigma(t)\, \epsilon. $$

In the variable $x_t - (1 - \alpha)\mu$ this is the Gaussian process without $\mu$. So
the probability-flow ODE, all solvers and all students work unchanged, and only the
model is called at another point (Liu et al. 2024, "Residual denoising diffusion
models"; Li et al. 2025, "MR Sampler").
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ..process import AbstractProcess
from ..types import Condition, Shape
from ._wrapped import Prediction, Wrapped, check_model


def the_condition(condition: Condition) -> Any:
    """The condition is the mean."""
    return condition


def from_mean_reverting(
    model: Callable[..., Array],
    process: AbstractProcess,
    *,
    prediction: Prediction = "noise",
    mean: Callable[[Condition], Any] = the_condition,
    shape: Shape | None = None,
) -> Wrapped:
    r"""Wrap a model of $x_t = \alpha x_0 + (1 - \alpha)\mu + \sigma\epsilon$ with a
    given $\mu$.

    The states of the resulting flow are $x_t - (1 - \alpha(t))\mu$: a solve starts from
    a draw of `process.prior` and ends at the clean sample, up to
    $(1 - \alpha(t_{min}))\mu$, which is zero to rounding for the usual processes. One
    call costs one evaluation.

    **Arguments:**

    - `model`: `model(x, t, condition)` of a sample and a time of this process.
    - `process`: $\alpha$ and $\sigma$ of the model. Where $\alpha$ is one (EDM, VE) the
      mean has no effect.
    - `prediction`: what the model predicts: `"noise"`, `"data"`, `"score"` (of $x_t$),
      or `"velocity"`, which is $\dot\alpha x_0 + \dot\sigma\epsilon$ without the term
      $-\dot\alpha\mu$.
    - `mean`: the mean in the condition of a solve; by default the condition is the
      mean. `mean=lambda c: c["image"]` takes it from a larger condition.
    - `shape`: the shape of one sample; needed only to draw from the prior.
    """
    check_model("from_mean_reverting", model, process)

    def moved(x: Array, t: Array, condition: Condition = None) -> Array:
        centre = None if condition is None else mean(condition)
        found = None if centre is None else jnp.shape(centre)
        if centre is None or found not in ((), x.shape):
            raise ValueError(
                f"the condition must give a mean of the shape {x.shape} of one sample, "
                f"got {found}. Pass condition=mean to solve, or mean= to "
                "from_mean_reverting."
            )
        return model(x + (1 - process.alpha(t)) * centre, t, condition)

    return Wrapped(moved, process, prediction, shape)
