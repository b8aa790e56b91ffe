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
posterior, exactly so where $d$ is linear. Without the anchor they leave the prior;
without the noise their spread is too small; anchored to zero all are the one most
probable latent.
"""

import numpy as np
from jaxtyping import Array, Bool

from .._checks import check_condition
from ..constraint import AbstractConstraint, Observation
from ..student import AbstractStudent
from ..types import BatchLike, Condition, Key, typed
from ._arguments import (
    check_free,
    check_hold,
    check_numbers,
    check_parts,
    draw_latents,
)
from ._batches import Run, Task
from ._cost import Training
from ._methods import AbstractMethod, AnySolver, GaussNewton, as_method
from ._refined import Refined


@typed
def refine(
    student: AbstractStudent,
    observation: Observation | None = None,
    constraint: AbstractConstraint | None = None,
    *,
    key: Key,
    samples: int = 64,
    z: BatchLike | None = None,
    condition: Condition = None,
    solver: AbstractMethod | AnySolver | None = None,
    anchor: str | None = "draw",
    anchor_weight: float | int = 1.0,
    slack: float = 1e-2,
    tightness: float = 1e-3,
    antithetic: bool = False,
    free: Bool[Array | np.ndarray, "*event"] | None = None,
    hold: Bool[Array | np.ndarray, "*grid channel"] | None = None,
    batch_size: int = 256,
    training: Training | None = None,
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
    are several answers, and by default samples of the posterior.

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
      perturbed, as an equation has no noise; as `slack` goes to 0 the samples are
      those of the posterior given the equation.
    - `anchor`: `"draw"` anchors each latent to its draw and perturbs noisy
      observations by their own noise: posterior samples. `"norm"` anchors to zero:
      MAP, the most probable latent, from every start the same (where there are
      several optima, the nearest), so that the spread means nothing. `None` leaves out
      the first term, as the paper does: the draws leave the prior.
    - `anchor_weight`: in front of the first term. What is minimised with another than
      1 is no posterior.
    - `samples` draws are made, or the prior draws `z` are taken (`process.prior`).
      `batch_size` of them are solved at once, and wait for the slowest; they are the
      same for any.
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

    A sample is never worse, in the objective, than its start. If the solver breaks down
    in some, a warning says so, and `failed` says in which.
    """
    check_numbers(
        anchor,
        anchor_weight=anchor_weight,
        slack=slack,
        tightness=tightness,
        samples=samples,
        batch_size=batch_size,
    )
    method = GaussNewton() if solver is None else as_method(solver)
    parts = check_parts(student, observation, constraint)
    observation, constraint, shape = parts
    start = draw_latents(student, z, samples, shape, key, antithetic)
    condition = check_condition(condition, len(start))
    free = check_free(free, start.shape[1:])
    hold = check_hold(hold, parts)
    weight = float(anchor_weight)
    task = Task(student, observation, constraint, anchor, weight, free, hold)
    spent = Training() if training is None else training
    run = Run(task, start, condition, key, batch_size, antithetic, spent)
    measured = run.measure(slack, tightness)
    return run.solve(method, measured)
