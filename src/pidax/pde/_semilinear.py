r"""Semilinear equations on periodic grids, and the Diffrax solver ETDRK4 for them.

    u' = L u + N(t, u),        L diagonal: in Fourier series a number for each wave

The linear part is solved exactly and the nonlinear part by a Runge-Kutta formula of
order four, so that the step is limited by the nonlinearity alone (Cox and Matthews
2002, eq. 26-29). With $z = hL$ and $\varphi_{k+1} = (\varphi_k - 1/k!)/z$,
$\varphi_0 = e^z$,

    a  = e^{z/2} u + h/2 φ1(z/2) N(u)          c  = e^{z/2} a + h/2 φ1(z/2) (2 N(b) - N(u))
    b  = e^{z/2} u + h/2 φ1(z/2) N(a)          u' = e^z u + h (f1 N(u) + f2 (N(a) + N(b)) + f3 N(c))

    f1 = φ1 - 3 φ2 + 4 φ3,      f2 = 2 φ2 - 4 φ3,      f3 = 4 φ3 - φ2

The recurrence loses all digits where $z$ is small (Kassam and Trefethen 2005); there
$\varphi_3$ is its Taylor series and the recurrence runs the other way, in which it is
stable. That costs one exponential and a polynomial for each mode and nothing for each
sample, so the coefficients are made anew in every step, of any length.
"""  # noqa: E501

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jax import lax
from jaxtyping import Array

from ..types import Elementwise, Field, ScalarLike
from ._evolution import Evolution
from ._fourier import backward, multiply
from ._stepper import AbstractStepped, changed

TAYLOR = tuple(1 / math.factorial(j + 3) for j in range(17))  # |z| < 1: to 1e-18


def _same(x: Array) -> Array:
    return x


class SemilinearTerm(diffrax.AbstractTerm):
    r"""The vector field $T^{-1}(\lambda\, T y + N(t, T y))$ of one array $y$.

    `eigenvalues` are the diagonal of $L$, real or complex, of the shape of
    $c = T y$, the coefficients; `nonlinear(t, c, args)` is $N$, as coefficients.
    `transform` and `inverse` are $T$ and its inverse, by default the identity: then
    the state are the coefficients themselves. With the Fourier transform the state is
    a real field on a grid, which Diffrax handles better than complex arrays, at the
    price of one transform and its inverse in each step.

    Every solver of Diffrax can solve with this term; `ETDRK4` is made for it.
    """

    growth: Array
    frequency: Array | None
    nonlinear: Callable[[Any, Array, Any], Array]
    transform: Callable[[Array], Array]
    inverse: Callable[[Array], Array]

    def __init__(
        self,
        eigenvalues: Array | np.ndarray,
        nonlinear: Callable[[Any, Array, Any], Array],
        transform: Callable[[Array], Array] = _same,
        inverse: Callable[[Array], Array] = _same,
    ):
        # In two parts, as Diffrax warns of every complex array that it is given.
        values = jnp.asarray(eigenvalues)
        self.growth = values.real
        self.frequency = values.imag if jnp.iscomplexobj(values) else None
        self.nonlinear, self.transform, self.inverse = nonlinear, transform, inverse

    def eigenvalues(self, c: Array) -> Array:
        """The eigenvalues in the precision of the coefficients, real if they are."""
        real = jnp.finfo(c.dtype).dtype
        if self.frequency is None:
            return self.growth.astype(real)
        return lax.complex(self.growth.astype(real), self.frequency.astype(real))

    def vf(self, t: Any, y: Array, args: Any) -> Array:
        c = self.transform(y)
        linear = multiply(self.eigenvalues(c), c)
        return self.inverse(linear + self.nonlinear(t, c, args))

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> Any:
        return t1 - t0

    def prod(self, vf: Array, control: Any) -> Array:
        return jnp.asarray(control).astype(jnp.finfo(vf.dtype).dtype) * vf


class ETDRK4(diffrax.AbstractSolver):
    r"""Exponential time differencing with a Runge-Kutta formula of order four.

        term = px.pde.SemilinearTerm(eigenvalues, nonlinear, rfft, irfft)
        diffrax.diffeqsolve(term, px.pde.ETDRK4(), 0.0, 1.0, 0.01, u0)

    Fixed steps (`diffrax.ConstantStepSize`, `diffrax.StepTo`): there is no estimate of
    the error. Four evaluations of $N$ a step. Exact where $N$ is constant. Between the
    ends of its steps it is interpolated linearly: save at the ends of steps.

    Order four where the nonlinearity is smooth on the scale of the step; stiff
    boundary terms, which Fourier series do not have, can lower it.
    """

    term_structure: ClassVar = SemilinearTerm
    interpolation_cls: ClassVar[Callable[..., diffrax.LocalLinearInterpolation]] = (
        diffrax.LocalLinearInterpolation
    )

    def order(self, terms: Any) -> int:
        return 4

    def init(self, terms: Any, t0: Any, t1: Any, y0: Array, args: Any) -> None:
        return None

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Array,
        args: Any,
        solver_state: None,
        made_jump: Any,
    ) -> tuple[Array, None, dict[str, Array], None, diffrax.RESULTS]:
        del solver_state, made_jump
        term, direction = _unwrap(terms)
        u = term.transform(y0)
        real = jnp.finfo(u.dtype).dtype
        sign = jnp.asarray(direction).astype(real)
        h = sign * jnp.asarray(t1 - t0).astype(real)

        def nonlinear(t: Array, c: Array) -> Array:
            return term.nonlinear(jnp.asarray(direction).astype(t.dtype) * t, c, args)

        t0, t1 = jnp.asarray(t0), jnp.asarray(t1)
        times = t0, t0 + (t1 - t0) / 2, t1
        end = _stages(nonlinear, times, u, coefficients(term.eigenvalues(u), h))
        y1 = term.inverse(end)
        dense_info = dict(y0=y0, y1=y1)
        return y1, None, dense_info, None, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Array, args: Any) -> Array:
        return terms.vf(t0, y0, args)


