r"""Time grids, orders and weights that are found for a denoiser, not guessed.

A sampler of $N$ steps is judged by the ends of trajectories: the geometric mean over
draws of the prior of the root mean square distance, per component, to the end of a fine
solve. A geometric mean weighs a factor in the error of every draw alike, so that one
draw that comes to another mode of the data does not decide.

Three searches (`_searches`):

- *dynamic*: a fine solve gives the states at many nodes. The cost of an edge from node
  $i$ to $j$ is the error of one DDIM step between them, in
  $y = x/\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$; dynamic programming finds the
  path of $N$ edges with the least sum (GITS: Chen et al. 2024, "On the trajectory
  regularity of ODE-based diffusion sampling").
- *gradient*: Adam on the logarithms of the steps' angles, with the gradient through
  the solve (LD3: Tong et al. 2025, "Learning to discretize denoising diffusion ODEs",
  whose starts may move during the search), and on the weights of a multistep method
  (S4S: Frankel et al. 2025, "S4S: solving for a diffusion model solver").
- *evolution*: mutations of the same logarithms and of the steps themselves; the next
  generation is mutated from the mean of the best three so far (AutoDiffusion: Li et al.
  2023). It needs no gradient, so it may also choose among solvers and an order for each
  step (USF: Liu et al. 2023, "A unified sampling framework for solver searching of
  diffusion probabilistic models").
"""

from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import numpy as np

from .._checks import check_condition, is_traced, whole_number
from .._progress import progress_bar
from ..flow import ProbabilityFlow, check_times, solve_batch, step_times
from ..process import karras, uniform_angle, uniform_log_snr
from ..types import (
    Condition,
    Key,
    Scalar,
    ScalarLike,
    Times,
    TimesLike,
    WholeLike,
    typed,
)
from ._multistep import Multistep
from ._searches import (
    FINE,
    TOLERANCE,
    Found,
    Trial,
    by_dynamic_programming,
    by_evolution,
    by_gradient,
    fine_nodes,
    judge,
    or_infinity,
)

DRAWS = 128
ITERATIONS = {"dynamic": 1, "gradient": 100, "evolution": 15}


