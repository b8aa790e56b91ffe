"""The flow map of independent Gaussian components in closed form, as a network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px

MEAN, DEVIATION = np.array([0.4, -0.3]), np.array([0.5, 1.2])


def law():
    """Mean and deviations. New arrays: JAX keeps NumPy's as it first met them, in
    float32 or in float64.
    """
    return jnp.array(MEAN.tolist()), jnp.array(DEVIATION.tolist())


class Exact(eqx.Module):
    """The network of a flow map of independent Gaussian components, plus `shift`.

    With r = sigma / alpha of the two times, which c_noise = log(r) / 4 tells, and v =
    x / alpha: v moves by the factor hypot(deviation, r_t) / hypot(deviation, r_s).
    """

    sigma_data: float
    shift: jax.Array

    classes = None
    shape = (2,)

    def __call__(self, x, c_noise, condition=None, *, key=None):
        r_s, r_t = jnp.exp(4 * c_noise)
        mean_of, deviation = law()
        v = x * jnp.hypot(self.sigma_data, r_s)
        factor = jnp.hypot(deviation, r_t) / jnp.hypot(deviation, r_s)
        moved = mean_of + factor * (v - mean_of)
        gap = 1 / r_t - 1 / r_s
        near = jnp.abs(r_t / r_s - 1) < 1e-9
        mean = (moved / r_t - v / r_s) / jnp.where(near, 1.0, gap)
        share = deviation**2 / (deviation**2 + r_s**2)
        return jnp.where(near, mean_of + share * (v - mean_of), mean) + self.shift


def teacher(process):
    mean, deviation = law()
    return px.ProbabilityFlow(px.Gaussian(mean, deviation**2), process)


def exact(process, shift=0.0):
    network = Exact(float(process.sigma_data), jnp.asarray(shift, float))
    return px.FlowMap(network, process)
