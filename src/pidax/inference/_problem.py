r"""The least-squares problem of one sample, on its unit latent, and its solution.

$$ \min_\epsilon\ \tfrac w2 |\epsilon - \epsilon_0|^2
 + \tfrac12 \Bigl|\frac{M (d(\epsilon) - y - s\eta)}{s}\Bigr|^2
 + \tfrac12 \Bigl|\frac{R(d_M(\epsilon))}{\text{scale}}\Bigr|^2 $$

with $d(\epsilon)$ the fields of the student's sample from $z = \sigma_T\epsilon$, in
physical units, or what a forward map makes of them. $d_M$ are the same fields with
noise-free observations and held entries written over them. Measured linear functions
of the fields, `Affine` constraints, are rows of the second term as well. A `Problem` is
one prior and one likelihood, the same for all samples. A `Case` holds what differs
between samples: $\epsilon_0$, the perturbed values $y + s\eta$, and the condition.

At a minimum $g(\epsilon, \theta) = 0$, with $g$ the gradient of the objective. So the
refined sample is a differentiable function of its arguments $\theta$,

$$ \frac{d\epsilon}{d\theta} = -\Bigl(\frac{\partial g}{\partial\epsilon}\Bigr)^{-1}
   \frac{\partial g}{\partial\theta}, $$

for any solver, with the accuracy of the minimum.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jaxtyping import Array, Bool, Float

from .._checks import is_traced, require
from ..constraint import AbstractConstraint, Affine, All, Observation, Residual
from ..pde import AbstractEquation, AbstractNormaliser
from ..types import (
    Condition,
    Count,
    ElementwiseLike,
    Flag,
    Key,
    Sample,
    Scalar,
    ScalarLike,
    Shape,
    Stacked,
    at_least_float32,
    typed,
)
from ._foreign import as_forward
from ._gauss_newton import dot
from ._minimisers import AbstractMethod, AnySolver, GaussNewton, Optimistix
from ._prior import LatentPrior, Prior, draw

Terms = Float[Array, "3"]  # of the objective: anchor, misfit, residual


class Case(eqx.Module):
    """What differs between samples.

    `start` is the drawn latent, and `own` its fields, if some of them are held;
    `centre` is the anchor, and `values` the values that the fields are compared with;
    `linear_values` are the measured linear functions of the fields.
    """

    start: Sample
    centre: Sample
    own: Stacked | None
    values: Stacked | None
    condition: Condition
    linear_values: tuple[Float[Array, " observation"], ...] = ()
    shift: Float[Array, "*residual"] | None = None  # of a residual that is perturbed


class Point(eqx.Module):
    """A latent, its sample, and the terms of the objective there."""

    latent: Sample
    x: Sample
    terms: Terms


class Problem(eqx.Module):
    r"""The rows whose squares are summed: called as `problem(latent, case)`.

        problem = Problem(student, observation, constraint, scale=0.1)
        refined = refine_sample(problem, latent, key=key)

    **Arguments:**

    - `student`, `observation` and `constraint` as for `refine`. An `Affine` in either
      of the last two is an observation: its misfit is in units of its noise.
    - `scale`: the residual that counts as one standard deviation: one number, or an
      array like the residual. `refine` uses `slack` times the median of
      `constraint.scale_of` over its starting samples.
    - `exact_noise`: the standard deviation that is used for exact observations, a
      number or an array like the fields. `refine` uses `tightness` times the channel's
      standard deviation. An exact value of a linear function has the standard deviation
      that this noise, independent at each entry, gives the function.
    - `slack_on`: `"residual"` or `"solution"`, as for `refine`; `scale` is then of the
      solution, a number or one for each channel.
    - `determinant`: whether $\ln|\det\partial R/\partial u|$ is added to the
      log-likelihood, as for `infer`.
    - `weight`: of the anchor; 0 leaves it out.
    - `free` and `hold`: masks as for `refine`, or None for all and none.
    - `forward` and `normaliser`: as for `infer`. Without a forward map the observations
      are of the student's own fields.
    """

    student: Prior
    observation: Observation | None
    linear: tuple[Affine, ...]
    constraint: AbstractConstraint | None
    noise: Float[Array, "*grid channel"] | None
    linear_noise: tuple[Float[Array, " observation"], ...]
    scale: Float[Array, "*residual"] | None
    root: Scalar  # of the anchor's weight
    free: Bool[Array, "*coordinate"] | None
    hold: Bool[Array, "*grid channel"] | None
    forward: Any  # an equation, or a function of the fields
    normaliser: AbstractNormaliser | None
    slack_on: str = eqx.field(static=True)
    determinant: bool = eqx.field(static=True)

    @typed
    def __init__(
        self,
        student: Prior,
        observation: AbstractConstraint | None = None,
        constraint: AbstractConstraint | None = None,
        *,
        scale: ElementwiseLike | None = None,
        exact_noise: ElementwiseLike | None = None,
        weight: ScalarLike = 1.0,
        free: Bool[Array | np.ndarray, "*coordinate"] | None = None,
        hold: Bool[Array | np.ndarray, "*grid channel"] | None = None,
        forward: Any = None,
        normaliser: AbstractNormaliser | None = None,
        slack_on: str = "residual",
        determinant: bool = False,
    ):
        self.student, self.forward = student, as_forward(forward)
        self.slack_on, self.determinant = slack_on, determinant
        joined = _joined(observation, constraint)
        self.normaliser = joined.normaliser if normaliser is None else normaliser
        self.observation, self.linear, self.constraint = _parts(joined)
        self._check_slack()
        self.scale = None
        if exact_noise is None:
            exact_noise = self._without_exact_values()
        self.noise, self.linear_noise = self.deviations(exact_noise)
        if self.constraint is not None:
            if scale is None:
                raise ValueError(
                    "expected the residual that counts as one standard deviation, got "
                    "none. Pass scale=, such as slack * constraint.scale_of(fields) "
                    "for typical fields."
                )
            self.scale = jnp.asarray(scale, float)
        self.root = jnp.sqrt(jnp.asarray(weight, float))
        self.free = None if free is None else jnp.asarray(free)
        self.hold = None if hold is None else jnp.asarray(hold)
        self._check(joined)

    @property
    def shape(self) -> Shape | None:
        """The shape of a latent, if it is known."""
        chart = None if self.normaliser is None else self.normaliser.shape
        known = [self.student.shape, chart]
        if self.forward is None and not isinstance(self.student, LatentPrior):
            known.append(self.judge.shape)
        return next((shape for shape in known if shape is not None), None)

    def _check(self, joined: All) -> None:
        """Check by shapes alone that samples can be compared with the observations."""
        learned = not isinstance(self.student, LatentPrior)
        if learned and self.normaliser is None:
            raise ValueError(
                "observations are in physical units and samples in the model's "
                "coordinates: expected a normaliser between them, got none. Pass "
                "normaliser= to the observation, the one the model was trained with."
            )
        shape = self.shape
        known = joined.normaliser is not None  # to the observations themselves
        if learned and self.forward is None and known:
            if shape is not None:
                joined.check(shape)
            return
        if shape is None:
            return
        latent = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
        x = jax.eval_shape(lambda e: self.sample(e, None), latent)
        fields = jax.eval_shape(self.restore, x)
        expected = joined.shape
        if isinstance(fields, jax.ShapeDtypeStruct) and expected in (
            None,
            fields.shape,
        ):
            jax.eval_shape(joined.residual_of, fields)
            return
        what = "the prior's samples" if self.forward is None else "the forward map"
        raise ValueError(
            f"observed values are compared with the output of {what}: expected an "
            f"array of shape {expected}, the shape of {joined.subject}, got {fields}. "
            "Observe quantities of this shape, or restrict the output to what is "
            "observed."
        )

    def _check_slack(self) -> None:
        if self.slack_on not in ("residual", "solution"):
            raise ValueError(
                'slack_on must be "residual" or "solution", the error of the unknown '
                f"fields, got {self.slack_on!r}."
            )
        if self.slack_on == "solution" and not isinstance(self.constraint, Residual):
            got = type(self.constraint).__name__
            got = "no constraint" if self.constraint is None else got
            raise ValueError(
                'slack_on="solution" compares the fields with the solver of an '
                f"equation: expected a Residual as the only constraint, got {got}. "
                'Pass px.Residual(equation, normaliser), or slack_on="residual".'
            )
        plain = isinstance(self.constraint, Residual) and self.slack_on == "residual"
        if self.determinant and not plain:
            got = type(self.constraint).__name__
            got = "no constraint" if self.constraint is None else got
            raise ValueError(
                "determinant=True corrects the penalty of an equation's residual: "
                'expected a Residual as the only constraint and slack_on="residual", '
                f"got {got} and {self.slack_on!r}. Leave determinant out."
            )

    @property
    def solves(self) -> bool:
        """Whether every evaluation calls the forward map, or a solver for the slack."""
        return self.forward is not None or self.slack_on == "solution"

    @property
    def judge(self) -> AbstractConstraint:
        """A constraint that knows the coordinates; the equation's, if there is one."""
        parts = (self.constraint, self.observation, *self.linear)
        return next(part for part in parts if part is not None)

    def deviations(
        self, exact_noise: ElementwiseLike
    ) -> tuple[Array | None, tuple[Array, ...]]:
        """The noise of the observation and of the linear functions, with `exact_noise`
        for exact values.
        """
        noise = None
        if self.observation is not None:
            own = self.observation.noise
            noise = jnp.where(own > 0, own, jnp.asarray(exact_noise, own.dtype))

        def linear(part: Affine) -> Array:
            of = part.rows.reshape(-1, *part.shape)
            tight = of * jnp.asarray(exact_noise, of.dtype)
            size = jnp.linalg.norm(tight.reshape(of.shape[0], -1), axis=1)
            return jnp.where(part.noise > 0, part.noise, size)

        return noise, tuple(linear(part) for part in self.linear)

    def _without_exact_values(self) -> Scalar:
        """Any noise, having checked that no exact value needs it."""
        some = [] if self.observation is None else [self.observation.exact.any()]
        some += [(part.noise == 0).any() for part in self.linear]
        exact = jnp.any(jnp.stack(some)) if some else False
        return require(
            jnp.ones(()),
            ~jnp.asarray(exact),
            "some values are observed without noise: expected the standard deviation "
            "that stands for it while optimising, got none. Pass exact_noise=, a "
            "thousandth of the fields' own, or an observation with noise.",
        )

    def __call__(self, latent: Sample, case: Case) -> tuple[dict[str, Array], Point]:
        centre, moved = case.centre, latent
        if self.free is not None:  # the others stay, anchored at their values
            centre = jnp.where(self.free, centre, case.start)
            moved = jnp.where(self.free, latent, case.start)
        x = self.sample(moved, case.condition)
        fields = self.restore(x)
        rows = {"anchor": self.root.astype(latent.dtype) * (latent - centre)}
        apart = self.apart(fields, case)
        if apart:
            rows["misfit"] = jnp.concatenate([part.ravel() for part in apart])
        if self.constraint is not None:
            assert self.scale is not None
            residual = self.residual_of(self.overwrite(fields, case.own))
            rows["residual"] = residual / self.scale.astype(residual.dtype)
            if case.shift is not None:
                rows["residual"] -= case.shift.astype(residual.dtype)
        rows = {name: row.astype(latent.dtype) for name, row in rows.items()}
        zero = jnp.zeros((), latent.dtype)
        names = ("anchor", "misfit", "residual")
        terms = [0.5 * jnp.sum(rows[n] ** 2) if n in rows else zero for n in names]
        return rows, Point(moved, x, jnp.stack(terms))

    def log_likelihood(self, latent: Sample, condition: Condition) -> Scalar:
        """Minus half the squares of misfit and residual, plus the logarithm of the
        determinant, if it is asked for; minus infinity where they are not finite.
        """
        _, point = self(latent, self.case(latent, condition))
        value = self.log_determinant(point.x) - (point.terms[1] + point.terms[2])
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    def log_determinant(self, x: Sample) -> Scalar:
        r"""$\ln|\det\partial R/\partial u|$ for the fields of a sample, up to a
        constant; 0 if it is not asked for.
        """
        if not self.determinant:
            return jnp.zeros((), x.dtype)
        assert isinstance(self.constraint, Residual)
        fields = self.overwrite(self.restore(x), None)
        return self.constraint.log_determinant_of(fields).astype(x.dtype)

    def case(self, latent: Sample, condition: Condition) -> Case:
        """Of a latent that is its own anchor, and the values as they were observed."""
        values = None if self.observation is None else self.observation.values
        linear = tuple(part.values for part in self.linear)
        return Case(latent, latent, None, values, condition, linear)

    def residual_of(self, fields: Stacked) -> Array:
        """What the slack is for: the residual, or the error of the solution."""
        if self.slack_on == "solution":
            assert isinstance(self.constraint, Residual)
            return self.constraint.solution_error_of(fields)
        assert self.constraint is not None
        return self.constraint.residual_of(fields)

    def scale_of(self, fields: Stacked) -> Array:
        """The scale of `residual_of`, for one sample."""
        if self.slack_on == "solution":
            assert isinstance(self.constraint, Residual)
            return self.constraint.solution_scale_of(fields)
        assert self.constraint is not None
        return self.constraint.scale_of(fields)

    def apart(self, fields: Stacked, case: Case) -> list[Array]:
        """The distances of the fields from the observed values, in units of the noise:
        of the observation, and of each of the linear functions.
        """
        found = []
        if self.observation is not None:
            assert case.values is not None
            assert self.noise is not None
            off = fields - case.values.astype(fields.dtype)
            off = off / self.noise.astype(fields.dtype)
            found.append(jnp.where(self.observation.mask, off, 0.0))
        pairs = zip(self.linear, case.linear_values, self.linear_noise, strict=True)
        for part, values, noise in pairs:
            off = part.residual_of(fields) - (values - part.values).astype(fields.dtype)
            found.append(off / noise.astype(fields.dtype))
        return found

    def sample(self, latent: Sample, condition: Condition) -> Sample:
        """The student's sample from the latent, in the model's coordinates."""
        return draw(self.student, latent, condition)

    def own_fields(self, x: Sample) -> Stacked:
        """The fields of a sample in physical units, before the forward map."""
        if self.normaliser is None:
            return x
        if self.judge.normaliser is None:
            return self.normaliser.restore(x.astype(at_least_float32(x.dtype)))
        return self.judge.restore(x)

    def restore(self, x: Sample) -> Stacked:
        """The fields of a sample that are compared with observations: solved, if there
        is a forward map.
        """
        fields = self.own_fields(x)
        if isinstance(self.forward, AbstractEquation):
            return solved(self.forward, fields)
        return fields if self.forward is None else self.forward(fields)

    def overwrite(self, fields: Stacked, own: Stacked | None) -> Stacked:
        """The fields with held entries and noise-free observations
        written over them.
        """
        if self.hold is not None and own is not None:
            fields = jnp.where(self.hold, own, fields)
        if self.observation is None:
            return fields
        return self.observation.project_fields(fields)


