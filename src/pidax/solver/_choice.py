r"""Which sampler for a given number of evaluations: measured by a pilot solve.

No sampler of few steps is best for all data. With one scale of the data, a polynomial
of the velocity in the angle needs the fewest evaluations; with many scales, as in
images and rough fields, polynomials in $\lambda = \log(\alpha/\sigma)$ on grids that
reach small noise do (docs/results/ode_solver.md). So a few draws of the prior are
solved finely, which shows the scales of the data on the way, and each candidate is
compared with them:

| solver | orders | grids |
|---|---|---|
| `Multistep(3, "noise", "log_snr")` | 3; low at the end | log-SNR, Karras |
| `UniPC(3)` | 3 and 2, both low at the end | log-SNR, Karras |
| `Adams(3)` | 3; low at the end | angle, log-SNR, Karras |

Low orders at the end are better for few steps, and worse from some ten on. Without
signal at `t_max` only `Adams` is a candidate.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._checks import check_condition, is_traced, whole_number
from .._table import number, row
from ..flow import ProbabilityFlow, solve_batch
from ..process import karras, uniform_angle, uniform_log_snr
from ..types import Condition, Key, Scalar, Times, WholeLike, typed
from ._multistep import Multistep
from ._presets import Adams, UniPC
from ._searches import Trial, judge, or_infinity

DRAWS = 32
ORDER = 3
TOLERANCE = 1e-4  # of the pilot solve, below FINE steps
FINE, FINER = 30, {4: 1e-5, 8: 1e-6}  # and from there on, by the bytes of a number
GRIDS = {"angle": uniform_angle, "log-SNR": uniform_log_snr, "Karras": karras}


class Choice(eqx.Module):
    """A sampler with a fixed number of evaluations, chosen by `choose`.

        choice = px.solver.choose(flow, 10, key=key)
        px.sample(flow, 1000, key=key, **choice.options)

    - `solver`, `times`: the solver, and the ends of its steps;
    - `name`, `error`: the candidate, and the geometric mean over the pilot's draws of
      its root mean square error per component;
    - `table`: name and error of every candidate, the best first;
    - `evaluations`: what the choice cost, over all draws.
    """

    solver: Multistep
    times: Times
    error: Scalar
    name: str = eqx.field(static=True)
    table: tuple[tuple[str, float], ...] = eqx.field(static=True)
    evaluations: int = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments `solver` and `steps` of a solve."""
        return {"solver": self.solver, "steps": self.times}

    def __str__(self) -> str:
        if is_traced(self):
            return repr(self)
        head = (
            f"{self.name}: error {float(self.error):.1e} in {self.times.shape[0] - 1} "
            f"steps, chosen with {self.evaluations:,} evaluations"
        )
        line = lambda name, error: row(name, number(error), widths=(10,), label=30)
        return "\n".join([head, *(line(*entry) for entry in self.table)])


@typed
def choose(
    flow: ProbabilityFlow,
    evaluations: WholeLike,
    *,
    key: Key,
    draws: WholeLike = DRAWS,
    condition: Condition = None,
) -> Choice:
    """The candidate whose samples are nearest to the samples of a fine solve.

    The pilot costs for each draw a solve to 1e-4, about 60 evaluations, and fourteen
    trials of `evaluations` each. `px.sample(flow, n, evaluations=10)` does this first;
    for many calls choose once and pass `**choice.options`.

    **Arguments:**

    - `evaluations`: of a sample. A guided denoiser with a condition costs two a step.
    - `draws`: of the prior, for the pilot.
    - `condition`: for a flow that takes one, with the draw as the first axis.
    """
    evaluations = whole_number("evaluations", evaluations)
    draws = whole_number("draws", draws)
    if flow.shape is None:
        raise ValueError(
            "the shape of one sample is not known, got a flow without one. Pass "
            "shape= to ProbabilityFlow."
        )
    condition = check_condition(condition, draws)
    each = flow.denoiser.evaluations(condition)
    steps = evaluations // each
    if steps < 1:
        raise ValueError(
            f"one step of this denoiser takes {each} evaluations, expected at least as "
            f"many, got evaluations={evaluations}. Pass {each} or more."
        )
    z = flow.process.prior(key, (draws, *flow.shape))
    fine = TOLERANCE if steps < FINE else FINER[z.dtype.itemsize]
    pilot = solve_batch(flow, z, condition=condition, rtol=fine, atol=fine)
    trial = Trial(z, pilot.end, condition)
    found = []
    for name, solver, grid in candidates(flow, steps):
        times = GRIDS[grid](steps + 1, flow.process).astype(z.dtype)
        error, _ = judge(flow, solver, times, trial)
        found.append((or_infinity(error), f"{name}, {grid}", solver, times))
    found.sort(key=lambda row: row[0])
    error, name, solver, times = found[0]
    cost = round(draws * (pilot.evaluations()[0] + len(found) * steps * each))
    table = tuple((name, error) for error, name, *_ in found)
    return Choice(solver, times, jnp.asarray(error, z.dtype), name, table, cost)


def candidates(flow: ProbabilityFlow, steps: int) -> list[tuple[str, Multistep, str]]:
    """Name, solver and name of the grid of all that can be used for this process.

    Orders are arrays, so that one program serves all orders of a solver.
    """
    order = min(ORDER, steps)
    high = np.full(steps, order)
    low = np.minimum(high, np.arange(steps, 0, -1))
    two = np.minimum(low, 2)
    last = jnp.asarray(flow.process.t_max, float)
    signal = float(flow.process.level(last)[1]) > 2 * float(jnp.finfo(last.dtype).eps)

    def named(name: str, make: Any, orders: dict[str, np.ndarray], grids: Any) -> list:
        # Equal orders are one candidate.
        distinct = {tuple(o): (suffix, o) for suffix, o in reversed(orders.items())}
        return [
            (name + suffix, make(o), grid)
            for suffix, o in reversed(distinct.values())
            for grid in grids
        ]

    both = {"": high, ", low at the end": low}
    adams = lambda orders: Adams(order, orders=orders)
    found = named("Adams in the angle", adams, both, GRIDS)
    if signal:
        noise = lambda orders: Multistep(order, "noise", "log_snr", orders=orders)
        unipc = lambda orders: UniPC(order, orders=orders, lower_order_final=False)
        grids = ("log-SNR", "Karras")
        found += named("noise in log-SNR", noise, both, grids)
        found += named("UniPC", unipc, {f"-{order}": low, "-2": two}, grids)
    return found