class AbstractSemilinear(AbstractStepped[Evolution]):
    r"""$u_t = Lu + N(u)$ with $L$ diagonal in Fourier series.

    A final class has `eigenvalues` of $L$, and `nonlinear(c)`, the coefficients of $N$
    from the coefficients of $u$; it must dealias products. From one row to
    the next are `substeps` steps of ETDRK4, of order four in their length. The rows
    begin `skip` rows after a sample of the law `initial`.
    """

    substeps: AbstractVar[int]

    @property
    @abc.abstractmethod
    def eigenvalues(self) -> np.ndarray | Array:
        """The eigenvalues of $L$, in the shape of the coefficients (`rfftn`)."""

    @abc.abstractmethod
    def nonlinear(self, c: Array) -> Array:
        """The coefficients of $N(u)$, from the coefficients of $u$."""

    @property
    def term(self) -> SemilinearTerm:
        """The right side as a Diffrax term, whose state is the field on the grid."""
        return SemilinearTerm(
            jnp.asarray(self.eigenvalues),
            lambda t, c, args: self.nonlinear(c),
            jnp.fft.rfftn,
            self._field,
        )

    @property
    def dt(self) -> float:
        """The time of one step."""
        return self.interval / self.substeps

    @property
    def steps(self) -> int:
        """Steps from one row to the next."""
        return self.substeps

    def with_step(self, dt: float, steps: int) -> "AbstractSemilinear":
        """The same equation with another number of steps from row to row."""
        return changed(self, substeps=steps)

    def one_step(self, dtype: Any) -> Callable[[Field], Field]:
        """One step of ETDRK4, whose coefficients are made once."""
        # The loop of Diffrax, which can do more, takes five times as long to compile.
        term, waves = self.term, np.result_type(dtype, np.complex64)
        eigenvalues = term.eigenvalues(jnp.zeros((), waves))
        factors = coefficients(eigenvalues, jnp.asarray(self.dt, dtype))
        none = jnp.zeros((), dtype)
        nonlinear = lambda t, c: term.nonlinear(t, c, None)

        def step(u: Field) -> Field:
            c = _stages(nonlinear, (none, none, none), term.transform(u), factors)
            return term.inverse(c)

        return step

    def terms(self, u: Field, *parameters: Array) -> tuple[Field, ...]:
        """$Lu$ and $N(u)$."""
        c = jnp.fft.rfftn(u)
        linear = multiply(self.term.eigenvalues(c), c)
        return self._field(linear), self._field(self.nonlinear(c))

    def _field(self, c: Array) -> Field:
        return backward(self.grid, c)


def phi_functions(z: Elementwise) -> tuple[Elementwise, Elementwise, Elementwise]:
    r"""$\varphi_1, \varphi_2, \varphi_3$ of real or complex numbers, to rounding."""
    small = jnp.abs(z) < 1
    near = jnp.where(small, z, 0)
    phi3 = jnp.zeros_like(z)
    for term in reversed(TAYLOR):
        phi3 = phi3 * near + term
    phi2 = 0.5 + near * phi3
    phi1 = 1 + near * phi2
    far = jnp.where(small, 1, z)
    far1 = jnp.expm1(far) / far
    far2 = (far1 - 1) / far
    far3 = (far2 - 0.5) / far
    return (
        jnp.where(small, phi1, far1),
        jnp.where(small, phi2, far2),
        jnp.where(small, phi3, far3),
    )


def coefficients(
    eigenvalues: Array, h: ScalarLike
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """The factors of a half and of a whole step of length `h`."""
    h = jnp.asarray(h).astype(eigenvalues.dtype)
    z = h * eigenvalues
    phi1, phi2, phi3 = phi_functions(z)
    half = jnp.exp(z / 2), h / 2 * phi_functions(z / 2)[0]
    full = (
        jnp.exp(z),
        h * (phi1 - 3 * phi2 + 4 * phi3),
        h * (2 * phi2 - 4 * phi3),
        h * (4 * phi3 - phi2),
    )
    return half, full


def _stages(
    nonlinear: Callable[[Array, Array], Array],
    times: tuple[Array, Array, Array],
    u: Array,
    factors: tuple[tuple[Array, ...], tuple[Array, ...]],
) -> Array:
    """The coefficients after one step, from those before it: the four stages."""
    (half, full), (start, middle, end) = factors, times
    n_u = nonlinear(start, u)
    a = multiply(half[0], u) + multiply(half[1], n_u)
    n_a = nonlinear(middle, a)
    b = multiply(half[0], u) + multiply(half[1], n_a)
    n_b = nonlinear(middle, b)
    c = multiply(half[0], a) + multiply(half[1], 2 * n_b - n_u)
    n_c = nonlinear(end, c)
    return (
        multiply(full[0], u)
        + multiply(full[1], n_u)
        + multiply(full[2], n_a + n_b)
        + multiply(full[3], n_c)
    )


def _unwrap(terms: Any) -> tuple[SemilinearTerm, Any]:
    """The term and the direction of time: `diffeqsolve` wraps what it is given."""
    direction = 1
    while not isinstance(terms, SemilinearTerm):
        direction, terms = direction * terms.direction, terms.term
    return terms, direction