def solved(equation: AbstractEquation, fields: Array) -> Stacked:
    """The stacked fields of the equation's solver for the given fields among `fields`.

    These are the stacked fields of the equation, or its given fields alone, one a
    channel.
    """
    if fields.shape == equation.stacked_shape:
        named = equation.unstack(fields)
        given = [getattr(named, name) for name in equation.given]
    elif fields.shape[-1] == len(equation.given):
        given = list(jnp.moveaxis(fields, -1, 0))
    else:
        raise ValueError(
            f"{type(equation).__name__} is solved for {', '.join(equation.given)}: "
            f"expected its stacked fields, shape {equation.stacked_shape}, or "
            f"{len(equation.given)} channels with the given fields, got samples with "
            f"fields of shape {fields.shape}. Use the grid of the prior for the "
            "equation."
        )
    return equation.stack(equation.solve(*given))


def _joined(
    observation: AbstractConstraint | None, constraint: AbstractConstraint | None
) -> All:
    """Observations and constraints, with one normaliser and one shape."""
    given = [part for part in (constraint, observation) if part is not None]
    if not given:
        raise ValueError(
            "expected an observation, a constraint, or both, got neither: there is "
            "nothing to refine towards. Sample the student: student.sample(z)."
        )
    return All(given)


def _parts(
    joined: All,
) -> tuple[Observation | None, tuple[Affine, ...], AbstractConstraint | None]:
    """The observation, measured linear functions, and the other constraints."""
    seen = [part for part in joined.parts if isinstance(part, Observation)]
    linear = tuple(part for part in joined.parts if isinstance(part, Affine))
    measured = (Observation, Affine)
    rest = [part for part in joined.parts if not isinstance(part, measured)]
    while len(seen) > 1:
        seen[:2] = [_together(*seen[:2])]
    judge = rest[0] if len(rest) == 1 else All(rest) if rest else None
    return seen[0] if seen else None, linear, judge


