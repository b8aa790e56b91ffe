r"""PIDDM-ref: move the latent of a one-step sample until equation and data agree.

One evaluation makes a sample from its latent. So residual and misfit are functions of
the latent, and no derivative through an ODE solver is needed. Zhang et al. 2025,
"Physics-informed distillation of diffusion models for PDE-constrained generation",
minimise the residual of the student's sample over the latent, starting from a draw.
Here each sample is a least-squares problem for its unit latent, with an anchor at its
draw:

$$ \min_\epsilon\ \tfrac12 |\epsilon - \epsilon_0|^2
 + \tfrac12 \Bigl|\frac{M (d(\epsilon) - y - s\eta)}{s}\Bigr|^2
 + \tfrac12 \Bigl|\frac{R(d_M(\epsilon))}{\text{scale}\cdot\text{slack}}\Bigr|^2,
 \qquad \epsilon_0, \eta \sim N(0, I). $$

This is *randomised maximum likelihood* (Kitanidis 1995; Oliver, He & Reynolds 1996).
With a draw of the prior and a draw of the noise, the minima are samples of the
posterior if $d$ and $R$ are linear. Otherwise they are approximate, however exact the
minimiser and however small the slack: their density has a factor that depends on the
curvature of $d$ and $R$. `weigh=True` computes this factor; `infer` has chains and
particles that need none. Without the anchor the minima leave the prior. Without the
noise their spread is too small. Anchored at zero, all are the most probable latent.

A residual that may vary by `slack` favours given fields for which the same error of
the solution has a smaller residual: for Darcy's equation small coefficients. With
`slack_on="solution"` the error of the solution itself, $u - S(a)$, replaces $R$.
"""

import dataclasses
import warnings
from typing import Any

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
from ..constraint import AbstractConstraint
from ..pde import AbstractNormaliser
from ..student import sample_keys
from ..types import (
    Batch,
    BatchLike,
    Condition,
    Key,
    ScalarLike,
    Shape,
    WholeLike,
    typed,
)
from ._cost import Clock, Cost, Training
from ._foreign import Foreign
from ._minimise import as_method, minimise
from ._minimisers import AbstractMethod, AnySolver
from ._minimum import Minimum
from ._prior import LatentPrior, Prior, SolvedFlow, evaluations_of
from ._problem import Problem
from ._start import default_slack, likelihood_at, measure

_ANCHORS = ("draw", "norm", None)
_LARGEST = 1024  # entries of a latent for which a determinant is computed
_WIDTHS = (12, 12)
_LABEL = 34
_KINDS = {
    "draw": "randomised maximum likelihood: approximate unless the student is linear",
    "norm": "MAP: the most probable latent, whose spread is zero",
    None: "no anchor: the draws leave the prior, and their law is not the posterior",
}


