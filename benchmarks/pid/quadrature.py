"""How accurate the integral student can be: its trajectory at zero residual, solved.

The clean samples at the nodes are those of the teacher in the states that they give: a
fixed point, found by iteration from the prior draw. What its end differs by from the
adaptive solution is the error of the nodes and the interpolant, without a network.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import pidax as px

from .. import bench
from .problems import Vectors
from .students import Nodes, elsewhere

COUNT = 512
ROUNDS = 80
SIZES = (12, 16, 20, 24, 32)


@dataclasses.dataclass(frozen=True)
class Quadrature:
    """The error of each number of nodes; a method of the suite."""

    kind: str
    interpolant: str

    def configuration_on(self, problem: Vectors):
        return {
            "nodes": [Nodes(n, self.kind, self.interpolant) for n in SIZES],
            "count": COUNT,
            "rounds": ROUNDS,
        }

    def __call__(self, problem: Vectors, seed, quick) -> bench.Outcome:
        rows = []
        for count in SIZES[:1] if quick else SIZES:
            nodes = Nodes(count, self.kind, self.interpolant)
            end, left = fixed_point(problem, nodes)
            wrong = px.metrics.sample_errors(
                end,
                problem.solved[1][: len(end), -1],
                per_component=problem.per_component,
            )
            rows.append(
                {
                    "nodes": count,
                    "rms": float(np.sqrt(np.mean(np.square(wrong)))),
                    "median": float(np.median(wrong)),
                    "last_change": left,
                    **elsewhere(problem, end),
                }
            )
        return bench.Outcome({"rows": rows}, dtype="float32, weights in float64")


def fixed_point(problem: Vectors, nodes: Nodes):
    """The ends of the trajectories, and the last change of an iteration."""
    times = nodes.times(problem)
    student = px.IntegralStudent(
        problem.network.make(jax.random.key(0), nodes=nodes.count),
        problem.process,
        times,
        interpolant=nodes.interpolant,
    )
    z = problem.solved[0][:COUNT]
    sigma, alpha = (jnp.asarray(a, z.dtype) for a in np.array(student.levels).T)
    denoise = jax.vmap(problem.flow.denoiser)

    @jax.jit
    @jax.vmap
    def solve(z):
        unit = z / sigma[0]
        again = lambda x: student.states(unit, denoise(x, sigma, alpha))
        start = sigma[:, None] * unit
        states = jax.lax.fori_loop(0, ROUNDS, lambda _, x: again(x), start)
        return states[-1], jnp.abs(again(states) - states)[-1].max()

    end, left = solve(z)
    return end, float(left.max())


for _kind in ("where it moves", "karras"):
    for _interpolant in ("cubic", "linear"):
        bench.method(
            "pid",
            f"quadrature: {_kind}, {_interpolant}",
            label=f"{_kind}, {_interpolant}",
            on=("ring", "mixture"),
            quick=False,
            group="quadrature",
        )(Quadrature(_kind, _interpolant))
