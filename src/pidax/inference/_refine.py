r"""PIDDM-ref: move the latent of a one-step sample until physics and data agree.

One evaluation makes a sample from its latent, so that what a sample should satisfy is
a function of the latent, and nothing is differentiated through a solver. Zhang et al.
2025, "Physics-informed distillation of diffusion models for PDE-constrained
generation", minimise the residual of what the student makes of a latent, starting from
a draw. Each sample is here a least-squares problem on its unit latent, which is kept
where it was drawn by an anchor:

$$ \min_\epsilon\ \tfrac12 |\epsilon - \epsilon_0|^2
 + \tfrac12 \Bigl|\frac{M (d(\epsilon) - y - s\eta)}{s}\Bigr|^2
 + \tfrac12 \Bigl|\frac{R(d_M(\epsilon))}{\text{scale}\cdot\text{slack}}\Bigr|^2,
 \qquad \epsilon_0, \eta \sim N(0, I). $$

Randomise, then optimise (Bardsley, Solonen, Haario & Laine 2014): with the prior's
draw and a draw of the observations' noise in it, the minimisers are samples of the
posterior: exactly so where $d$ and $R$ are linear, and approximately otherwise. Without
the anchor they leave the prior; without the noise their spread is too small; anchored
to zero all are the one most probable latent.
"""

import dataclasses
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._batches import batch_length, batch_rows
from .._checks import (
    check_condition,
    is_traced,
    require_finite,
    require_positive,
    whole_number,
)
from .._progress import advance, progress_bar
from .._table import number, row
from ..constraint import AbstractConstraint, Observation
from ..student import AbstractStudent, sample_keys
from ..types import (
    Batch,
    BatchLike,
    Condition,
    Key,
    Sample,
    ScalarLike,
    Shape,
    WholeLike,
    typed,
)
from ._cost import Clock, Cost, Training
from ._minimisers import AbstractMethod, AnySolver
from ._problem import Problem, RefinedSample, as_method, refine_sample

_ANCHORS = ("draw", "norm", None)
_WIDTHS = (12, 12)
_LABEL = 34
_KINDS = {
    "draw": "samples of the posterior (randomise, then optimise)",
    "norm": "MAP: the most probable latent, whose spread is zero",
    None: "no anchor: the draws leave the prior, and their law is not the posterior",
}


@dataclasses.dataclass(frozen=True)
class History:
    """The terms of the objective, [sample, step], from the start on.

    Each is half a sum of squares. A sample that has stopped keeps its last values; a
    value that was not finite is the one before it.
    """

    anchor: Float[np.ndarray, "sample step"]
    misfit: Float[np.ndarray, "sample step"]
    residual: Float[np.ndarray, "sample step"]

    @property
    def objective(self) -> Float[np.ndarray, "sample step"]:
        """The sum of the terms."""
        return self.anchor + self.misfit + self.residual


