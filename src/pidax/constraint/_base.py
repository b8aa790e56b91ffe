r"""What a clean sample must satisfy: the only door between physics and diffusion.

A model makes a sample $x_0$ in its own coordinates; a `normaliser` restores it to
fields in physical units; there a constraint says what is wrong with them,

$$ R(x_0) = R\bigl(\mathrm{restore}(x_0)\bigr), \qquad
   \text{cost}(x_0) = \operatorname{mean}\, |R|^2 / s^2, $$

with $s$ the size that a residual is relative to. It asks only about clean samples,
where equations are exact, and never about noised ones or posterior means.

    Residual(darcy, normaliser)                     # the equation
    Observation.of(darcy, solution=(mask, u))       # what is known of the fields
    Residual(...) & Observation.of(...)             # both
"""

import abc
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float

from ..pde import AbstractNormaliser
from ..types import Sample, Scalar, Shape, Stacked, at_least_float32, typed
from ._match import check_samples

if TYPE_CHECKING:
    from ._all import All


class AbstractConstraint(eqx.Module):
    """A condition on clean samples, through the fields that they are.

    A final class says `residual_of(fields)` and `scale_of(fields)`; `project_fields` if
    there is an exact projection. What is called on samples follows. `a & b` is both.
    """

    normaliser: AbstractVar[AbstractNormaliser | None]

    @property
    @abc.abstractmethod
    def shape(self) -> Shape | None:
        """The shape of the stacked fields that it judges, or None if any will do."""

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

    @property
    def subject(self) -> str:
        """What is constrained, in words: the beginning of its messages."""
        return f"{type(self).__name__} of fields of shape {self.shape}"

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
        return self.normaliser.restore(x.astype(at_least_float32(x.dtype)))

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

    def check(self, shape: Shape) -> None:
        """Samples of this shape are such as this judges; asked before compiling.

        Nothing is computed: the normaliser and the residual are traced by shape.
        """
        check_samples(self, tuple(shape))

    @typed
    def check_start(self, x: Float[Array | np.ndarray, "batch *event"]) -> None:
        """The costs of these samples are finite: asked once, before minimising.

        So are their residuals, whose squares may overflow where they do not, and the
        scales. What is not finite at the start stays so, as do its gradients.
        """
        x = jnp.asarray(x)
        samples, residuals = (np.asarray(bad) for bad in _not_finite(self, x))
        if samples.any():
            raise ValueError(
                f"expected finite samples, got {samples.sum()} of {samples.size} with "
                f"NaN or infinite entries (first: {samples.argmax()}). The model that "
                "made them is not trained, or is called beyond the noise levels it "
                "was trained on."
            )
        if residuals.any():
            raise ValueError(
                f"expected finite residuals of {self.subject}, and squares of them, "
                f"got {residuals.sum()} of {residuals.size} samples whose residual, or "
                "its square or scale, is not finite in this precision (first: "
                f"{residuals.argmax()}), though the samples are. Their "
                "fields are too large for the equation, or the normaliser is not the "
                "one that the model was trained with: look at constraint.restore(x)."
            )

    def __and__(self, other: "AbstractConstraint") -> "All":
        from ._all import All

        return All((self, other))


@eqx.filter_jit
def _not_finite(constraint, x):
    """For each sample, whether it has such entries, and whether what it costs has."""
    bad = lambda a: ~jnp.isfinite(a).all()

    def one(x):
        fields = constraint.restore(x)
        residual, scale = constraint.residual_of(fields), constraint.scale_of(fields)
        # A residual divided by an infinite scale would be zero.
        return bad(x), bad(residual) | bad(scale) | bad(constraint.cost_of(fields))

    return jax.vmap(one)(x)
