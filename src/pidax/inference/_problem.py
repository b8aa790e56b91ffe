r"""The least-squares problem of one sample, on its unit latent $\epsilon$.

$$ \tfrac w2 |\epsilon - \epsilon_0|^2
 + \tfrac12 \Bigl|\frac{M (d(\epsilon) - y - s\eta)}{s}\Bigr|^2
 + \tfrac12 \Bigl|\frac{R(d_M(\epsilon))}{\text{scale}\cdot\text{slack}}\Bigr|^2 $$

with $d(\epsilon)$ the fields of the student's sample from $z = \sigma_T\epsilon$, in
physical units, and $d_M$ the same with the noise-free observations written over them,
and with the entries that are held as $d(\epsilon_0)$ has them. What it is made of is
fixed for all samples but for $\epsilon_0$ and its fields, the perturbed values
$y + s\eta$, and the condition: a problem is one likelihood and one prior.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..constraint import AbstractConstraint, Observation
from ..student import AbstractStudent
from ..types import Condition, Sample, Scalar, Stacked
from ._drive import Point


class Case(eqx.Module):
    """What differs from sample to sample.

    `start` is the latent as drawn and `own` its fields, if some of them are held;
    `centre` what it is anchored to, `values` what the fields are compared with.
    """

    start: Sample
    own: Any  # like the fields, or None
    centre: Sample
    values: Any  # like the fields, or None
    condition: Condition


class Likelihood(eqx.Module):
    """How sure the observations are, and how much residual is one deviation."""

    noise: Any  # like the fields, or None
    scale: Any  # like the residual, or one number, or None


class Problem(eqx.Module):
    """The rows whose squares are summed: called as `problem(latent, case)`."""

    student: AbstractStudent
    observation: Observation | None
    constraint: AbstractConstraint | None
    weight: Scalar | None
    free: Any  # mask of the latent's entries that move, or None for all
    hold: Any  # mask of the fields' entries that stay as drawn, or None
    likelihood: Likelihood

    def __call__(self, latent: Sample, case: Case) -> tuple[dict[str, Array], Point]:
        centre, moved = case.centre, latent
        if self.free is not None:  # the others stay, and are anchored where they are
            centre = jnp.where(self.free, centre, case.start)
            moved = jnp.where(self.free, latent, case.start)
        x = self.sample(moved, case.condition)
        fields = self.restore(x)
        rows = {}
        if self.weight is not None:
            rows["anchor"] = jnp.sqrt(self.weight) * (latent - centre)
        if self.observation is not None:
            apart = fields - case.values.astype(fields.dtype)
            apart = apart / self.likelihood.noise.astype(fields.dtype)
            rows["misfit"] = jnp.where(self.observation.mask, apart, 0.0)
        if self.constraint is not None:
            residual = self.constraint.residual_of(self.overwrite(fields, case.own))
            rows["residual"] = residual / self.likelihood.scale
        rows = {name: row.astype(latent.dtype) for name, row in rows.items()}
        names = ("anchor", "misfit", "residual")
        zero = jnp.zeros((), latent.dtype)
        half = lambda row: 0.5 * jnp.sum(row**2)
        terms = [half(rows[name]) if name in rows else zero for name in names]
        return rows, Point(moved, x, jnp.stack(terms))

    def sample(self, latent: Sample, condition: Condition) -> Sample:
        """The student's sample from the latent."""
        process = self.student.process
        last = jnp.asarray(process.t_max, latent.dtype)
        return self.student.sample(process.sigma(last) * latent, condition)

    def restore(self, x: Sample) -> Stacked:
        """Its fields in physical units."""
        if self.constraint is not None:
            return self.constraint.restore(x)
        assert self.observation is not None
        return self.observation.restore(x)

    def overwrite(self, fields: Stacked, own: Any) -> Stacked:
        """The fields with those held and the noise-free observations put in."""
        if self.hold is not None:
            fields = jnp.where(self.hold, own, fields)
        if self.observation is None:
            return fields
        return self.observation.overwrite(fields)