@dataclasses.dataclass(frozen=True)
class Refined:
    """Refined samples, one for each draw.

    **Fields:**

    - `fields`: in physical units, the noise-free observations to the last bit, and
      what was held as it was drawn.
    - `x`: the student's sample, in the model's coordinates: the same fields without
      either put in. `latent` is the unit latent that it comes from, `start` the one it
      was drawn with.
    - `best`: the terms of the objective at `latent`: anchor, misfit, residual.
    - `history`: a `History`, of every step; `steps`: how many each sample took.
    - `converged`: whether it stopped by tolerance, and not by the number of steps.
    - `failed`: whether the solver broke down (an entry not finite, or no better point
      however short the step). The sample is then the best point before.
    - `relative`: the residual of `fields` relative to its scale, root mean square,
      and `relative_start` before refinement; NaN without a constraint.
    - `cost`: the ledger. `anchor`, `weight`, `method` and `held`, how many entries of
      each were, say how it was made.

    Print it.
    """

    fields: Float[np.ndarray, "sample *grid channel"]
    x: Float[np.ndarray, "sample *event"]
    latent: Float[np.ndarray, "sample *event"]
    start: Float[np.ndarray, "sample *event"]
    best: Float[np.ndarray, "sample 3"]
    history: History
    steps: Int[np.ndarray, " sample"]
    converged: Bool[np.ndarray, " sample"]
    failed: Bool[np.ndarray, " sample"]
    relative: Float[np.ndarray, " sample"]
    relative_start: Float[np.ndarray, " sample"]
    cost: Cost
    anchor: str | None
    weight: float
    method: str
    held: int = 0

    @property
    def kind(self) -> str:
        """What these samples are samples of, in words."""
        if self.anchor is not None and self.held:
            return (
                f"{self.held} entries of each held as drawn, the others made to agree "
                "with them (their law given these as slack goes to 0)"
            )
        if self.anchor is not None and self.weight != 1:
            return (
                f"{_KINDS[self.anchor].split(' (')[0].split(':')[0]} only with an "
                f"anchor of weight 1, here {self.weight:g}"
            )
        return _KINDS[self.anchor]

    def __str__(self) -> str:
        count, done = len(self.fields), int(self.converged.sum())
        lines = [
            f"{count} refined by {self.method}: {self.kind}",
            row("median over samples", "start", "end", widths=_WIDTHS, label=_LABEL),
        ]
        for i, name in enumerate(("anchor", "misfit", "residual")):
            start = np.median(getattr(self.history, name)[:, 0])
            ends = number(start), number(np.median(self.best[:, i]))
            lines.append(row(f"  {name}", *ends, widths=_WIDTHS, label=_LABEL))
        if not np.isnan(self.relative).all():
            ends = [number(np.median(r)) for r in (self.relative_start, self.relative)]
            label = "  relative residual"
            lines.append(row(label, *ends, widths=_WIDTHS, label=_LABEL))
        lines.append(
            f"{done} of {count} stopped by tolerance, {int(self.failed.sum())} failed; "
            f"steps: {self.steps.mean():.1f}, at most {self.steps.max()}"
        )
        return "\n".join([*lines, str(self.cost)])


