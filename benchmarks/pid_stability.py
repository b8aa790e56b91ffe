r"""When does training on the residual contract? The linear problem, solved.

    python benchmarks/pid_stability.py     # seconds; writes results/pid_stability.json

Near its solution a residual is linear in the student's values F at the nodes:
R = (L - a M) F, with L what the student's motion implies, M the states in which the
teacher is asked, and a the teacher's slope dD/dx (a solver's step asks in states that
depend on a, too). With the teacher's side stopped the
gradient is A F, A = L^T (L - a M), which is no gradient of anything. A table of values
converges if the eigenvalues of A have positive real parts; a network, whose values at
different times and draws move together by a kernel K of its own, is sure to converge
(in the norm of K^-1) only if the symmetric part of A is positive.
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import record

import pidax as px

SLOPES = (0.5, 1.0, 1.1, 1.2, 2.0)
DERIVATIVES = {
    "upwind, time": px.student.Upwind(px.flow.TimeClock()),
    "upwind, angle": px.student.Upwind(),
    "central, angle": px.student.Central(),
    "central, time": px.student.Central(clock=px.flow.TimeClock()),
    "12 long steps, angle": px.student.SolverStep(diffrax.Bosh3(), steps=12),
}


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


def row(name, derivative, n, slope):
    process = px.EDM()
    times = px.karras(n, process)
    implied, asked = operators(derivative, process, times, slope)
    matrix = implied.T @ (implied - asked)
    return {
        "derivative": name,
        "n": n,
        "slope": slope,
        "least_real_part": float(np.linalg.eigvals(matrix).real.min()),
        "largest": float(np.abs(np.linalg.eigvals(matrix)).max()),
        "least_symmetric": float(np.linalg.eigvalsh((matrix + matrix.T) / 2).min()),
        "amplification": float(np.abs(implied).max()),
    }


def main():
    rows = []
    for name, derivative in DERIVATIVES.items():
        for n in (18, 35, 80, 250):
            for slope in SLOPES:
                rows.append(row(name, derivative, n, slope))
                print(rows[-1])
    record.save("pid_stability", {"dtype": "float64", "seeds": [0], "rows": rows})


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