def _together(a: Observation, b: Observation) -> Observation:
    """Two observations of different entries as one."""
    if is_traced(a.mask, b.mask) or (np.asarray(a.mask) & np.asarray(b.mask)).any():
        raise ValueError(
            "expected one observation, got 2, some of them inside the constraint, that "
            "observe the same entries. Put what is observed into one: its mask and "
            "noise say what."
        )
    mix = lambda name: jnp.where(a.mask, getattr(a, name), getattr(b, name))
    grid = b.grid if a.grid is None else a.grid
    mask = a.mask | b.mask
    return Observation(mask, mix("values"), mix("noise"), a.normaliser, grid)


class RefinedSample(eqx.Module):
    """One refined sample, the result of `refine_sample`.

    `fields` are in physical units, `x` in the model's coordinates, `latent` is the unit
    latent of `x`. `terms` are the terms of the objective: anchor, misfit, residual, and
    `history` their values by step. `converged`: it stopped by tolerance. `failed`: the
    solver failed, and this is the best point before. `spent`: evaluations, products
    with the Jacobian and with its transpose. `fields`, `x`, `latent` and `terms` are
    differentiable. `log_weight` is that of `weigh=True`, otherwise None.
    """

    fields: Any  # Stacked
    x: Sample
    latent: Sample
    terms: Terms
    history: Float[Array, "step 3"]
    steps: Count
    converged: Flag
    failed: Flag
    spent: Float[Array, "3"]
    log_weight: Scalar | None = None


