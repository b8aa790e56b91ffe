r"""When does training on the residual contract? The linear problem, solved.

Near its solution a residual is linear in the student's values F at the nodes:
R = (L - a M) F, with L what the student's motion implies, M the states in which the
teacher is asked, and a the teacher's slope dD/dx (a solver's step asks in states that
depend on a, too). With the teacher's side stopped the
gradient is A F, A = L^T (L - a M), which is no gradient of anything. A table of values
converges if the eigenvalues of A have positive real parts; a network, whose values at
different times and draws move together by a kernel K of its own, is sure to converge
(in the norm of K^-1) only if the symmetric part of A is positive.
"""

import dataclasses

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px

from .. import bench


@dataclasses.dataclass(frozen=True)
class Linear:
    """A teacher D(x) = a x, for several slopes a, on grids of several sizes."""

    nodes: tuple[int, ...] = (18, 35, 80, 250)
    slopes: tuple[float, ...] = (0.5, 1.0, 1.1, 1.2, 2.0)


@bench.problem("pid", label="a linear teacher", kind="linear")
def linear(quick):
    return Linear(nodes=(18,), slopes=(1.0, 2.0)) if quick else Linear()


def operators(derivative, process, times, slope):
    """L and a M on the values of F at the nodes after the first, row by row."""
    stencil = derivative.stencil(process, times)
    last = jnp.asarray(process.t_max)
    leak = process.alpha(last) / process.sigma(last)
    rows = stencil.rows
    gap = rows.alpha - leak * rows.sigma
    where = jnp.searchsorted(-times, -rows.times)
    index = jnp.arange(len(stencil))[:, None]
    empty = jnp.zeros((len(stencil), times.size))
    teacher = px.from_function(lambda x, s, a: slope * x / a, shape=(1,))
    flow = px.ProbabilityFlow(teacher, process, extrapolate=True)

    def answers(row):
        """What the teacher says to a state of one at each node of the row."""
        ask = lambda states: derivative.target(flow, row, states[:, None], None)[0]
        return jax.vmap(ask)(jnp.eye(row.state.size))

    implied = empty.at[index, where].add(rows.value * gap)
    asked = empty.at[index, where].add(jax.jit(jax.vmap(answers))(rows) * gap)
    return np.asarray(implied)[:, 1:], np.asarray(asked)[:, 1:]


def eigenvalues(matrix):
    """The least real part, the largest modulus, the least of the symmetric part."""
    found = np.linalg.eigvals(matrix)
    return {
        "least_real_part": float(found.real.min()),
        "largest": float(np.abs(found).max()),
        "least_symmetric": float(np.linalg.eigvalsh((matrix + matrix.T) / 2).min()),
    }


def numbers(derivative, n, slope):
    """Eigenvalues of A, of its symmetric part, and the largest weight of a value."""
    process = px.EDM()
    implied, asked = operators(derivative, process, px.karras(n, process), slope)
    matrix = implied.T @ (implied - asked)
    return {
        "n": n,
        "slope": slope,
        **eigenvalues(matrix),
        "amplification": float(np.abs(implied).max()),
    }


def carried(states, slope, reach):
    """The teacher's answers to the values, along runs of `reach` nodes.

    In a run the state contains the answers before it: (1 - a N) answers = a (M - N)
    values, with N the part of M that lies below the diagonal and within a run. The mean
    over where runs begin.
    """
    n = len(states)
    found = []
    for begin in range(reach):
        run = (np.arange(n) + begin) // reach
        inside = np.tril(states, -1) * (run[:, None] == run)
        rest = slope * (states - inside)
        found.append(np.linalg.solve(np.eye(n) - slope * inside, rest))
    return np.mean(found, axis=0)


def numbers_of_integral(weighted, reach, n, slope):
    """The same for the integral student, whose values are the clean samples.

    L is the identity. With weights w the gradient is W (L - a M): its eigenvalues and
    symmetric part are in the norm of W. The weights are those of `pidax.distill.Slope`
    for a slope that is the same at all times.
    """
    process = px.EDM()
    times = px.karras(n, process)
    network = lambda x, c_noise: jnp.tile(x, n)
    student = px.IntegralStudent(network, process, times, shape=(1,))
    unit = jnp.zeros(1)
    path = lambda clean: student.states(unit, clean[:, None])[:, 0]
    states = np.asarray(jax.vmap(path, out_axes=1)(jnp.eye(n)))
    matrix = np.eye(n) - carried(states, slope, reach)
    if weighted:
        root = (np.asarray(times) / process.t_max) ** max(slope - 1, 0)
        matrix = root[:, None] * matrix / root
    return {
        "n": n,
        "slope": slope,
        **eigenvalues(matrix),
        "amplification": student.amplification,
    }


@dataclasses.dataclass(frozen=True)
class IntegralStability:
    """The eigenvalues of the integral form; a method of the suite."""

    weighted: bool = False
    reach: int = 1

    def configuration_on(self, problem: Linear):
        kind = {"integral": True, "weighted": self.weighted, "of": "stability"}
        return kind if self.reach == 1 else kind | {"reach": self.reach}

    def __call__(self, problem: Linear, seed, quick) -> bench.Outcome:
        with jax.enable_x64(True):
            rows = [
                numbers_of_integral(self.weighted, self.reach, n, slope)
                for n in problem.nodes
                for slope in problem.slopes
            ]
        return bench.Outcome({"eigenvalues": rows}, dtype="float64")


@dataclasses.dataclass(frozen=True)
class Stability:
    """The eigenvalues of one derivative; a method of the suite."""

    derivative: px.student.AbstractDerivative

    def configuration_on(self, problem: Linear):
        return {"derivative": self.derivative, "of": "stability"}

    def __call__(self, problem: Linear, seed, quick) -> bench.Outcome:
        with jax.enable_x64(True):
            rows = [
                numbers(self.derivative, n, slope)
                for n in problem.nodes
                for slope in problem.slopes
            ]
        return bench.Outcome({"eigenvalues": rows}, dtype="float64")


def _register():
    derivatives = {
        "upwind, time": px.student.Upwind(px.flow.TimeClock()),
        "upwind, angle": px.student.Upwind(),
        "central, angle": px.student.Central(),
        "central, time": px.student.Central(clock=px.flow.TimeClock()),
        "12 long steps, angle": px.student.SolverStep(diffrax.Bosh3(), steps=12),
    }
    for i, (name, derivative) in enumerate(derivatives.items()):
        bench.method(
            "pid", f"stability: {name}", label=name, on=("linear",), quick=i == 0
        )(Stability(derivative))
    integral = {
        "integral": IntegralStability(),
        "integral, weights of `Slope`": IntegralStability(weighted=True),
        "integral, reach 5": IntegralStability(reach=5),
        "integral, reach 10": IntegralStability(reach=10),
    }
    for name, how in integral.items():
        bench.method(
            "pid", f"stability: {name}", label=name, on=("linear",), quick=how.weighted
        )(how)


_register()
