"""The minimum of a problem near one draw, under `jit`, `vmap` and `grad`."""

import dataclasses

import jax
import jax.numpy as jnp

from ..types import Condition, Key, Sample, ScalarLike, Stacked, typed
from ._minimisers import AbstractMethod, AnySolver, GaussNewton, Optimistix
from ._minimum import Minimum, minimum
from ._problem import Case, Problem
from ._weights import weighed


@typed
def minimise(
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
) -> Minimum:
    r"""The minimum of a problem near one draw of the prior.

        problem = px.inference.Problem(student, observation, constraint, scale=0.1)
        latents = jax.random.normal(key, (64, *student.shape))
        found = jax.vmap(lambda e: px.inference.minimise(problem, e))(latents)

    It minimises over the unit latent $\epsilon$ half the sum of squares of anchor,
    misfit and residual:

    $$ \tfrac12 |\epsilon - \epsilon_0|^2
     + \tfrac12 \Bigl|\frac{d(\epsilon) - y - s\eta}{s}\Bigr|^2
     + \tfrac12 \Bigl|\frac{R(d(\epsilon))}{\text{scale}}\Bigr|^2. $$

    Use it under `jax.jit`, `jax.vmap` and `jax.grad`. `refine` and
    `infer(method=RandomisedMaximumLikelihood())` call it in batches, and check values
    and count costs. Masks, weights, held entries and centres are arrays: other values
    are the same program. Gradients are gradients of the minimum, by the implicit
    function theorem: they cost a linear solve by conjugate gradients, and are as
    accurate as the minimum. If the solver `failed` they have no meaning.

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
    if weigh and key is None:
        raise ValueError(
            "a weight is of a minimum with a draw of the noise: expected a key with "
            "weigh=True, got none. Pass key=, one for each sample."
        )
    own, method = drawn, as_method(solver, weigh)
    shift = {} if key is None else problem.draw_noise(key)
    if problem.hold is not None and drawn is None:
        own = problem.restore(problem.sample(latent, condition))
    if weigh and key is not None and problem.constraint is not None:
        plain = problem.case(latent, condition)
        struct = jax.eval_shape(lambda e: problem(e, plain)[0]["residual"], latent)
        own_key = jax.random.fold_in(key, len(problem.linear))
        shift["residual"] = jax.random.normal(own_key, struct.shape, struct.dtype)
    shift = {n: jnp.asarray(sign, draw.dtype) * draw for n, draw in shift.items()}
    case = Case(latent, latent if centre is None else centre, own, condition, shift)
    found = minimum(problem, case, method)
    fields = problem.overwrite(problem.restore(found.x), own)
    found = dataclasses.replace(found, fields=fields)
    if weigh and key is not None:
        found = weighed(problem, case, found, method, key)
    return found


def as_method(
    solver: AbstractMethod | AnySolver | None, weigh: bool = False
) -> AbstractMethod:
    """Gauss-Newton by default; Optimistix solvers are wrapped.

    Weights are of exact minima: for them it is more accurate by default.
    """
    if solver is None:
        return GaussNewton(steps=40, rtol=1e-6) if weigh else GaussNewton()
    return solver if isinstance(solver, AbstractMethod) else Optimistix(inner=solver)
