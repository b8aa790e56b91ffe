r"""What a clean sample must satisfy: the only door between physics and diffusion.

A model makes a sample $x_0$ in its own coordinates; a `normaliser` restores it to
fields in physical units; there a constraint says what is wrong with them,

$$ R(x_0) = R\bigl(\mathrm{restore}(x_0)\bigr), \qquad
   \text{cost}(x_0) = \operatorname{mean}\, |R|^2 / s^2, $$

with $s$ the size that a residual is relative to. It asks only about clean samples,
where equations are exact, and never about noised ones or posterior means.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array

from ..pde import AbstractNormaliser
from ..types import Sample, Scalar, Stacked


class AbstractConstraint(eqx.Module):
    """A condition on clean samples, through the fields that they are.

    A final class says `residual_of(fields)` and `scale_of(fields)`; `project_fields` if
    there is an exact projection. What is called on samples follows.
    """

    normaliser: AbstractVar[AbstractNormaliser | None]

    @abc.abstractmethod
    def residual_of(self, fields: Stacked) -> Array:
        """What is wrong with stacked fields, in physical units: zero if nothing is."""

    @abc.abstractmethod
    def scale_of(self, fields: Stacked) -> Array:
        """The size that a residual is relative to: one number, or one for each entry.

        It is held fixed in gradients: inflating it is no way to a smaller residual.
        """

    @property
    @abc.abstractmethod
    def projects(self) -> bool:
        """Whether there is an exact projection."""

    @abc.abstractmethod
    def project_fields(self, fields: Stacked) -> Stacked:
        """The nearest stacked fields that satisfy this, where that is known exactly."""

    def restore(self, x: Sample) -> Stacked:
        """The fields of a clean sample, in physical units and at least float32."""
        if self.normaliser is None:
            raise ValueError(
                f"{type(self).__name__} speaks of fields in physical units and a "
                "sample is in a model's coordinates: expected a normaliser between "
                "them, got none. Pass normaliser=, the one the model was trained with; "
                "px.pde.Normaliser of means 0 and standard deviations 1 if it sees "
                "physical units."
            )
        return self.normaliser.restore(jnp.asarray(x, at_least_float32(x.dtype)))

    def residual(self, x: Sample) -> Array:
        """What is wrong with a clean sample, in physical units."""
        return self.residual_of(self.restore(x))

    def cost(self, x: Sample) -> Scalar:
        """The mean square of the residual of a clean sample, in units of its scale."""
        return self.cost_of(self.restore(x))

    def cost_of(self, fields: Stacked) -> Scalar:
        """The mean square of the residual of stacked fields, in units of its scale."""
        return jnp.mean(jnp.square(self.relative_of(fields)))

    def relative_of(self, fields: Stacked) -> Array:
        """The residual of stacked fields in units of its scale."""
        scale = jax.lax.stop_gradient(self.scale_of(fields))
        return self.residual_of(fields) / scale

    def project(self, x: Sample) -> Stacked:
        """The nearest *fields* to a clean sample's that satisfy this exactly."""
        return self.project_fields(self.restore(x))


def at_least_float32(dtype):
    """Physics is never computed in less, whatever precision a network has."""
    return jnp.promote_types(dtype, jnp.float32)
