r"""The least-squares problem of one sample, on its unit latent.

$$ \min_\epsilon\ \tfrac w2 |\epsilon - \epsilon_0|^2
 + \tfrac12 \Bigl|\frac{M (d(\epsilon) - y - s\eta)}{s}\Bigr|^2
 + \tfrac12 \Bigl|\frac{R(d_M(\epsilon))}{\text{scale}}\Bigr|^2 $$

with $d(\epsilon)$ the fields of the student's sample from $z = \sigma_T\epsilon$, in
physical units, or what a forward map makes of them. $d_M$ are the same fields with
noise-free observations and held entries written over them. Measured linear functions
of the fields, `Affine` constraints, are rows of the second term as well. A `Problem` is
one prior and one likelihood, the same for all samples. A `Case` holds what differs
between samples: $\epsilon_0$, the draw of the noise $\eta$, and the condition.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import is_traced, require
from ..constraint import AbstractConstraint, Affine, All, Observation, Residual
from ..pde import AbstractEquation, AbstractNormaliser
from ..types import (
    Condition,
    ElementwiseLike,
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
from ._prior import LatentPrior, Prior, draw, is_learned

Terms = Float[Array, "3"]  # of the objective: anchor, misfit, residual


class Case(eqx.Module):
    """What differs between samples.

    `start` is the drawn latent, and `own` its fields, if some of them are held;
    `centre` is the anchor. `shift` is the draw of the noise, in its own units, of the
    rows with these names.
    """

    start: Sample
    centre: Sample
    own: Stacked | None
    condition: Condition
    shift: dict[str, Array] = eqx.field(default_factory=dict)


class Point(eqx.Module):
    """A latent, its sample, and the terms of the objective there."""

    latent: Sample
    x: Sample
    terms: Terms


class Problem(eqx.Module):
    r"""The rows whose squares are summed: called as `problem(latent, case)`.

        problem = Problem(student, observation, constraint, scale=0.1)
        refined = minimise(problem, latent, key=key)

    **Arguments:**

    - `student`, `observation` and `constraint` as for `refine`. An `Affine` in either
      of the last two is an observation: its misfit is in units of its noise. With
      neither it is the prior alone, with its forward map.
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
        own = None if joined is None else joined.normaliser
        self.normaliser = own if normaliser is None else normaliser
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
        if joined is not None:
            self._check(joined)

    @property
    def shape(self) -> Shape | None:
        """The shape of a latent, if it is known."""
        chart = None if self.normaliser is None else self.normaliser.shape
        known = [self.student.shape, chart]
        judged = self.forward is None and not isinstance(self.student, LatentPrior)
        if judged and self.judge is not None:
            known.append(self.judge.shape)
        return next((shape for shape in known if shape is not None), None)

    def _check(self, joined: All) -> None:
        """Check by shapes alone that samples can be compared with the observations."""
        learned = is_learned(self.student)
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
    def judge(self) -> AbstractConstraint | None:
        """A constraint that knows the coordinates; the equation's, if there is one."""
        parts = (self.constraint, self.observation, *self.linear)
        return next((part for part in parts if part is not None), None)

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
        rows |= self.told(fields, case.own)
        for name, shift in case.shift.items():
            rows[name] -= shift.astype(rows[name].dtype)
        rows = {name: row.astype(latent.dtype) for name, row in rows.items()}
        zero = jnp.zeros((), latent.dtype)
        names = ("anchor", "misfit", "residual")
        terms = [0.5 * jnp.sum(rows[n] ** 2) if n in rows else zero for n in names]
        return rows, Point(moved, x, jnp.stack(terms))

    def told(self, fields: Stacked, own: Stacked | None = None) -> dict[str, Array]:
        """The rows of fields that are judged: misfit and residual. `own` are the fields
        whose held entries are written over them.
        """
        rows, apart = {}, self.apart(fields)
        if apart:
            rows["misfit"] = jnp.concatenate([part.ravel() for part in apart])
        if self.constraint is not None:
            assert self.scale is not None
            residual = self.residual_of(self.overwrite(fields, own))
            rows["residual"] = residual / self.scale.astype(residual.dtype)
        return rows

    def log_likelihood(self, latent: Sample, condition: Condition) -> Scalar:
        """Of a latent: `log_likelihood_of` its fields."""
        value = self.log_likelihood_of(self.restore(self.sample(latent, condition)))
        return value.astype(latent.dtype)

    def log_likelihood_of(self, fields: Stacked) -> Scalar:
        """Minus half the squares of misfit and residual, plus the logarithm of the
        determinant, if it is asked for; minus infinity where they are not finite.
        """
        squares = [0.5 * jnp.sum(row**2) for row in self.told(fields).values()]
        value = self.log_determinant(fields) - sum(squares)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    def log_determinant(self, fields: Stacked) -> Scalar:
        r"""$\ln|\det\partial R/\partial u|$ up to a constant; 0 if it is not asked
        for.
        """
        if not self.determinant:
            return jnp.zeros((), fields.dtype)
        assert isinstance(self.constraint, Residual)
        mixed = self.overwrite(fields, None)
        return self.constraint.log_determinant_of(mixed).astype(fields.dtype)

    def case(self, latent: Sample, condition: Condition) -> Case:
        """Of a latent that is its own anchor, and the values as they were observed."""
        return Case(latent, latent, None, condition)

    def draw_noise(self, key: Key) -> dict[str, Array]:
        """A draw of the noise of the observed values, in units of their own noise, for
        `Case.shift`; zero for exact values.
        """
        parts, keys = [], [jax.random.fold_in(key, i) for i in range(len(self.linear))]
        if (seen := self.observation) is not None:
            draw = jax.random.normal(key, seen.values.shape, seen.values.dtype)
            parts.append(jnp.where(seen.mask & (seen.noise > 0), draw, 0.0).ravel())
        for part, own in zip(self.linear, keys, strict=True):
            draw = jax.random.normal(own, part.values.shape, part.values.dtype)
            parts.append(jnp.where(part.noise > 0, draw, 0.0))
        return {"misfit": jnp.concatenate(parts)} if parts else {}

    def simulate(self, fields: Stacked, key: Key) -> list[AbstractConstraint]:
        """The observation and the linear functions, with the values that these fields
        would have, and a draw of their noise.
        """
        off, found, at = self.draw_noise(key)["misfit"], [], 0
        noises = [self.noise, *self.linear_noise]
        for part, noise in zip((self.observation, *self.linear), noises, strict=True):
            if part is None or noise is None:
                continue
            size = part.values.size
            eta = off[at : at + size].reshape(part.values.shape)
            at += size
            if isinstance(part, Observation):
                values = jnp.where(part.mask, fields, 0.0)
            else:
                values = part.residual_of(fields) + part.values
            values = (values + noise * eta).astype(part.values.dtype)
            found.append(eqx.tree_at(lambda p: p.values, part, values))
        return found

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

    def apart(self, fields: Stacked) -> list[Array]:
        """The distances of the fields from the observed values, in units of the noise:
        of the observation, and of each of the linear functions.
        """
        found = []
        if self.observation is not None:
            assert self.noise is not None
            off = fields - self.observation.values.astype(fields.dtype)
            off = off / self.noise.astype(fields.dtype)
            found.append(jnp.where(self.observation.mask, off, 0.0))
        for part, noise in zip(self.linear, self.linear_noise, strict=True):
            off = part.residual_of(fields)
            found.append(off / noise.astype(fields.dtype))
        return found

    def sample(self, latent: Sample, condition: Condition) -> Sample:
        """The student's sample from the latent, in the model's coordinates."""
        return draw(self.student, latent, condition)

    def own_fields(self, x: Sample) -> Stacked:
        """The fields of a sample in physical units, before the forward map."""
        if self.normaliser is None:
            return x
        if self.judge is None or self.judge.normaliser is None:
            return self.normaliser.restore(x.astype(at_least_float32(x.dtype)))
        return self.judge.restore(x)

    def restore(self, x: Sample) -> Stacked:
        """The fields of a sample that are compared with observations: solved, if there
        is a forward map.
        """
        return self.through(self.own_fields(x))[0]

    def through(self, own: Stacked) -> tuple[Stacked, Array | None]:
        """What is compared with observations, of the fields before the forward map; and
        the output of the map once more, unless it is an equation's solver.
        """
        if isinstance(self.forward, AbstractEquation):
            return solved(self.forward, own), None
        if self.forward is None:
            return own, None
        predicted = self.forward(own)
        return predicted, predicted

    def outputs(
        self, latent: Sample, condition: Condition
    ) -> tuple[Stacked, Array | None]:
        """The fields that a result has, and what another forward map than an equation
        makes of them. The last one that is not None is compared with observations.
        """
        own = self.own_fields(self.sample(latent, condition))
        seen, predicted = self.through(own)
        return seen if predicted is None else own, predicted

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
) -> All | None:
    """Observations and constraints, with one normaliser and one shape."""
    given = [part for part in (constraint, observation) if part is not None]
    return All(given) if given else None


def _parts(
    joined: All | None,
) -> tuple[Observation | None, tuple[Affine, ...], AbstractConstraint | None]:
    """The observation, measured linear functions, and the other constraints."""
    if joined is None:
        return None, (), None
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
