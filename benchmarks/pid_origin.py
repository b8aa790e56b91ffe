"""Where on its way a student's error is made: see docs/pid.md.

    python benchmarks/pid_origin.py            # a quarter of an hour on one core
    python benchmarks/pid_origin.py ours       # one recipe alone

On the exact mixture in 64 dimensions, one student of each recipe, trained as in
pid_ablation.py. From the state that it has at a time, the teacher's own ODE is solved
to the data: what is wrong then was wrong at that time; what the student errs beyond it
is made later. Writes benchmarks/results/pid_origin.json.
"""

import sys

import jax
import numpy as np
import pid_ablation
import pid_problems
import pid_settings
import record

import pidax as px

COUNT = 1024
ELSEWHERE = 0.5  # RMS per component, half the least distance of two modes
SEED = 0


def rows_of(problem, model):
    """For each time: the student's error there, and what the ODE makes of it."""
    z, xs = problem.solved[0][:COUNT], problem.solved[1][:COUNT]
    run = jax.jit(jax.vmap(model, in_axes=(0, None)))
    rows = []
    for i, t in enumerate(problem.times):
        here = run(z, t)
        last = i == len(problem.times) - 1
        end = here if last else onwards(problem, here, i)
        wrong = np.asarray(px.metrics.sample_errors(end, xs[:, -1], per_component=True))
        rows.append(
            {
                "time": float(t),
                "rms_here": rms(here, xs[:, i]),
                "rms_at_end": rms(end, xs[:, -1]),
                "share_elsewhere": float((wrong > ELSEWHERE).mean()),
            }
        )
        print(rows[-1], flush=True)
    return rows


def onwards(problem, states, i):
    """The states at the end, by the ODE from the i-th time."""
    path = px.solve_batch(
        problem.flow, states, times=problem.times[i:], rtol=problem.tolerance
    )
    return path.xs[:, -1]


def rms(x, y):
    return float(px.metrics.rms_error(x, y, per_component=True))


def main():
    record.provenance()
    recipes = sys.argv[1:] or pid_settings.RECIPES
    problem = pid_problems.mixture()
    settings = [
        row
        for row in pid_settings.settings()
        if row.problem == "mixture" and not row.change and row.recipe in recipes
    ]
    parts = []
    for setting in settings:
        result = pid_ablation.fitted(problem, setting, SEED)
        rows = rows_of(problem, result.ema())
        parts.append({"recipe": setting.recipe, "name": setting.name, "rows": rows})
        record.save(
            "pid_origin",
            {"dtype": "float32", "seeds": [SEED], "count": COUNT, "students": parts},
        )


if __name__ == "__main__":
    main()