@dataclasses.dataclass(frozen=True)
class History:
    """The terms of the objective, [sample, step], from the start on.

    Each is half a sum of squares. A sample that has stopped keeps its last values. A
    value that was not finite is replaced by the one before it.
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

    - `fields`: in physical units, with noise-free observations to the last bit, and
      held entries as drawn.
    - `x`: the student's sample, in the model's coordinates: the same fields without
      observations and held entries written over them. `latent` is its unit latent,
      `start` the latent that was drawn.
    - `best`: the terms of the objective at `latent`: anchor, misfit, residual.
    - `history`: a `History` of every step; `steps`: the number of steps of each sample.
    - `converged`: whether it stopped by tolerance, not by the number of steps.
    - `failed`: whether the solver failed (an entry that is not finite, or no better
      point for any length of the step). The sample is then the best point before.
    - `relative`: the root mean square residual of `fields` relative to its scale, and
      `relative_start` before refinement; NaN without a constraint.
    - `cost`: a `Cost`. `anchor`, `weight`, `method` and `held` (the number of held
      entries of each sample) say how the samples were made; `slack`, NaN without a
      constraint, the share of the scale that counts as one standard deviation.

    Print it for a summary.
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
    slack: float = np.nan
    log_weights: Float[np.ndarray, " sample"] | None = None

    @property
    def weights(self) -> Float[np.ndarray, " sample"] | None:
        """Importance weights with sum 1, if they were asked for (`weigh=True`)."""
        if self.log_weights is None:
            return None
        weights = np.exp(self.log_weights - self.log_weights.max())
        return weights / weights.sum()

    @property
    def effective(self) -> float:
        """The number of samples that the weights are worth; NaN without weights."""
        return np.nan if self.weights is None else float(1 / (self.weights**2).sum())

    @property
    def kind(self) -> str:
        """The meaning of these samples, in words."""
        if self.anchor is not None and self.held:
            return (
                f"{self.held} entries of each held as drawn, the others made to agree "
                "with them"
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
        if not np.isnan(self.slack):
            lines.append(f"slack: {self.slack:.3g} of the scale of the residual")
        lines.append(
            f"{done} of {count} stopped by tolerance, {int(self.failed.sum())} failed; "
            f"steps: {self.steps.mean():.1f}, at most {self.steps.max()}"
        )
        if self.weights is not None:
            lines.append(f"weighted: worth {self.effective:.0f} of {count} samples")
        return "\n".join([*lines, str(self.cost)])


@typed
def refine(
    student: Prior,
    observation: AbstractConstraint | None = None,
    constraint: AbstractConstraint | None = None,
    *,
    key: Key,
    samples: WholeLike = 64,
    z: BatchLike | None = None,
    condition: Condition = None,
    solver: AbstractMethod | AnySolver | None = None,
    anchor: str | None = "draw",
    anchor_weight: ScalarLike = 1.0,
    slack: ScalarLike | None = None,
    slack_on: str = "residual",
    determinant: bool = False,
    weigh: bool = False,
    tightness: ScalarLike = 1e-3,
    antithetic: bool = False,
    free: Bool[Array | np.ndarray, "*event"] | None = None,
    hold: Bool[Array | np.ndarray, "*grid channel"] | None = None,
    forward: Any = None,
    normaliser: AbstractNormaliser | None = None,
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

    In this order: no observations, the forward problem, the inverse problem,
    reconstruction. They differ in the mask only. Each sample starts from its own draw.
    By default the results are approximate samples of the posterior, by randomised
    maximum likelihood: exact if student and equation are linear. For samples that are
    right for other students, and for a verdict on them, see `infer`.
    `inference.minimise` finds the minimum of one sample, under `jax.jit`, `jax.vmap`
    and `jax.grad`. Typical cost: ten evaluations and a hundred Jacobian products a
    sample; the printed result states it.
    Zhang et al. 2025; Oliver, He & Reynolds 1996.

    **Arguments:**

    - `student`: a `Student`, an `ExactStudent`, or a `LatentPrior`. `condition`: passed
      to it, one for all samples or with the sample as the first axis.
    - `observation`: an `Observation`, measured values of the fields in physical units.
      Where its noise is 0 the result has exactly this value; while optimising, the
      noise is `tightness` standard deviations of this channel (over the starting
      samples). Measured linear functions of the fields, `constraint.Affine(rows,
      values, noise=...)`, alone or joined by `&`, are rows of the misfit as well; where
      their noise is 0 they hold to about `tightness`. Observations of different
      entries, joined by `&`, count as one.
    - `constraint`: a `Residual`; observations joined to it by `&` count as such.
      Noise-free observations are written over the fields
      that it judges. `slack`: the relative residual that counts as one standard
      deviation at each point; the paper's $\lambda$ is $1/\text{slack}^2$. The scale of
      the residual is fixed: the median over the starting samples. The residual is not
      perturbed, because an equation has no noise. If student and equation are linear,
      the samples tend to samples of the posterior given the equation as `slack` goes to
      0; otherwise they do not, in general. By default it is the student's own residual,
      relative to its scale, and not below 0.01: the median over the starting samples. A
      smaller one makes the samples too certain of what the student does not know.
      Without observations, and with `hold`, the default is 0.01. The result has it.
    - `slack_on`: `"residual"`, or `"solution"`, the error of the unknown fields of an
      equation: $(u - S(a))/(\text{slack}\cdot\text{scale})$ with the equation's solver
      $S$ and the root mean square of each channel as its scale. It costs a solution in
      every evaluation, and does not favour given fields with a small residual.
    - `determinant`: as for `infer`, for the weights; it needs `weigh=True`.
    - `weigh`: compute importance weights of the samples, `weights` in the result, and
      perturb the residual as well. Weighted means are means of the posterior, under a
      Gaussian law of the residual with the slack; `effective` says what the samples are
      worth. It costs the second derivatives of the problem, matrices of the size of the
      latent, and on average a second minimisation or two.
    - `anchor`: `"draw"` anchors each latent at its draw, and perturbs noisy
      observations by their noise: randomised maximum likelihood. `"norm"` anchors at
      zero: MAP, the most probable latent, the same from every start (or the nearest of
      several optima), so that the spread has no meaning. `None` omits the first term,
      as the paper does: the samples leave the prior.
    - `anchor_weight`: the factor of the first term. With another value than 1 the
      samples are not of the posterior of any student.
    - `samples`: the number of draws; or pass prior draws `z` (`process.prior`).
      `batch_size` of them are solved at once, and wait for the slowest. The last batch
      is filled up, so that another number of samples compiles nothing new. Batches
      change rounding only: programs of different sizes add in different orders. If
      there are several optima, or float32 is not accurate enough, this can decide which
      point is found.
    - `antithetic`: draw pairs of opposite latents and opposite noise; the second half
      of the samples are the opposites of the first half. The mean of a pair has no
      sampling error if the student is linear, and less if it is nearly linear. A spread
      needs as many pairs as it would need samples.
    - `hold`: a mask of entries of the stacked fields that stay exactly as drawn, in the
      objective and in the result. Asking for a small residual conditions on it, and an
      imperfect student then moves to coefficients for which its residual happens to be
      small. With `hold=equation.given_mask` the solution follows the given fields, and
      their distribution is the student's own. Use it where nothing is observed: held
      fields learn nothing from observations of the others.
    - `free`: a mask of the latent's entries that may move; the others stay as drawn.
      With separate coordinates for the given fields, `free=~coordinates.given` moves
      the other latents only. A network that sees all latents (as in `nn.blockwise`) may
      still change the given fields; `hold` prevents it.
    - `forward`, `normaliser`: as for `infer`: an equation whose solver replaces the
      student's solution, or a function of the fields, which JAX differentiates.
    - `solver`: by default `GaussNewton()`, with smaller tolerances if minima are
      weighed; `LBFGS()`, `Adam()`, or any least-squares solver or minimiser of
      Optimistix.
    - `progress`: show a bar, which says "compiling" until the first batch is done.
    - `training`: the cost of the student's training, for the result's `cost`:
      `Cost.of_training(result, seconds=...).training`. By default zero.

    No sample is worse, in the objective, than its start. If the solver fails for some
    samples a warning says so, and `failed` says for which.
    """
    if is_traced((student, observation, constraint)):
        raise ValueError(
            "refine compiles, times and checks its own runs: expected to be called "
            "from Python, got traced arguments. Call it outside jax.jit, vmap and "
            "grad, or px.inference.minimise inside."
        )
    if observation is None and constraint is None:
        raise ValueError(
            "expected an observation, a constraint, or both, got neither: there is "
            "nothing to refine towards. Sample the student: student.sample(z)."
        )
    if anchor not in _ANCHORS:
        raise ValueError(
            f"anchor must be 'draw' (one sample a draw), 'norm' (MAP) or None, got "
            f"{anchor!r}."
        )
    require_positive(anchor_weight=anchor_weight)
    weight = 0.0 if anchor is None else float(anchor_weight)
    problem = Problem(  # whose likelihood needs the starting samples
        student, observation, constraint, weight=weight, scale=1.0, exact_noise=1.0,
        forward=forward, normaliser=normaliser, slack_on=slack_on,
        determinant=determinant,
    )  # fmt: skip
    return in_batches(
        problem, key=key, samples=samples, z=z, condition=condition, solver=solver,
        anchor=anchor, anchor_weight=float(anchor_weight), slack=slack, weigh=weigh,
        tightness=tightness, antithetic=antithetic, free=free, hold=hold,
        batch_size=batch_size, training=training, progress=progress,
    )  # fmt: skip


