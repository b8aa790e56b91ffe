r"""Semilinear equations on a periodic grid, $u_t = Lu + N(u)$, by ETDRK4.

In Fourier coefficients $L$ is a number for each wave. An equation is then two
functions, its eigenvalues and its nonlinearity.
"""

import abc

import diffrax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array

from ..types import Field
from ._etdrk4 import ETDRK4, SemilinearTerm
from ._evolution import AbstractEvolution
from ._modes import times, to_modes
from ._spectral import backward


class AbstractSemilinear(AbstractEvolution):
    r"""$u_t = Lu + N(u)$ with $L$ diagonal in Fourier series.

    A final class says `eigenvalues`, those of $L$, and `nonlinear(c)`, the coefficients
    of $N$ from those of $u$; products without aliases are its business. From one row to
    the next are `substeps` steps of ETDRK4, of order four in their length.
    """

    substeps: AbstractVar[int]

    @property
    @abc.abstractmethod
    def eigenvalues(self) -> np.ndarray | Array:
        """The eigenvalues of $L$, in the shape of the coefficients (`rfftn`)."""

    @abc.abstractmethod
    def nonlinear(self, c: Array) -> Array:
        """The coefficients of $N(u)$, from those of $u$."""

    @property
    def term(self) -> SemilinearTerm:
        """The right side as a Diffrax term, whose state is the field on the grid."""
        return SemilinearTerm(
            jnp.asarray(self.eigenvalues),
            lambda t, c, args: self.nonlinear(c),
            to_modes,
            self._field,
        )

    def advance(self, u: Field, *parameters: Array) -> Field:
        """The field one row later, by `substeps` steps of ETDRK4."""
        ts = jnp.asarray(np.linspace(0.0, self.interval, self.substeps + 1), u.dtype)
        solution = diffrax.diffeqsolve(
            self.term,
            ETDRK4(),
            ts[0],
            ts[-1],
            None,
            u,
            stepsize_controller=diffrax.StepTo(ts),
            max_steps=self.substeps,
            adjoint=diffrax.DirectAdjoint(),  # forward mode too: Gauss-Newton needs it
        )
        return solution.ys[0]  # type: ignore[index]

    def terms(self, u: Field, *parameters: Array) -> tuple[Field, ...]:
        """$Lu$ and $N(u)$."""
        c = to_modes(u)
        linear = times(self.term.eigenvalues(c), c)
        return self._field(linear), self._field(self.nonlinear(c))

    def _field(self, c):
        return backward(self.grid, c)
