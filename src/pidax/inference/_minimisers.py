"""Minimisers: Optimistix solvers with a number of steps and their cost."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
import optimistix as optx
from equinox import AbstractVar

from .._checks import require_positive, whole_number
from ._gauss_newton import CGLS, DampedGaussNewton

AnySolver = optx.AbstractLeastSquaresSolver | optx.AbstractMinimiser


def _whole(name: str) -> Callable[[Any], int]:
    return functools.partial(whole_number, name)


class AbstractMethod(eqx.Module):
    """An Optimistix solver, its largest number of steps, and its cost.

    To use your own, pass the solver itself to `refine`, or `Optimistix(solver, steps)`.
    A subclass also gives the cost of its steps.
    """

    steps: AbstractVar[int]

    @abc.abstractmethod
    def solver(self) -> AnySolver:
        """The solver, for least squares or for minimisation."""

    @abc.abstractmethod
    def spent(self, state: Any, steps: Any) -> tuple[Any, Any, Any]:
        """Evaluations, products with the Jacobian, and with its transpose, so far.

        NaN for unknown numbers.
        """


class GaussNewton(AbstractMethod):
    """Damped, matrix-free Gauss-Newton: the default.

    Two steps solve a linear problem, a few steps a mildly nonlinear one. A step costs
    two evaluations, and up to `products` products with the Jacobian and its transpose,
    each about as expensive as one or two evaluations. The products continue until the
    linear problem is solved to `tolerance`; their number is about the number of
    observations, or more.

    **Arguments:** `steps`, the largest number of steps; `rtol`, the least predicted
    decrease of a step, as a share of the objective; `products` and `tolerance`, for the
    conjugate gradients in each step (`CGLS`).
    """

    steps: int = eqx.field(default=20, converter=_whole("steps"))
    rtol: float = eqx.field(default=1e-4, kw_only=True)
    products: int = eqx.field(default=100, kw_only=True, converter=_whole("products"))
    tolerance: float = eqx.field(default=1e-6, kw_only=True)

    def solver(self) -> DampedGaussNewton:
        return DampedGaussNewton(
            self.rtol, linear_solver=CGLS(self.tolerance, self.products)
        )

    def spent(self, state: Any, steps: Any) -> tuple[Any, Any, Any]:
        return state.network, state.jvp, state.vjp


class LBFGS(AbstractMethod):
    """L-BFGS with a backtracking line search, from Optimistix.

    A step costs one evaluation and, if it is accepted, one product with the transposed
    Jacobian. It needs tens to hundreds of steps where Gauss-Newton needs a few, each at
    a hundredth of the cost. In float32 it stops early on stiff problems.
    """

    steps: int = eqx.field(default=200, converter=_whole("steps"))
    rtol: float = eqx.field(default=1e-4, kw_only=True)
    atol: float = eqx.field(default=1e-4, kw_only=True)
    memory: int = eqx.field(default=10, kw_only=True, converter=_whole("memory"))

    def solver(self) -> AnySolver:
        return optx.LBFGS(self.rtol, self.atol, history_length=self.memory)

    def spent(self, state: Any, steps: Any) -> tuple[Any, Any, Any]:
        return steps, jnp.zeros_like(steps), state.num_accepted_steps


class Adam(AbstractMethod):
    """Adam from Optax, the usual method of PIDDM's authors.

    A step costs one evaluation and one product with the transposed Jacobian, and moves
    each entry of the latent by about `rate`, whatever the size of the gradient. It
    rarely stops by tolerance: choose the number of steps by the time that you have.
    """

    rate: float = 0.02
    steps: int = eqx.field(default=50, converter=_whole("steps"))
    rtol: float = eqx.field(default=1e-4, kw_only=True)
    atol: float = eqx.field(default=1e-4, kw_only=True)

    def __check_init__(self):
        require_positive(rate=self.rate)

    def solver(self) -> AnySolver:
        return optx.OptaxMinimiser(optax.adam(self.rate), self.rtol, self.atol)

    def spent(self, state: Any, steps: Any) -> tuple[Any, Any, Any]:
        return steps, jnp.zeros_like(steps), steps


class Optimistix(AbstractMethod):
    """Any least-squares solver or minimiser of Optimistix.

    The cost of its steps is not known, and NaN in `Cost`.
    """

    inner: AnySolver
    steps: int = eqx.field(default=100, converter=_whole("steps"))

    def __check_init__(self):
        if not isinstance(self.inner, AnySolver):
            raise ValueError(
                "expected a solver of Optimistix for least squares or minimisation, "
                f"got {type(self.inner).__name__}. Take inference.GaussNewton(), "
                "LBFGS(), Adam() or one of optimistix itself."
            )

    def solver(self) -> AnySolver:
        return self.inner

    def spent(self, state: Any, steps: Any) -> tuple[Any, Any, Any]:
        unknown = jnp.asarray(jnp.nan)
        return unknown, unknown, unknown