class FoundGrid(eqx.Module):
    """A sampler found by `optimise_grid`: `px.solve(flow, z, **found.options)`.

    It is saved by `px.save` and loaded by `px.load`; `np.asarray(found.times)` is an
    ordinary array.

    - `times`: the process times at which steps end, from `t_max` to `t_min`;
    - `solver`: the solver, with its orders or weights if they were searched;
    - `error`, `start_error`: of this sampler and of the one from which the search
      began, on draws that the search did not see: the geometric mean over the draws of
      the root mean square per component;
    - `evaluations`: calls of the denoiser for a sample, in all: fine solves and trials;
    - `differentiated`: how many of them were differentiated as well, which costs more;
    - `search`: the method.
    """

    times: Times
    solver: diffrax.AbstractSolver | None
    error: Scalar
    start_error: Scalar
    evaluations: int = eqx.field(static=True)
    differentiated: int = eqx.field(static=True)
    search: str = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments `solver` and `steps` of a solve."""
        return {"solver": self.solver, "steps": self.times}

    def __str__(self) -> str:
        if is_traced(self):
            return repr(self)
        cost = f"{self.evaluations:,} evaluations"
        if self.differentiated:
            cost += f", {self.differentiated:,} of them differentiated"
        return (
            f"FoundGrid of {self.times.shape[0] - 1} steps: error "
            f"{float(self.error):.2e}, {float(self.start_error):.2e} before the "
            f"{self.search} search, which took {cost}"
        )


@typed
def optimise_grid(
    flow: ProbabilityFlow,
    steps: WholeLike,
    *,
    key: Key,
    solver: diffrax.AbstractSolver | Sequence[diffrax.AbstractSolver] | None = None,
    search: str = "gradient",
    weights: bool = False,
    orders: bool = False,
    reach: ScalarLike = 0.0,
    start: TimesLike | None = None,
    draws: WholeLike = DRAWS,
    iterations: WholeLike | None = None,
    condition: Condition = None,
    progress: bool = False,
) -> FoundGrid:
    r"""The times at which `steps` steps of `solver` should end for this denoiser.

        found = px.optimise_grid(flow, 6, solver=solver, key=key)
        px.solve(flow, z, **found.options)

    Half of the draws are searched on. On the other half the result is compared with the
    start, and the better one is returned, so a search does not make a grid worse on new
    draws, apart from chance.

    It is worth its cost for a teacher that is sampled often with few steps, by Euler's
    method above all. The cost is `draws` fine solves of about 100 evaluations each, and
    then:

    - `"dynamic"`: 129 evaluations for each searched draw, none in trials. The cost of
      an edge is for DDIM, whatever `solver` is; the sum ignores how errors grow later
      on.
    - `"gradient"`: 100 solves of the searched draws and their gradients.
    - `"evolution"`: 180 solves of the searched draws.

    **Arguments:**

    - `solver`: as in `solve`. Evolution also chooses among several, a list.
    - `weights`: by gradient, learn the weights of a `Multistep` in each step with the
      times (S4S). It has $p$ numbers for each step, so take more draws.
    - `orders`: by evolution, search an order for each step of a `Multistep` too.
    - `reach`: by gradient, the distance by which a start may move during the search, as
      a share of its size (LD3). The sampler then has the teacher's ends from starts
      nearby, rather than from the same ones.
    - `start`: the grid from which the search begins; by default the best of
      `uniform_angle`, `uniform_log_snr` and `karras` on the searched draws.
    - `draws`: of the prior, at least 2.
    - `iterations`: of Adam, by default 100; generations, by default 15.
    - `condition`: for a flow that takes one, with the draw as the first axis.
    - `progress`: show a bar.
    """
    steps = whole_number("steps", steps)
    draws = whole_number("draws", draws, least=2)
    if search not in ITERATIONS:
        raise ValueError(
            f"search must be one of {', '.join(map(repr, ITERATIONS))}, got {search!r}."
            " Start with 'gradient'."
        )
    if not 0 <= float(reach) < 1:
        raise ValueError(
            f"reach is a share of the size of a start, expected 0 <= reach < 1, got "
            f"{float(reach):g}. Pass 0.01, or 0 for starts that stay."
        )
    solvers = list(solver) if isinstance(solver, Sequence) else [solver]
    _check_searched(search, solvers, weights, orders, float(reach))
    rounds = ITERATIONS[search] if iterations is None else iterations
    rounds = whole_number("iterations", rounds)
    if flow.shape is None:
        raise ValueError(
            "the shape of one sample is not known, got a flow without one. Pass "
            "shape= to ProbabilityFlow."
        )
    z = flow.process.prior(key, (draws, *flow.shape))
    ends, _ = check_times(None, flow.process, -1, z.dtype)
    if start is None:
        usual = uniform_angle, uniform_log_snr, karras
        grids = [grid(steps + 1, flow.process).astype(z.dtype) for grid in usual]
    else:
        grids = [step_times(start, flow, ends)]
    if grids[0].shape[0] != steps + 1:
        raise ValueError(
            f"start must hold the {steps + 1} times of {steps} steps, got "
            f"{grids[0].shape[0]}. Pass the number of its steps as steps."
        )
    condition = check_condition(condition, draws)
    fine = fine_nodes(flow.process, z.dtype) if search == "dynamic" else ends
    path = solve_batch(
        flow, z, times=fine, condition=condition, rtol=TOLERANCE, atol=TOLERANCE
    )
    count = round(draws * path.evaluations()[0])
    half = draws - draws // 2
    cut = lambda rows: jax.tree.map(lambda a: a[rows], (z, path.end, condition))
    seen, unseen = (Trial(*cut(r)) for r in (slice(half), slice(half, None)))
    starts = [Found(times, one) for one in solvers for times in grids]
    judged = [judge(flow, one.solver, one.times, seen) for one in starts]
    count += sum(half * int(calls) for _, calls in judged)
    first = starts[int(np.argmin([or_infinity(error) for error, _ in judged]))]
    differentiated = 0
    with progress_bar(rounds, f"{search} search", "iteration", progress) as bar:
        if search == "dynamic":
            times = by_dynamic_programming(flow, fine, path.xs[:half], seen, steps)
            found, trials = Found(times, first.solver), half * FINE
            trials = trials * flow.denoiser.evaluations(condition)
        elif search == "gradient":
            options: dict[str, Any] = dict(weights=weights, reach=float(reach), bar=bar)
            found, trials = by_gradient(flow, first, seen, rounds, **options)
            differentiated = trials
        else:
            options = dict(solvers=solvers, orders=orders, key=key, bar=bar)
            found, trials = by_evolution(flow, first, seen, rounds, **options)
    count += trials
    (error, calls), (before, old) = (
        judge(flow, one.solver, one.times, unseen) for one in (found, first)
    )
    count += (draws - half) * (int(calls) + int(old))
    if not float(error) < float(before):
        found, error = first, before
    return FoundGrid(
        found.times, found.solver, error, before, int(count), differentiated, search
    )


def _check_searched(
    search: str, solvers: Sequence[Any], weights: bool, orders: bool, reach: float
) -> None:
    """Each search can only change what it has a way to change."""
    for asked, needed, what in (
        (weights, "gradient", "weights=True"),
        (reach > 0, "gradient", f"reach={reach:g}"),
        (orders, "evolution", "orders=True"),
        (len(solvers) > 1, "evolution", f"{len(solvers)} solvers"),
    ):
        if asked and search != needed:
            raise ValueError(
                f"{what} is for search={needed!r}, got search={search!r}. Pass "
                f"search={needed!r}, or leave it out."
            )
    asked = "weights=True" if weights else "orders=True"
    several = all(isinstance(one, Multistep) for one in solvers)
    if (weights or orders) and not several:
        raise ValueError(
            f"{asked} searches numbers of a Multistep, got "
            f"{', '.join(type(one).__name__ for one in solvers)}. Pass "
            "solver=px.solver.Multistep(3, 'noise', 'log_snr')."
        )
    if weights:
        for one in solvers:
            one.check_tabulated()
