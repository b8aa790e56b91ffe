r"""A network as a denoiser: inputs, outputs and targets of order one at every noise.

$$ D(x, \sigma, \alpha) = c_{skip}\, x
     + c_{out}\, F(c_{in}\, x,\ c_{noise},\ \text{condition}). $$

What the network $F$ predicts is a choice of the four coefficients (Karras et al. 2022,
section 5). With $h = \sqrt{(\alpha\,\sigma_{data})^2 + \sigma^2}$, the size of $x$,
and $\varphi = \operatorname{atan2}(\sigma, \alpha\,\sigma_{data})$:

| class | $c_{skip}$ | $c_{out}$ | $c_{in}$ | $c_{noise}$ |
|---|---|---|---|---|
| `EDMCoefficients` | $\alpha\sigma_{data}^2/h^2$ | $\sigma_{data}\,\sigma/h$ | $1/h$ | $\tfrac14\ln(\sigma/\alpha)$ |
| `VelocityCoefficients` | $\alpha\sigma_{data}^2/h^2$ | $-\sigma_{data}\,\sigma/h$ | $1/h$ | $\varphi$ |
| `ConsistencyCoefficients` | see there | | $1/h$ | $250\ln(\sigma/\alpha)$ |
| `FlowCoefficients` | $1/(\alpha+\sigma)$ | $-\sigma/(\alpha+\sigma)$ | $1/(\alpha+\sigma)$ | $\sigma/(\alpha+\sigma)$ |

Nothing is divided by $\alpha$: they are homogeneous as the denoiser is, finite without
signal ($\alpha = 0$), and give $D = x/\alpha$ without noise ($\sigma = 0$).
"""  # noqa: E501

import abc
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..process import AbstractProcess, level_scale, ratio_ends
from ..types import Condition, Key, Sample, SampleLike, Scalar, ScalarLike, Shape, typed
from ._base import AbstractDenoiser, as_arrays
from ._network import check_network
from ._wrap import one_sample

Coefficients: TypeAlias = tuple[Scalar, Scalar, Scalar, Scalar]


class AbstractCoefficients(eqx.Module):
    """What the network of a `Preconditioned` sees and predicts."""

    @abc.abstractmethod
    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        r"""$(c_{skip}, c_{out}, c_{in}, c_{noise})$ at a noise level of any chart.

        $c_{skip}$ and $c_{in}$ are homogeneous of degree -1 in `(sigma, alpha)`, the
        other two of degree 0. `process` is the one the network is trained for.
        """

    def prediction(self, out: Array, x: Sample) -> Array:
        """What of the network's output is its prediction; by default all of it."""
        return out

    def nearest_level(self, ratio: Array) -> Array:
        r"""The ratio $\sigma/\alpha$ nearest to this one that the network knows."""
        return ratio


class EDMCoefficients(AbstractCoefficients):
    r"""The network's target has unit variance and its error is amplified least.

    $F$ predicts $(x_0 - c_{skip} x)/c_{out}$: nearly the data where noise dominates,
    nearly the negative noise where there is little. Karras et al. 2022, Table 1, of
    whose $\sigma$ and $x$ these are in every chart the $\sigma/\alpha$ and $x/\alpha$.
    Good for training from data at any noise, and for a student's initial weights.
    `slope` is that of $c_{noise}$ in $\ln(\sigma/\alpha)$; OpenAI's networks count
    thousands of it, 250.
    """

    slope: float = eqx.field(static=True, default=0.25)

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        c_skip, c_out, c_in = _unit_variance(sigma, alpha, process)
        return c_skip, c_out, c_in, self.slope * log_ratio(sigma, alpha, process)


class ConsistencyCoefficients(AbstractCoefficients):
    r"""A consistency function: the sample itself at the least noise of the process.

    $$ c_{skip} = \frac{\sigma_{data}^2}{(r - r_{min})^2 + \sigma_{data}^2}, \qquad
    c_{out} = \frac{(r - r_{min})\,\sigma_{data}}{\sqrt{r^2 + \sigma_{data}^2}} $$

    of $r = \sigma/\alpha$ and $x/\alpha$, the others those of `EDMCoefficients`: Song
    et al. 2023, "Consistency models", appendix C. What it makes is no posterior mean
    but the end of the trajectory: $f(z, T)$ is a sample, in one evaluation.
    """

    slope: float = eqx.field(static=True, default=250.0)

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        _, _, c_in = _unit_variance(sigma, alpha, process)
        above = sigma - ratio_ends(process, sigma.dtype)[0] * alpha
        size = process.sigma_data
        c_skip = alpha * size**2 / (above**2 + (alpha * size) ** 2)
        c_noise = self.slope * log_ratio(sigma, alpha, process)
        return c_skip, size * above * c_in, c_in, c_noise


class VelocityCoefficients(AbstractCoefficients):
    r"""The network predicts the velocity $dy/d\varphi$ in the angle.

    $F = \cos\varphi\,\epsilon - \sin\varphi\,x_0/\sigma_{data}$ and, with $y = x/h$,
    $D = \sigma_{data} (\cos\varphi\, y - \sin\varphi\, F)$: Salimans & Ho 2022,
    "Progressive distillation for fast sampling of diffusion models", appendix D, for
    data of any scale. With $c_{noise} = \varphi$ this is TrigFlow (Lu & Song 2024). It
    differs from `EDMCoefficients` in the sign of $F$ and in $c_{noise}$, which is
    bounded and smooth to either end: good where derivatives in time are taken.
    """

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        c_skip, c_out, c_in = _unit_variance(sigma, alpha, process)
        angle = jnp.arctan2(sigma, alpha * process.sigma_data)
        return c_skip, -c_out, c_in, angle