@typed
def refine(
    student: AbstractStudent,
    observation: Observation | None = None,
    constraint: AbstractConstraint | None = None,
    *,
    key: Key,
    samples: WholeLike = 64,
    z: BatchLike | None = None,
    condition: Condition = None,
    solver: AbstractMethod | AnySolver | None = None,
    anchor: str | None = "draw",
    anchor_weight: ScalarLike = 1.0,
    slack: ScalarLike = 1e-2,
    tightness: ScalarLike = 1e-3,
    antithetic: bool = False,
    free: Bool[Array | np.ndarray, "*event"] | None = None,
    hold: Bool[Array | np.ndarray, "*grid channel"] | None = None,
    batch_size: WholeLike = 256,
    training: Training | None = None,
    progress: bool = True,
) -> Refined:
    r"""Samples of a student that satisfy an equation and agree with observations.

        constraint = px.Residual(darcy, normaliser)
        px.refine(student, constraint=constraint, key=key)             # PIDDM-ref
        px.refine(student, Observation.of(darcy, coefficient=a), constraint, key=key)
        px.refine(student, Observation.of(darcy, solution=u), constraint, key=key)
        px.refine(student, Observation.of(darcy, solution=(mask, u), noise=1e-3),
                  constraint, key=key)

    without observations, the forward problem, the inverse problem, and reconstruction:
    only the mask differs. Each sample starts from a draw of its own, so that several
    are several answers, and by default samples of the posterior: approximate unless
    the student and the equation are linear. `refine_sample` does one, for `jax.jit`,
    `jax.vmap` and `jax.grad`.

    **Arguments:**

    - `student`: a `Student`, or an `ExactStudent`. `condition`: what it is called
      with, one for all or with the sample as the first axis.
    - `observation`: what is known of the fields, in physical units. Where its noise is
      0 the value holds exactly in what is returned; while optimising, `tightness`
      standard deviations of that channel (over the starting samples) stand for its
      noise.
    - `constraint`: a `Residual`. The fields it judges have the noise-free observations
      written over them. `slack`: the relative residual that counts, at each point, as
      one standard deviation; the paper's $\lambda$ is $1/\text{slack}^2$. What it is
      relative to is held fixed: the median over the starting samples. It is not
      perturbed, as an equation has no noise; where student and equation are linear,
      the samples are those of the posterior given the equation as `slack` goes to 0.
    - `anchor`: `"draw"` anchors each latent to its draw and perturbs noisy
      observations by their own noise: posterior samples, approximate unless student
      and equation are linear. `"norm"` anchors to zero:
      MAP, the most probable latent, from every start the same (where there are
      several optima, the nearest), so that the spread means nothing. `None` leaves out
      the first term, as the paper does: the draws leave the prior.
    - `anchor_weight`: in front of the first term. What is minimised with another than
      1 is no posterior.
    - `samples` draws are made, or the prior draws `z` are taken (`process.prior`).
      `batch_size` of them are solved at once, and wait for the slowest; the last batch
      is filled up, so that another number of samples compiles nothing new. The samples
      are the same for any, but for rounding: programs of different sizes add in
      different orders. Where the objective has several optima, or float32 has no
      digits left for it, this may decide which point is found.
    - `antithetic`: draw in pairs of opposite latents and opposite noise, the second
      half of the samples the first one's opposites. The mean of a pair has no sampling
      error where the student is linear, and less where it is nearly so; a spread needs
      as many pairs as it needed samples.
    - `hold`: a mask of entries of the stacked fields that stay exactly as they were
      drawn, in what is judged and in what is returned. To ask for a small residual is
      to condition on it, and an imperfect student then moves to coefficients for which
      it happens to be small. With `hold=equation.given_mask` the solution follows what
      is given and not the reverse, and the law of what is given is the student's own.
      All latents serve the others: these are samples of a posterior only as `slack`
      goes to 0, where the equation alone says what follows.
    - `free`: a mask of the latent's entries that may move; the others stay as drawn. In
      a chart of what is given and what that leaves unexplained, `free=~chart.given`
      moves the latents of the second alone. A network that sees all latents
      (`nn.blockwise`: each does) may still move what is given with them: `hold` is
      what holds fields.
    - `solver`: `GaussNewton()` unless said; `LBFGS()`, `Adam()`, or any least-squares
      solver or minimiser of Optimistix.
    - `training`: what the student had cost before, for the ledger, which cannot know
      it: `Cost.of_training(result, seconds=...).training`. Unless said it is zero.
    - `progress`: show a bar, which says "compiling" until the first batch is done.

    A sample is never worse, in the objective, than its start. If the solver breaks down
    in some, a warning says so, and `failed` says in which.
    """
    if is_traced((student, observation, constraint)):
        raise ValueError(
            "refine compiles, times and checks its own runs: expected to be called "
            "from Python, got traced arguments. Call it outside jax.jit, vmap and "
            "grad, or px.inference.refine_sample inside."
        )
    if anchor not in _ANCHORS:
        raise ValueError(
            f"anchor must be 'draw' (posterior samples), 'norm' (MAP) or None, got "
            f"{anchor!r}."
        )
    require_positive(anchor_weight=anchor_weight, slack=slack, tightness=tightness)
    samples = whole_number("samples", samples)
    batch_size = whole_number("batch_size", batch_size)
    method = as_method(solver)
    # The likelihood is known when the starting samples are.
    weight = 0.0 if anchor is None else float(anchor_weight)
    problem = Problem(
        student, observation, constraint, weight=weight, scale=1.0, exact_noise=1.0
    )
    latents = _draw_latents(student, z, samples, problem.shape, key, antithetic)
    count, shape = latents.shape[0], latents.shape[1:]
    condition = check_condition(condition, count)
    free, hold = _check_free(free, shape), _check_hold(hold, problem)
    clock = Clock()
    # Of one sample XLA makes another program than of several, which rounds
    # differently: so there are two at least.
    size = max(2, batch_length(count, batch_size))
    batches = batch_rows(count, size)

    def run(function: Any, *args: Any, bar: Any = None) -> Any:
        """Of each batch, joined; the last of `args` are of all samples."""
        *fixed, own = args
        parts = []
        for rows in batches:
            take = lambda leaf, rows=rows: jnp.asarray(leaf[rows])
            parts.append(clock.run(function, *fixed, jax.tree.map(take, own)))
            if bar is not None:
                advance(bar, min(size, count - bar.n))
        return jax.tree.map(lambda *leaf: np.concatenate(leaf)[:count], *parts)

    with progress_bar(count, "refine", "sample", progress) as bar:
        start = run(_measure, problem, (latents, condition))
        likelihood = _likelihood(problem, start, float(slack), float(tightness))
        problem = eqx.tree_at(
            lambda p: (p.noise, p.scale, p.free, p.hold),
            problem,
            (
                *likelihood,
                jnp.asarray(free),
                jnp.asarray(np.zeros(start.fields.shape[1:], bool) | hold),
            ),
            is_leaf=lambda leaf: leaf is None,
        )
        numbers = batches.ravel()  # of which the opposites share their key
        signs = np.full(count, float(anchor == "draw"), latents.dtype)
        if antithetic:
            numbers = numbers % (count // 2)
            signs[count // 2 :] *= -1
        centres = np.zeros_like(latents) if anchor == "norm" else latents
        own: dict[str, Any] = dict(
            latent=latents,
            condition=condition,
            key=sample_keys(key, jnp.asarray(numbers), 1),
            sign=signs,
            centre=centres,
            drawn=start.fields,
        )
        found, relative = run(_solve, method, problem, own, bar=bar)
    if found.failed.any():
        warnings.warn(
            f"the solver broke down in {found.failed.sum()} of {count} samples (the "
            f"first is sample {found.failed.argmax()}): an entry was not finite, or no "
            "step made the objective smaller. They are returned as the best point "
            "before, never worse than their start; `failed` says which. Allow more "
            "slack, or take another solver.",
            stacklevel=2,
        )
    network, jvp, vjp = found.spent.sum(axis=0, dtype=float)
    network += count  # the start was sampled once before
    cost = Cost(
        samples=count,
        network=float(network),
        jvp=float(jvp),
        vjp=float(vjp),
        residual=0.0 if problem.constraint is None else float(network + count),
        seconds=clock.running,
        compiling=clock.compiling,
        training=Training() if training is None else training,
    )
    return Refined(
        fields=found.fields,
        x=found.x,
        latent=found.latent,
        start=latents,
        best=found.terms,
        history=History(*np.moveaxis(found.history, -1, 0)),
        steps=found.steps,
        converged=found.converged,
        failed=found.failed,
        relative=relative,
        relative_start=start.relative,
        cost=cost,
        anchor=anchor,
        weight=float(anchor_weight),
        method=type(method).__name__,
        held=int(np.sum(hold)),
    )


def _draw_latents(
    student: AbstractStudent,
    z: BatchLike | None,
    samples: int,
    shape: Shape | None,
    key: Key,
    antithetic: bool,
) -> np.ndarray:
    """The unit latents: of the given draws of the prior, or new ones, one a sample."""
    if antithetic and (z is not None or samples % 2):
        raise ValueError(
            "antithetic draws are made in pairs: expected an even number of samples "
            f"and no z, got samples={samples}, z {'none' if z is None else 'given'}. "
            "Leave antithetic out for draws of your own."
        )
    if z is not None:
        z = require_finite("z", jnp.asarray(z), "Check how it was made.")
        if shape is not None and z.shape[1:] != shape:
            raise ValueError(
                f"z must be draws of the prior, (sample, ...) with samples of shape "
                f"{shape}, got {z.shape}. Draw them with process.prior(key, (count, "
                "...)), or leave z out."
            )
        process = student.process
        return np.asarray(z / process.sigma(jnp.asarray(process.t_max, z.dtype)))
    if shape is None:
        raise ValueError(
            "the shape of one sample is not known, got None from student and "
            "constraint. Pass z=, or shape= to Student."
        )
    drawn = samples // 2 if antithetic else samples
    rows = batch_rows(drawn, batch_length(drawn, 2 * drawn))
    unit = np.asarray(_normal(key, jnp.asarray(rows[0]), shape))[:drawn]
    return np.concatenate([unit, -unit]) if antithetic else unit


@eqx.filter_jit
def _normal(key: Key, rows: Int[Array, " sample"], shape: Shape) -> Batch:
    draw = lambda key: jax.random.normal(key, shape)
    return jax.vmap(draw)(sample_keys(key, rows, 0))


def _check_free(free: Any, shape: Shape) -> np.ndarray:
    """A mask of one latent's entries, of which some are free: all, unless said."""
    mask = np.ones(shape, bool) if free is None else np.asarray(free)
    if mask.shape != shape or not mask.any():
        raise ValueError(
            f"free is a mask of the entries of one latent, shape {shape}, of which "
            f"some are True, got shape {mask.shape} with {int(mask.sum())} of them. "
            "Pass ~chart.given, or leave it out."
        )
    return mask


def _check_hold(hold: Any, problem: Problem) -> np.ndarray:
    """A mask of entries of the stacked fields, some of them held, none observed."""
    if hold is None:
        return np.asarray(False)
    mask = np.asarray(hold)
    judges = (problem.constraint, problem.observation)
    known = (j.shape for j in judges if j is not None and j.shape is not None)
    shape = next(known, mask.shape)
    if mask.shape != shape or not mask.any() or mask.all():
        raise ValueError(
            f"hold is a mask of the entries of stacked fields, shape {shape}, of which "
            f"some are True and some are not, got shape {mask.shape} with "
            f"{int(mask.sum())} of {mask.size}. Pass equation.given_mask, or leave it "
            "out."
        )
    if problem.observation is not None:
        both = mask & np.asarray(problem.observation.mask)
        if both.any():
            raise ValueError(
                "what is held stays as it was drawn, whatever is observed of it: "
                f"expected other entries in hold than in the observation, got "
                f"{both.sum()} in both. Leave hold out where the held fields are "
                "what is asked for."
            )
    return mask


class _Start(NamedTuple):
    """What the samples are before they are refined."""

    fields: Any
    finite: Any
    square: Any  # sum of the squares of the residual in units of its own scale
    scale: Any
    relative: Any


@eqx.filter_jit
def _measure(problem: Problem, own: tuple[Batch, Condition]) -> _Start:
    constraint = problem.constraint

    def one(latent: Sample, condition: Condition) -> _Start:
        x = problem.sample(latent, condition)
        fields = problem.restore(x)
        finite = jnp.isfinite(fields).all() & jnp.isfinite(x).all()
        if constraint is None:
            return _Start(fields, finite, None, None, jnp.asarray(jnp.nan))
        mixed = problem.overwrite(fields, None)
        square = jnp.sum(jnp.square(constraint.relative_of(mixed)))
        scale, cost = constraint.scale_of(mixed), constraint.cost_of(mixed)
        return _Start(fields, finite, square, scale, jnp.sqrt(cost))

    return jax.vmap(one)(*own)


def _likelihood(
    problem: Problem, start: _Start, slack: float, tightness: float
) -> tuple[Array | None, Array | None]:
    """Noise and scale of the objective, having checked that it starts finite.

    For each sample a number that its objective does not exceed is formed in float64,
    where squares of float32 numbers have room.
    """
    fields, finite = start.fields, start.finite
    noise = scale = None
    largest = np.zeros(len(fields))
    with np.errstate(all="ignore"):  # what is not finite is what is asked for
        if (observation := problem.observation) is not None:
            std = fields.reshape(-1, fields.shape[-1]).std(axis=0, dtype=np.float64)
            tight = tightness * np.where(std > 0, std, 1.0)
            given = np.asarray(observation.noise)
            noise = np.where(given > 0, given, tight).astype(fields.dtype)
            apart = (fields - np.asarray(observation.values, np.float64)) / noise
            seen = np.asarray(observation.mask)
            largest += 0.5 * np.square(apart)[:, seen].sum(axis=1)
        if problem.constraint is not None:
            scale = slack * np.median(start.scale, axis=0).astype(fields.dtype)
            ratio = np.asarray(start.scale, np.float64) / scale
            worst = np.square(ratio).reshape(len(fields), -1).max(axis=1)
            largest += 0.5 * worst * start.square
    fine = largest <= np.finfo(fields.dtype).max
    for bad, what, cure in (
        (
            ~finite,
            "samples of the student",
            "The student is not trained, or called beyond what it was trained on.",
        ),
        (
            finite & ~fine,
            "residuals and misfits, and squares of them,",
            "The samples are finite, but too large for the equation, or the "
            "normaliser is not the one that the student was trained with: look at "
            "constraint.restore(x).",
        ),
    ):
        if bad.any():
            raise ValueError(
                f"expected finite {what} at the start, got NaN or infinite ones in "
                f"{bad.sum()} of {bad.size} (the first is sample {bad.argmax()}). "
                f"{cure}"
            )
    as_arrays = lambda a: None if a is None else jnp.asarray(a)
    return as_arrays(noise), as_arrays(scale)


@eqx.filter_jit
def _solve(
    method: AbstractMethod, problem: Problem, own: dict[str, Any]
) -> tuple[RefinedSample, Array]:
    def one(own: dict[str, Any]) -> tuple[RefinedSample, Array]:
        found = refine_sample(problem, solver=method, **own)
        if problem.constraint is None:
            return found, jnp.asarray(jnp.nan)
        return found, jnp.sqrt(problem.constraint.cost_of(found.fields))

    return jax.vmap(one)(own)
