r"""Denoising score matching: a denoiser is the regression of $x_0$ on $x_t$.

$$ L = E_{t, x_0, \epsilon}\ \frac1n\, w(t)\,
       |D(\alpha x_0 + \sigma\epsilon,\ \sigma,\ \alpha) - x_0|^2, $$

whose minimiser is $E[x_0 | x_t]$ for any weight $w > 0$ and any law of $t$; $n$ is the
number of components. What other predictions minimise is this with another weight.
"""

from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from ..process import AbstractProcess
from ..types import Key, Scalar, typed
from ._base import AbstractStatelessObjective, State, Terms, Update
from ._data import check_data, check_denoiser, check_rate, denoising_loss
from ._laws import AbstractTimeLaw, LogNormal

Weighting = Literal["edm", "data", "noise", "velocity"]


class DenoisingScoreMatching(AbstractStatelessObjective):
    r"""Train a denoiser from data: Vincent 2011; Ho et al. 2020; Karras et al. 2022.

    A sample of the data is `x0`, or the tuple `(x0, condition)`. The model is any
    denoiser: a `Preconditioned` network, or a wrapped model of your own. One
    evaluation of it a sample.

    **Arguments:**

    - `process`: whose noise is added.
    - `law`: of the training time; by default `LogNormal()`, EDM's.
    - `weighting`: the weight $w(t)$,

        | | $w$ | so that the loss is |
        |---|---|---|
        | `"edm"` | $(r^2 + \sigma_{data}^2)/(r\,\sigma_{data})^2$, $r = \sigma/\alpha$ | the network's own error under `EDMCoefficients` |
        | `"data"` | $1$ | the squared error of $D$ |
        | `"noise"` | $(\alpha/\sigma)^2$ | that of the predicted noise |
        | `"velocity"` | $(\dot\alpha - \dot\sigma\,\alpha/\sigma)^2$ | that of the velocity $dx/dt$ |

    - `label_dropout`: the probability of training a sample without its condition (-1
      for integers, zeros for floats), which `Guided` needs (Ho & Salimans 2022).

    The reported term `denoising_error` is the mean of $|D - x_0|^2/n$, unweighted.
    """  # noqa: E501

    process: AbstractProcess
    law: AbstractTimeLaw
    weighting: Weighting = eqx.field(static=True)
    label_dropout: float

    @typed
    def __init__(
        self,
        process: AbstractProcess,
        *,
        law: AbstractTimeLaw | None = None,
        weighting: str = "edm",
        label_dropout: float | int = 0.0,
    ):
        if weighting not in get_args(Weighting):
            raise ValueError(
                f"weighting must be one of {get_args(Weighting)}, got {weighting!r}."
            )
        self.process = process
        self.law = LogNormal() if law is None else law
        self.weighting = weighting  # type: ignore[assignment]
        self.label_dropout = float(label_dropout)

    def __check_init__(self):
        check_rate(self.label_dropout)

    def check(self, model: PyTree, data: PyTree) -> None:
        check_denoiser(model, self.process)
        check_data(model, data, self.label_dropout)

    def loss(
        self, model: PyTree, state: State, sample: PyTree, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, tuple[Update, Terms]]:
        return denoising_loss(
            model,
            self.process,
            self.law,
            self.factor,
            sample,
            self.label_dropout,
            key,
        )

    def factor(self, process: AbstractProcess, t: Scalar) -> Scalar:
        r"""$\pm\sqrt{w(t)}$: what the denoiser's error is multiplied by."""
        sigma, alpha = process.level(t)
        if self.weighting == "edm":
            # sqrt(r² + sd²) / (r sd), times alpha above and below
            return process.scale(t) / (sigma * process.sigma_data)
        if self.weighting == "noise":
            return alpha / sigma
        if self.weighting == "velocity":
            return velocity_factor(process, t)
        return jnp.ones_like(t)


def velocity_factor(process: AbstractProcess, t: Scalar) -> Scalar:
    r"""$\dot\alpha - \dot\sigma\,\alpha/\sigma$: the velocity's error over that of $D$.

    With $\hat v = \dot\alpha D + \dot\sigma (x - \alpha D)/\sigma$ the noise cancels
    from $\hat v - (\dot\alpha x_0 + \dot\sigma\epsilon)$.
    """
    (sigma, alpha), (alpha_rate, sigma_rate) = process.level(t), process.rates(t)
    return alpha_rate - sigma_rate * alpha / sigma
