"""Darcy's coefficient from measured pressures: errors, and how certain the answers are.

    python benchmarks/piddm_inverse.py            # ten minutes on two cores
    python benchmarks/piddm_inverse.py --quick    # one truth, nothing written

The students are those of benchmarks/piddm.py (in outputs/piddm), the truths held-out
fields. For several slacks: the root mean square of the error of the mean over truths
and points, beside that of the samples' standard deviation, in standard deviations of
the field. Of exact posteriors the two are equal, but for the mean's sampling error.
Writes benchmarks/results/piddm_inverse.json.
"""

import argparse

import jax
import numpy as np
import piddm
import record

import pidax as px

NOISE = 0.02  # of a field's standard deviation
OBSERVED = {
    "pressure at 30%": (0.3, ("solution",)),
    "both at 5%": (0.05, ("coefficient", "solution")),
}
STUDENTS, SLACKS = ("distillation", "PIDDM (a)"), (0.01, 0.05, 0.2)
TRUTHS, SAMPLES = 6, 32


def answers(problem, student, truth, observed, slack, seed):
    """Samples of the fields, given measurements of this truth."""
    equation, share, names = problem.equation, *OBSERVED[observed]
    noise = NOISE * problem.test.std(axis=(0, 1, 2))
    named = jax.tree.map(lambda a: np.asarray(a, np.float32), equation.unstack(truth))
    observation = px.Observation.at_random(
        equation, named, share, names=names, key=jax.random.key(seed),
        noise=dict(zip(equation.names, noise.tolist(), strict=True)),
    )  # fmt: skip
    return px.refine(
        student, observation, problem.constraint, samples=SAMPLES, slack=slack,
        key=jax.random.key(100 + seed), antithetic=True,
    )  # fmt: skip


def row(problem, student, observed, slack, truths):
    """Errors and spreads, root mean squares over truths and points."""
    sizes = problem.test.std(axis=(0, 1, 2))
    errors, variances, relative, converged = [], [], [], []
    for seed in range(truths):
        truth = problem.test[seed]
        found = answers(problem, student, truth, observed, slack, seed)
        fields = np.asarray(found.fields, np.float64) / sizes
        errors.append((fields.mean(axis=0) - truth / sizes) ** 2)
        variances.append(fields.var(axis=0, ddof=1))
        relative.append(np.median(found.relative))
        converged.append(found.converged.mean())
    root = lambda squares: np.sqrt(np.mean(squares, axis=(0, 1, 2))).tolist()
    return {
        "error": root(errors),
        "spread": root(variances),
        "relative_residual": float(np.mean(relative)),
        "converged": float(np.mean(converged)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    record.provenance()
    work, rows = piddm.Work("darcy16", 0, False), []
    for name in STUDENTS[-1:] if quick else STUDENTS:
        student, _ = work.student(name)
        for observed in OBSERVED:
            for slack in SLACKS:
                truths = 1 if quick else TRUTHS
                found = row(work.problem, student, observed, slack, truths)
                said = {"student": name, "observed": observed, "slack": slack}
                rows.append(said | found)
                print(rows[-1], flush=True)
    if not quick:
        head = {"dtype": "float32", "seeds": [0], "truths": TRUTHS, "noise": NOISE}
        head |= {"samples": SAMPLES, "channels": list(work.problem.equation.names)}
        print(record.save("piddm_inverse", head | {"rows": rows}))


if __name__ == "__main__":
    main()
