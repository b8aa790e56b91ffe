r"""The exact Gaussian law of the fields of a linear equation.

If the given field is $g = m + F\xi$ and the solver is affine, $S(g) = S(0) + S_0 g$,
then all fields together are Gaussian, with mean $(m, S(m))$ and factor
$(F, S_0 F)$. `px.Gaussian(law.mean, px.Covariance.low_rank(law.factor))` is then the
exact denoiser of the equation's samples, and the answer key to every sampler and every
inverse method.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Stacked
from ._equation import AbstractEquation
from ._precision import in_double
from ._random_field import AbstractGaussianField, AbstractRandomField


class GaussianLaw(NamedTuple):
    """The mean and a low-rank factor of the covariance of the stacked fields."""

    mean: Stacked
    factor: Float[Array, "*grid channel rank"]


def gaussian_law(equation: AbstractEquation, given: AbstractRandomField) -> GaussianLaw:
    """The law of all fields when the one given field is drawn from `given`.

    For an equation of `kind` "linear" with one given field. One solve for each mode of
    `given`; take a law with few (`Matern(grid, modes=64)`), as the factor has as many
    columns. In float64 when called from Python.
    """
    name = type(equation).__name__
    if equation.kind != "linear" or len(equation.given) != 1:
        raise ValueError(
            f"the fields of {name} are not jointly Gaussian: its residual is "
            f"{equation.kind} in them and its given fields are {equation.given}. Only "
            "a linear equation with one given field has a Gaussian law."
        )
    if not isinstance(given, AbstractGaussianField):
        raise ValueError(
            f"{name} has a Gaussian law if its {equation.given[0]} has one, got "
            f"{type(given).__name__}. Use Matern, KarhunenLoeve or Fixed."
        )
    return _law(equation, given)


@in_double
def _law(equation, given):
    solve = lambda g: equation.stack(equation.solve(g))
    columns = given.factor()
    base = solve(jnp.zeros_like(given.mean()))
    push = lambda column: solve(column) - base
    factor = jax.vmap(push, in_axes=-1, out_axes=-1)(columns)
    return GaussianLaw(solve(given.mean()), factor)
