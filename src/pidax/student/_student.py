r"""The student: a network that is the solution $x(z, t)$ of the probability-flow ODE.

$$ x(z, t) = \frac{\sigma_t}{\sigma_T}\, z
     + \Bigl(\alpha_t - \alpha_T \frac{\sigma_t}{\sigma_T}\Bigr)\,
       F\bigl(c_{in}(T)\, z,\ c_{noise}(t),\ \text{condition}\bigr) $$

in every chart: where the clean sample does not depend on the time, the ODE is solved
by $F = x_0$. The boundary condition $x(z, T) = z$ is built in. For EDM it reads

$$ x(z, t) = \tfrac tT z + \tfrac{T - t}T F\bigl(z/\sqrt{\sigma_{data}^2 + T^2},\
    \tfrac14 \ln t\bigr), $$

eq. 7 of Tee, Zhang et al. 2024, "Physics informed distillation for diffusion models".
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..denoiser import log_ratio, one_sample
from ..process import AbstractProcess
from ..types import Condition, Key, Sample, SampleLike, Scalar, ScalarLike, Shape, typed


class Student(eqx.Module):
    r"""A network as the trajectory from the prior draw `z`: one call for any time.

    `student(z, t)` is $x(z, t)$, and `student.sample(z)` its value at `t_min`, the
    sample; each is one evaluation of the network. $x(z, T)$ is `z` to the last bit.

    **Arguments:**

    - `network`: called as `network(c_in z, c_noise, condition, key=)` on one sample,
      and returns an array of its shape; it learns something of the size of the clean
      sample at all times. $c_{noise} = \tfrac14 \ln(\sigma/\alpha)$, which is finite
      for every process (`pidax.denoiser.log_ratio`), is that of a teacher with
      `EDMCoefficients`, whose architecture and weights may be taken over.
    - `process`: in whose `(x, t)` it answers.
    - `shape`: the shape of one sample; by default `network.shape` if it has one.
    """

    network: Any
    process: AbstractProcess
    event: Shape | None = eqx.field(static=True)

    @typed
    def __init__(
        self, network: Any, process: AbstractProcess, *, shape: Shape | None = None
    ):
        self.network = network
        self.process = process
        self.event = getattr(network, "shape", None) if shape is None else shape

    @property
    def shape(self) -> Shape | None:
        """The shape of one sample, or None if any will do."""
        return self.event

    @property
    def classes(self) -> int | None:
        """The number of classes the network knows; None for none."""
        return self.network.classes

    @typed
    def __call__(
        self,
        z: SampleLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        """The state at time `t` of the trajectory that starts from `z` at `t_max`."""
        z = jnp.asarray(z)
        if self.shape is not None and z.shape != self.shape:
            raise ValueError(
                f"z must be one sample of the shape {self.shape}, got {z.shape}. For a "
                "batch use jax.vmap(student, in_axes=(0, None))."
            )
        t = jnp.asarray(t, z.dtype)
        noise, gap = self.coefficients(t)
        out = self.clean(z, t, condition, key=key)
        return noise * z + gap * out

    @typed
    def sample(self, z: SampleLike, condition: Condition = None) -> Sample:
        """The sample at the end of the trajectory from `z`: $x(z, t_{min})$."""
        return self(z, self.process.t_min, condition)

    def coefficients(self, t: Scalar) -> tuple[Scalar, Scalar]:
        r"""$\sigma_t/\sigma_T$ and $\alpha_t - \alpha_T\sigma_t/\sigma_T$."""
        process = self.process
        last = jnp.asarray(process.t_max, t.dtype)
        noise = process.sigma(t) / process.sigma(last)
        end = t == last
        noise = _exactly(1.0, noise, where=end)
        gap = process.alpha(t) - process.alpha(last) * noise
        return noise, _exactly(0.0, gap, where=end)

    def clean(
        self, z: Sample, t: Scalar, condition: Condition, *, key: Key | None = None
    ) -> Sample:
        """The network's part $F$, of the size of a clean sample."""
        process = self.process
        c_in = 1 / process.scale(jnp.asarray(process.t_max, z.dtype))
        alpha = jnp.maximum(process.alpha(t), 0.0)  # a cosine may round below zero
        c_noise = 0.25 * log_ratio(process.sigma(t), alpha, process)
        out = self.network(c_in * z, c_noise, condition, key=key)
        cure = "The network's last layer must have as many channels as its input."
        return one_sample(out, z, "the network", cure).astype(z.dtype)


def _exactly(number: float, value: Scalar, *, where: Scalar) -> Scalar:
    """`value` with its rounding error taken off `where` it should be `number`.

    Its derivative in time stays its own, which a bare `jnp.where` would make zero.
    """
    error = jax.lax.stop_gradient(jnp.where(where, number - value, 0.0))
    return value + error
