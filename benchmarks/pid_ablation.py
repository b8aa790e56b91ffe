"""The paper's ablations where the truth is known; see docs/pid.md.

    python benchmarks/pid_ablation.py                  # what is missing, row by row
    python benchmarks/pid_ablation.py --only ring/ours # rows whose name has this in it
    python benchmarks/pid_ablation.py --quick          # twenty steps, nothing written

Each row is one setting (`pid_settings.py`) on one problem (`pid_problems.py`) with one
seed: error to the adaptive solution for the same draws, along the way and at the end,
sliced Wasserstein distance to true samples, seconds. Rows are written to
benchmarks/results/pid_ablation.json as they come, and those that are there are not run
again, so that it can be stopped at any time; several may run at once (`--part 1/2`).
"""

import argparse
import time

import jax
import numpy as np
import pid_problems
import pid_settings
import record

import pidax as px

NAME = "pid_ablation"
SEEDS = (0, 1, 2)
LOOKS = 16  # evaluations of the average on the way


def errors(problem, model):
    """Of a student at the times where the truth is saved: a dict of lists."""
    z, xs = problem.solved
    batched = jax.vmap(
        lambda z, c, t: model(z, t, c), in_axes=(0, _axis(problem), None)
    )
    run = jax.jit(batched)
    states = [run(z, problem.condition, t) for t in problem.times[1:]]
    rows = [
        px.metrics.error_summary(x, xs[:, i], per_component=problem.name != "ring")
        for i, x in enumerate(states, 1)
    ]
    found = {name: [row[name] for row in rows] for name in rows[0]}
    return found, np.asarray(states[-1])


def _axis(problem):
    return None if problem.classes is None else 0


def distances(problem, samples):
    """Sliced W2 to true samples: of samples, of the teacher, of other true samples.

    All sets have one size; of samples there are more, and the mean is taken.
    """
    truth, more = problem.truth
    size = len(truth)

    def far(x):
        sets = [x[at : at + size] for at in range(0, len(x) - size + 1, size)]
        key = jax.random.key(0)
        some = [px.metrics.sliced_wasserstein(s, truth, key=key) for s in sets]
        return float(np.mean(some))

    teacher = np.asarray(problem.solved[1][:, -1])
    found = {"student": far(samples), "teacher": far(teacher), "floor": far(more)}
    return {**found, "size": size}


def student(problem, setting, key):
    process = problem.flow.process
    if setting.teacher_weights:
        return px.Student.from_teacher(problem.flow.denoiser, process)
    return px.Student(problem.network(key, setting.scale), process)


def fitted(problem, setting, seed, callback=None):
    """The run of one row."""
    first, second = jax.random.split(jax.random.key(seed))
    return px.fit(
        student(problem, setting, first),
        pid_settings.objective(setting, problem),
        steps=setting.steps,
        batch_size=problem.batch_size,
        optimiser=pid_settings.optimiser(setting),
        ema=(setting.ema,),
        key=second,
        log_every=max(setting.steps // LOOKS, 1),
        callback=callback,
        progress=False,
    )


def train(problem, setting, seed):
    """One row."""
    z, xs = problem.solved
    some = slice(0, 2048)
    label = None if problem.condition is None else problem.condition[some]
    t = problem.times[-1]
    end = jax.jit(
        lambda m: jax.vmap(lambda z, c: m(z, t, c), in_axes=(0, _axis(problem)))(
            z[some], label
        )
    )
    curve = []

    def look(step, terms, result):
        x = end(result.ema())
        rms = float(
            px.metrics.rms_error(x, xs[some, -1], per_component=problem.name != "ring")
        )
        curve.append([step, rms, terms["loss"]])

    start = time.perf_counter()
    row = {"name": setting.name, "seed": seed, "batch_size": problem.batch_size}
    row |= {"optimiser": setting.optimiser_name, "ema": setting.ema}
    try:
        result = fitted(problem, setting, seed, look)
    except px.NonFiniteError as error:
        return {**row, "diverged": str(error)[:80], "curve": curve}
    row["seconds"] = time.perf_counter() - start
    row["steps_per_second"] = float(np.median(result.history["steps_per_second"]))
    found, samples = errors(problem, result.ema())
    row |= found | {"sliced_wasserstein": distances(problem, samples), "curve": curve}
    return row | {"times": np.asarray(problem.times[1:], float).tolist()}


def keep(row):
    head = {"dtype": "float32", "seeds": list(SEEDS)}
    record.append(NAME, row, head | {"command": "python benchmarks/pid_ablation.py"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--part", default="1/1", help="K/N: every N-th row")
    arguments = parser.parse_args()
    record.provenance()
    part, parts = map(int, arguments.part.split("/"))
    seeds = SEEDS[:1] if arguments.quick else SEEDS[: arguments.seeds]
    rows = pid_settings.settings(quick=arguments.quick)
    # Whole sets of seeds of the first rows before the next ones.
    todo = [(s, seed) for s in rows if arguments.only in s.name for seed in seeds]
    problems = {}
    for setting, seed in todo[part - 1 :: parts]:
        done = {(row["name"], row["seed"]) for row in record.rows(NAME)}
        if (setting.name, seed) in done and not arguments.quick:
            continue
        if setting.problem not in problems:
            problems[setting.problem] = pid_problems.PROBLEMS[setting.problem]()
        row = train(problems[setting.problem], setting, seed)
        print(setting.name, seed, row.get("diverged") or row["rms"], flush=True)
        if not arguments.quick:
            keep(row)
        jax.clear_caches()


if __name__ == "__main__":
    main()