@typed
def refine_sample(
    problem: Problem,
    latent: Sample,
    condition: Condition = None,
    *,
    key: Key | None = None,
    centre: Sample | None = None,
    drawn: Stacked | None = None,
    sign: ScalarLike = 1.0,
    solver: AbstractMethod | AnySolver | None = None,
    weigh: bool = False,
) -> RefinedSample:
    r"""The sample near a draw of the prior that solves a least-squares problem.

        problem = Problem(student, observation, constraint, scale=0.1)
        latents = jax.random.normal(key, (64, *student.shape))
        refined = jax.vmap(lambda e: refine_sample(problem, e))(latents)

    Use it under `jax.jit`, `jax.vmap` and `jax.grad`; `refine` does the same in
    batches, with checks of values and costs. Gradients are gradients of the minimum, by
    the implicit function theorem: they cost a linear solve by conjugate gradients, and
    are as accurate as the minimum. If the solver `failed` they have no meaning.

    **Arguments:**

    - `problem`: a `Problem`: student, likelihood, equation.
    - `latent`: the unit latent $\epsilon_0 = z/\sigma_T$ at the start.
    - `condition`: passed to the student.
    - `key`: for a draw of the observations' noise, multiplied by `sign` (-1 for the
      second of an antithetic pair); None adds no noise.
    - `centre`: the anchor of the latent; by default the latent. Zero for the most
      probable latent (MAP).
    - `drawn`: the fields of the latent, if entries are held and they are known.
    - `solver`: as for `refine`.
    - `weigh`: perturb the residual too, and compute the sample's importance weight; see
      `refine`. It needs a `key`, and the latent as its own centre.
    """
    observation, own = problem.observation, drawn
    linear = problem.linear
    if key is not None:
        own_key = lambda i: jax.random.fold_in(key, i)
        linear = [
            part.perturb(key=own_key(i), sign=sign) for i, part in enumerate(linear)
        ]
        if observation is not None:
            observation = observation.perturb(key=key, sign=sign)
    values = None if observation is None else observation.values
    if problem.hold is not None and drawn is None:
        own = problem.restore(problem.sample(latent, condition))
    centre = latent if centre is None else centre
    linear_values = tuple(part.values for part in linear)
    shift = None
    if weigh and key is not None and problem.constraint is not None:
        plain = problem.case(latent, condition)
        struct = jax.eval_shape(lambda e: problem(e, plain)[0]["residual"], latent)
        own_key = jax.random.fold_in(key, len(linear))
        draw = jax.random.normal(own_key, struct.shape, struct.dtype)
        shift = jnp.asarray(sign, struct.dtype) * draw
    case = Case(latent, centre, own, values, condition, linear_values, shift)
    found = _minimum(problem, case, as_method(solver))
    fields = problem.overwrite(problem.restore(found.x), own)
    log_weight = _log_weight(problem, case, found) if weigh else None
    return dataclasses.replace(found, fields=fields, log_weight=log_weight)


