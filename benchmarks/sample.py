"""Images a second of a teacher and of its student, and what a step of either costs.

    python benchmarks/sample.py             # on two cores; let nothing else run

The network of train_step.py (DDPM++, 1.75 million parameters, 32 by 32 images) in
batches of 16, float32: EDM's sampler with 18 Heun steps (35 evaluations), the adaptive
solver at its default tolerances, and a student's one evaluation. Random weights: the
speed of fixed steps is that of trained ones; the adaptive solver's number of
evaluations is the random network's, and is given beside its time. Writes
benchmarks/results/sample.json.
"""

import equinox as eqx
import image_problem
import jax
import numpy as np
import record
from image_problem import BATCH

import pidax as px

REPEATS = 3


def main():
    teacher = image_problem.teacher()
    process = teacher.process
    flow = px.ProbabilityFlow(teacher, process)
    student = px.Student.from_teacher(teacher, process)
    z = process.prior(jax.random.key(1), (BATCH, 32, 32, 3))
    keys = jax.random.split(jax.random.key(2), BATCH)
    heun = eqx.filter_jit(
        lambda z: jax.vmap(lambda z, key: px.sample_with_churn(flow, z, key=key))(
            z, keys
        )
    )
    once = eqx.filter_jit(lambda z: jax.vmap(student.sample)(z))
    solve = eqx.filter_jit(lambda z: px.solve_batch(flow, z))
    evaluations = int(np.max(solve(z).stats["evaluations"]))
    ways = {
        "student": (lambda: once(z), 1),
        "EDM's sampler, 18 steps": (lambda: heun(z), 35),
        "adaptive solver": (lambda: solve(z).end, evaluations),
    }
    rows = []
    for name, (run, count) in ways.items():
        seconds = sorted(record.seconds(run, REPEATS))
        speed = BATCH / float(np.median(seconds))
        row = {"way": name, "evaluations": count, "seconds": seconds}
        rows.append({**row, "images_per_second": speed})
        print(f"{name}: {count} evaluations, {speed:.2f} images/s", flush=True)
    settings = {"dtype": "float32", "seeds": [0], "batch": BATCH}
    record.save("sample", {**settings, "rows": rows})


if __name__ == "__main__":
    main()