class FlowCoefficients(AbstractCoefficients):
    r"""The network predicts $\epsilon - x_0$ on the linear path, at its own time.

    $x_{lin} = x/(\alpha+\sigma)$, $t = \sigma/(\alpha+\sigma)$ and
    $D = x_{lin} - t\,F(x_{lin}, t)$: the network of flow matching (Lipman et al. 2023;
    Liu et al. 2023), usable in every process. It needs no `sigma_data`; in return its
    input and target have unit variance only if the data have.
    """

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        shrink = 1 / (alpha + sigma)
        t = sigma * shrink
        return shrink, -t, shrink, t


class Preconditioned(AbstractDenoiser):
    r"""A network to be trained, as a denoiser in every chart: a teacher of your own.

    $D = c_{skip}\, x + c_{out}\, F(c_{in}\, x, c_{noise}, \text{condition})$. One call
    is one evaluation of the network.

    **Arguments:**

    - `network`: called as `network(x, c_noise, condition, augment=, key=)` on one
      sample, and returns an array of its shape. It may compute in a lower precision:
      the coefficients and the sum are taken in the dtype of the sample.
    - `process`: whose noise levels it is trained for, and whose `sigma_data` it has;
      it answers in all others.
    - `coefficients`: what the network predicts; by default `EDMCoefficients()`.
    - `shape`: the shape of one sample; by default `network.shape` if it has one.

    Train it with `DenoisingScoreMatching` or `FlowMatching`.
    """

    network: Any
    process: AbstractProcess
    coefficients: AbstractCoefficients
    event: Shape | None = eqx.field(static=True)

    @typed
    def __init__(
        self,
        network: Any,
        process: AbstractProcess,
        coefficients: AbstractCoefficients | None = None,
        *,
        shape: Shape | None = None,
    ):
        self.network = check_network(network, "augment", "key")
        self.process = process
        self.coefficients = EDMCoefficients() if coefficients is None else coefficients
        self.event = getattr(network, "shape", None) if shape is None else shape

    @property
    def shape(self) -> Shape | None:
        return self.event

    @property
    def classes(self) -> int | None:
        """The number of classes the network knows; None for none."""
        return self.network.classes

    @property
    def interval(self) -> tuple[float, float]:
        return self.process.ratio_interval

    def evaluations(self, condition: Condition = None) -> int:
        return 1

    def nearest_level(self, ratio: Array) -> Array:
        r"""The ratio $\sigma/\alpha$ nearest to this one that the network knows.

        It is this one itself, but for networks of a table of levels (iDDPM's).
        """
        return self.coefficients.nearest_level(ratio)

    @typed
    def __call__(
        self,
        x: SampleLike,
        sigma: ScalarLike,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Sample:
        x, sigma, alpha = as_arrays(x, sigma, alpha, self.shape)
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma, alpha, self.process)
        out = self.network(c_in * x, c_noise, condition, augment=augment, key=key)
        cure = "The network's last layer must have as many channels as its input."
        out = self.coefficients.prediction(out, x)
        out = one_sample(out, x, "the network", cure)
        return c_skip * x + c_out * out.astype(x.dtype)


def log_ratio(
    sigma: Scalar, alpha: Scalar, process: AbstractProcess, *, factor: float = 1.0
) -> Scalar:
    r"""$\ln(f \sigma/\alpha)$ on the process's levels, and finite beyond them.

    Below the least and above the largest ratio it goes on along its tangent in
    $\sigma/\alpha$ and in $\alpha/\sigma$, to $\ln r_{min} - 1$ without noise and
    $\ln r_{max} + 1$ without signal: increasing, so that different levels are told
    apart, and with its derivative at either end. For a process that ends without
    signal $r_{max} = 160\,\sigma_{data}$, as in the time grids. `factor` is $f$, which
    adds its logarithm without another rounding.
    """
    low, high = ratio_ends(process, sigma.dtype)
    above, below = sigma > high * alpha, sigma < low * alpha
    inside = ~(above | below)
    ratio = jnp.where(inside, sigma, 1.0) / jnp.where(inside, alpha, 1.0)
    noisier = jnp.log(factor * high) + 1 - high * alpha / jnp.where(above, sigma, 1.0)
    cleaner = jnp.log(factor * low) - 1 + sigma / (low * jnp.where(below, alpha, 1.0))
    return jnp.where(above, noisier, jnp.where(below, cleaner, jnp.log(factor * ratio)))


def _unit_variance(
    sigma: Scalar, alpha: Scalar, process: AbstractProcess
) -> tuple[Scalar, Scalar, Scalar]:
    """c_skip, c_out and c_in of Karras et al. 2022, eq. 7, in any chart."""
    scale = process.sigma_data
    c_in = 1 / level_scale(sigma, alpha, scale)
    signal, noise = alpha * scale * c_in, sigma * c_in  # cos and sin of the angle
    return scale * signal * c_in, scale * noise, c_in