def _log_weight(problem: Problem, case: Case, found: RefinedSample) -> Scalar:
    r"""The logarithm of the importance weight of a minimum, up to a constant.

    With $g$ the misfit and residual in units of their noise, and $J = g'$, the minimum
    $\epsilon$ of $|\epsilon - \epsilon_0|^2/2 + |g - \eta|^2/2$ has $\epsilon_0 =
    \epsilon + J^T(g - \eta)$. So the density of $(\epsilon, \eta)$ is known,
    $N(\epsilon_0) N(\eta) |\det H|$ with the Hessian $H$. The posterior of $\epsilon$
    times a Gaussian law of $\eta$, the one of which the density is when $H$ is left
    out, is divided by it:

    $$ \ln w = -\tfrac12(|\epsilon|^2 + |g|^2) + \tfrac12 b^T N^{-1} b
       + \tfrac12\ln\det N - \ln\det H, \qquad
       N = I + J^T J, \quad b = \epsilon + J^T g, $$

    plus the logarithm of the determinant of the equation, if it is asked for.
    """
    shape, dtype = found.latent.shape, found.latent.dtype
    plain = problem.case(case.start, case.condition)

    def told(flat: Array) -> Array:
        rows = problem(flat.reshape(shape), plain)[0]
        return jnp.concatenate([r.ravel() for n, r in rows.items() if n != "anchor"])

    def objective(flat: Array) -> Scalar:
        return problem(flat.reshape(shape), case)[1].terms.sum()

    e = found.latent.ravel()
    g, jacobian = told(e), jax.jacfwd(told)(e)
    normal = jnp.eye(e.size, dtype=dtype) + jacobian.T @ jacobian
    b = e + jacobian.T @ g
    factor = jnp.linalg.cholesky(normal)
    white = jax.scipy.linalg.solve_triangular(factor, b, lower=True)
    half_det = jnp.sum(jnp.log(jnp.diag(factor)))
    sign, log_det = jnp.linalg.slogdet(jax.hessian(objective)(e))
    size = jnp.sum(e**2) + jnp.sum(g**2) - jnp.sum(white**2)
    value = -0.5 * size + half_det - log_det + problem.log_determinant(found.x)
    fine = (sign > 0) & ~found.failed & jnp.isfinite(value)
    return jnp.where(fine, value, -jnp.inf)


