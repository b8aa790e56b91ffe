r"""The student of a Gaussian teacher, in closed form: nothing is trained.

For $x_0 \sim N(m, C)$ the probability-flow ODE is linear in each eigendirection of $C$,

$$ x(z, t) = \alpha_t m + \sqrt{\frac{\alpha_t^2 C + \sigma_t^2}
     {\alpha_T^2 C + \sigma_T^2}}\, (z - \alpha_T m). $$
"""

import jax
import jax.numpy as jnp

from .._checks import is_traced, require
from ..denoiser import Gaussian
from ..process import AbstractProcess
from ..types import Condition, Key, Sample, SampleLike, ScalarLike, Shape, typed
from ._student import AbstractStudent

_SLACK = 1e-6  # relative; t_max in float32 is still itself


class ExactStudent(AbstractStudent):
    r"""The solution of the ODE for Gaussian data: one call, no network, no error.

        law = poisson.law()
        teacher = px.Gaussian(law.mean, px.denoiser.Covariance.low_rank(law.factor))
        student = px.ExactStudent(teacher, px.EDM())

    Use it to test functions that take a student: results of `refine` can be compared
    with the exact `Gaussian.posterior`. The condition is ignored.

    `sample(z)` ends at $t = 0$, clean data, not at `t_min`: a sample with the noise
    $\sigma_{min}$ would not solve an equation that every clean sample solves. With $z
    \sim N(0, \sigma_T^2 I)$ the samples have nearly the distribution $N(m, C)$. The
    exact start would be $N(\alpha_T m, \alpha_T^2 C + \sigma_T^2)$ instead of the
    prior. Therefore the standard deviation along an eigenvector of variance $c$ is $(1
    + \alpha_T^2 c/\sigma_T^2)^{-1/2}$ of the right value, and the mean is off by
    $\alpha_T m \sqrt{c/(\alpha_T^2 c + \sigma_T^2)}$. For $\sigma_T = 80$ and data of
    size one these are relative errors of $10^{-4}$ and $10^{-2}$.

    **Arguments:** the `Gaussian` denoiser, and the `process` of its `(x, t)`. Times
    from 0 to `t_max` are allowed.
    """

    denoiser: Gaussian
    process: AbstractProcess

    @typed
    def __init__(self, denoiser: Gaussian, process: AbstractProcess):
        self.denoiser = denoiser
        self.process = process

    @property
    def shape(self) -> Shape:
        return self.denoiser.shape

    @property
    def classes(self) -> None:
        return None

    @property
    def end(self) -> float:
        return 0.0

    @typed
    def __call__(
        self,
        z: SampleLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        z = jnp.asarray(z)
        if z.shape != self.shape:
            raise ValueError(
                f"z must be one sample of the shape {self.shape}, got {z.shape}. For a "
                "batch use jax.vmap(student, in_axes=(0, None))."
            )
        t = jnp.asarray(t, z.dtype)
        last = jnp.asarray(self.process.t_max, z.dtype)
        if not is_traced(t, self.process):
            require(
                None,
                (t >= 0) & (t <= last * (1 + _SLACK)),
                f"t must be between 0, clean data, and t_max = {last}, got t={t}.",
            )
        x = self.denoiser.transport(z, self.process.level(last), self.process.level(t))
        # Eigenvectors return z with rounding errors; these are removed.
        error = jax.lax.stop_gradient(jnp.where(t == last, z - x, 0.0))
        return x + error