def in_batches(
    problem: Problem,
    *,
    key: Key,
    samples: WholeLike,
    slack: ScalarLike | None,
    solver: AbstractMethod | AnySolver | None,
    weigh: bool,
    tightness: ScalarLike,
    antithetic: bool,
    batch_size: WholeLike,
    condition: Condition = None,
    training: Training | None = None,
    progress: bool = True,
    z: BatchLike | None = None,
    anchor: str | None = "draw",
    anchor_weight: float = 1.0,
    free: Any = None,
    hold: Any = None,
) -> Refined:
    """The minima of a problem from many draws: `minimise`, batch by batch."""
    if isinstance(problem.forward, Foreign):
        raise ValueError(
            "refine minimises, and needs derivatives of the forward map: expected an "
            "equation or a function of JAX, got a Foreign solver. Use px.infer with "
            "PCN(), SMC() or Ensemble(), which need none."
        )
    if problem.determinant and not weigh:
        raise ValueError(
            "the determinant changes the weights of minima and not the minima: "
            "expected weigh=True with determinant=True, got weigh=False. Weigh them, "
            "or use px.infer with PCN() or SMC()."
        )
    require_positive(tightness=tightness, slack=1.0 if slack is None else slack)
    samples = whole_number("samples", samples)
    batch_size = whole_number("batch_size", batch_size)
    method = as_method(solver, weigh)
    student = problem.student
    latents = _draw_latents(student, z, samples, problem.shape, key, antithetic)
    count, shape = latents.shape[0], latents.shape[1:]
    condition = check_condition(condition, count)
    free, hold = _check_free(free, shape), _check_hold(hold, problem)
    if weigh:
        plain = anchor == "draw" and anchor_weight == 1
        plain = bool(plain and free.all() and not np.any(hold))
        _check_weighed(problem, plain, shape)
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
        start = run(measure, problem, (latents, condition))
        used = default_slack(problem, start, bool(np.any(hold)))
        used = used if slack is None else float(slack)
        likelihood = likelihood_at(problem, start, used, float(tightness))
        problem = eqx.tree_at(
            lambda p: (p.noise, p.linear_noise, p.scale, p.free, p.hold),
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
        found, relative = run(_solve, method, problem, weigh, own, bar=bar)
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
    evaluated = network + count
    solves = network if problem.solves else 0.0
    if isinstance(student, SolvedFlow):  # each is a solve of the ODE
        each = evaluations_of(student, None)
        network, jvp, vjp = each * network, each * jvp, each * vjp
    cost = Cost(
        samples=count,
        network=float(network),
        jvp=float(jvp),
        vjp=float(vjp),
        residual=0.0 if problem.constraint is None else float(evaluated),
        solves=float(solves),
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
        weight=anchor_weight,
        method=type(method).__name__,
        held=int(np.sum(hold)),
        slack=np.nan if problem.constraint is None else used,
        log_weights=found.log_weight,
    )


def _draw_latents(
    student: Prior,
    z: BatchLike | None,
    samples: int,
    shape: Shape | None,
    key: Key,
    antithetic: bool,
) -> np.ndarray:
    """The unit latents: of prior draws that were passed, or new ones, one a sample."""
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
        if isinstance(student, LatentPrior):  # its prior draws are unit latents
            return np.asarray(z)
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


def _check_weighed(problem: Problem, plain: bool, shape: Shape) -> None:
    """Whether the density of the minima is known, and can be computed."""
    exact = any((np.asarray(part.noise) == 0).any() for part in problem.linear)
    if problem.observation is not None:
        exact = exact or bool(np.asarray(problem.observation.exact).any())
    size = int(np.prod(shape))
    if not plain or exact or size > _LARGEST:
        raise ValueError(
            "weights are known for minima that are anchored at their draws, with "
            "weight 1, all entries free, none held, and values with noise, and cost "
            f"dense matrices of the size of the latent: expected at most {_LARGEST} "
            f"entries, got {size}{', with exact values' if exact else ''}. Leave the "
            "other options out, or use px.infer with PCN() or SMC()."
        )


def _check_free(free: Any, shape: Shape) -> np.ndarray:
    """A mask of one latent's entries, some of them free; by default all."""
    mask = np.ones(shape, bool) if free is None else np.asarray(free)
    if mask.shape != shape or not mask.any():
        raise ValueError(
            f"free is a mask of the entries of one latent, shape {shape}, of which "
            f"some are True, got shape {mask.shape} with {int(mask.sum())} of them. "
            "Pass ~coordinates.given, or leave it out."
        )
    return mask


def _check_hold(hold: Any, problem: Problem) -> np.ndarray:
    """A mask of entries of the stacked fields, some of them held, none observed."""
    if hold is None:
        return np.asarray(False)
    mask = np.asarray(hold)
    judges = (problem.constraint, problem.observation, *problem.linear)
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
                "held entries stay as they were drawn: expected other entries in hold "
                f"than in the observation, got {both.sum()} in both. Leave hold out if "
                "you observe these fields."
            )
    return mask


@eqx.filter_jit
def _solve(
    method: AbstractMethod, problem: Problem, weigh: bool, own: dict[str, Any]
) -> tuple[Minimum, Array]:
    def one(own: dict[str, Any]) -> tuple[Minimum, Array]:
        found = minimise(problem, solver=method, weigh=weigh, **own)
        if problem.constraint is None:
            return found, jnp.asarray(jnp.nan)
        return found, jnp.sqrt(problem.constraint.cost_of(found.fields))

    return jax.vmap(one)(own)