def as_method(solver: AbstractMethod | AnySolver | None) -> AbstractMethod:
    """Gauss-Newton by default; Optimistix solvers are wrapped."""
    if solver is None:
        return GaussNewton()
    return solver if isinstance(solver, AbstractMethod) else Optimistix(inner=solver)


@eqx.filter_custom_jvp
def _minimum(problem: Problem, case: Case, method: AbstractMethod) -> RefinedSample:
    return minimise(method, problem, case.start, case)


@_minimum.def_jvp
def _implicit(primals: tuple, tangents: tuple) -> tuple[RefinedSample, RefinedSample]:
    """The tangent of a minimum, of its sample, and of the terms there."""
    found = _minimum(*primals)
    y = found.latent
    moves = jax.tree.map(lambda t: t is not None, tangents, is_leaf=lambda t: t is None)
    moving, fixed = eqx.partition(primals, moves)

    def at(y: Sample, moving: Any) -> Point:
        problem, case, _ = eqx.combine(moving, fixed)
        return problem(y, case)[1]

    def gradient(y: Sample, moving: Any) -> Sample:
        return jax.grad(lambda y: at(y, moving).terms.sum())(y)

    hessian = lambda v: jax.jvp(lambda y: gradient(y, moving), (y,), (v,))[1]
    change = jax.jvp(lambda m: gradient(y, m), (moving,), (tangents,))[1]
    tol = float(jnp.finfo(y.dtype).eps) ** (2 / 3)
    symmetric = lx.positive_semidefinite_tag
    curvature = lx.FunctionLinearOperator(hessian, jax.eval_shape(lambda: y), symmetric)
    found_by = lx.CG(tol, 0.0, max_steps=10 * y.size)
    step = lx.linear_solve(curvature, -change, found_by, throw=False).value
    best = jax.jvp(at, (y, moving), (step, tangents))[1]
    rest: Any = [None] * 5  # counts have no tangent
    return found, RefinedSample(None, best.x, best.latent, best.terms, *rest)


class _Carry(eqx.Module):
    latent: Sample
    state: Any
    step: Count
    best: Point
    last: Terms
    history: Float[Array, "step 3"]
    finished: Flag
    fine: Flag


def minimise(
    method: AbstractMethod, fn: Callable, start: Sample, args: Any
) -> RefinedSample:
    """Minimise half the square of `fn(latent, args)`, which returns rows and a
    `Point`.

    Optimistix's `step` returns as `aux` the values at the point from which it
    *started*. Therefore the point of a value is always known, the best point is kept,
    and no result is worse than the start. If no objective was finite there is no best
    point: the solve has failed, and returns its start.
    """
    solver, rows_of = method.solver(), fn
    minimiser = not isinstance(solver, optx.AbstractLeastSquaresSolver)

    def halved(y: Sample, args: Any) -> tuple[Scalar, Point]:
        rows, point = rows_of(y, args)
        return 0.5 * dot(rows, rows), point

    fn = eqx.filter_closure_convert(halved if minimiser else fn, start, args)
    struct = jax.eval_shape(fn, start, args)
    # Optimistix and Optax compute by JAX's standard
    # promotion; a user's session may be strict.
    with jax.numpy_dtype_promotion("standard"):
        return _loop(method, solver, minimiser, fn, start, args, struct)


def _loop(
    method: AbstractMethod,
    solver: AnySolver,
    minimiser: bool,
    fn: Callable,
    start: Sample,
    args: Any,
    struct: Any,
) -> RefinedSample:
    tags = frozenset()
    values, aux = struct
    state = solver.init(fn, start, args, {}, values, aux, tags)
    moving, fixed = eqx.partition(state, eqx.is_array)

    def body(c: _Carry) -> _Carry:
        state = eqx.combine(c.state, fixed)
        latent, state, seen = solver.step(fn, c.latent, args, {}, state, tags)
        done, result = solver.terminate(fn, latent, args, {}, state, tags)
        fine = (result == optx.RESULTS.successful) & jnp.isfinite(latent).all()
        last, best = _seen(seen, c.last, c.best)
        history = c.history.at[c.step].set(last)
        moving = eqx.filter(state, eqx.is_array)
        return _Carry(latent, moving, c.step + 1, best, last, history, done, fine)

    def going(c: _Carry) -> Flag:
        return c.fine & ~c.finished & (c.step < method.steps)

    nowhere = jax.tree.map(lambda s: jnp.full(s.shape, jnp.inf, s.dtype), struct[1])
    history = jnp.zeros((method.steps + 1, 3), start.dtype)
    no, none = jnp.asarray(False), jnp.zeros((), int)
    first = _Carry(start, moving, none, nowhere, nowhere.terms, history, no, ~no)
    c = jax.lax.while_loop(going, body, first)
    lost = ~jnp.isfinite(c.best.terms).all()  # not one point with a finite objective
    at, fine = jnp.where(lost, start, c.latent), c.fine & ~lost
    if minimiser:
        # A gradient whose square overflows gives no step, which looks like convergence.
        slope, end = jax.grad(fn, has_aux=True)(at, args)
        fine = fine & jnp.isfinite(dot(slope, slope))
    else:
        end = fn(at, args)[1]
    last, best = _seen(end, c.last, c.best)
    best = jax.tree.map(lambda new, old: jnp.where(lost, new, old), end, best)
    later = jnp.arange(method.steps + 1) >= c.step
    spent = method.spent(eqx.combine(c.state, fixed), c.step)
    at_the_end = jnp.array([1.0, 0.0, float(minimiser)])
    return RefinedSample(
        fields=None,  # which the problem says
        x=best.x,
        latent=best.latent,
        terms=best.terms,
        history=jnp.where(later[:, None], last, c.history),
        steps=c.step,
        converged=c.finished & fine,
        failed=~fine,
        spent=jnp.stack([jnp.asarray(n, float) for n in spent]) + at_the_end,
    )


def _seen(point: Point, last: Terms, best: Point) -> tuple[Terms, Point]:
    """The last finite terms and the best point, including this one."""
    finite = jnp.isfinite(point.terms).all() & jnp.isfinite(point.latent).all()
    better = finite & (point.terms.sum() < best.terms.sum())
    keep = lambda new, old: jnp.where(better, new, old)
    return jnp.where(finite, point.terms, last), jax.tree.map(keep, point, best)
