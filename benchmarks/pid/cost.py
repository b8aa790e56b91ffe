"""What a step of distillation costs, and what a sample costs then.

Milliseconds a step of PID beside knowledge distillation, whose solved pairs cost extra,
as in the paper's Table 4; and samples a second of a student (one evaluation) and of its
teacher at equal batch. Untrained students: their speed is that of trained ones. Let
nothing else run.
"""

import time
from typing import Any

import jax
import numpy as np

import pidax as px

from .. import bench
from .problems import Vectors
from .students import Distilled, objective, optimiser, start

STEPS, ROUNDS = 60, 3
CASES = {
    "paper's preset, RAdam": Distilled("paper", optimiser="RAdam", steps=STEPS),
    "paper's preset, Muon": Distilled("paper", optimiser="Muon", steps=STEPS),
    "ours, RAdam": Distilled("ours", optimiser="RAdam", steps=STEPS),
    "ours, Adam": Distilled("ours", optimiser="Adam", steps=STEPS),
    "ours, Muon": Distilled("ours", optimiser="Muon", steps=STEPS),
    "central difference, Muon": Distilled(
        "ours", "", {"derivative": px.student.Central()}, optimiser="Muon", steps=STEPS
    ),
    "integral student, Muon": Distilled("integral", optimiser="Muon", steps=STEPS),
    "knowledge distillation, RAdam": Distilled(
        "kd", "", {"pairs": 1024}, optimiser="RAdam", steps=STEPS
    ),
    "knowledge distillation, Muon": Distilled(
        "kd", "", {"pairs": 1024}, optimiser="Muon", steps=STEPS
    ),
}
QUICK = ("ours, Adam",)


@bench.method(
    "pid",
    "cost: steps",
    label="ms a step",
    on=("ring", "mixture", "digits"),
    group="cost",
    quick=False,
)
def steps(problem: Vectors, seed, quick):
    """Milliseconds a step of each case, in turns; and seconds of the pairs' solve."""
    key = jax.random.key(seed)
    runs = {
        name: CASES[name].configuration_on(problem)
        for name in (QUICK if quick else CASES)
    }
    models = {name: start(run, problem, key) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(1 if quick else ROUNDS):
        for name, run in runs.items():
            result = px.fit(
                models[name],
                objective(run, problem),
                steps=STEPS,
                batch_size=problem.batch_size,
                optimiser=optimiser(run),
                key=key,
                log_every=STEPS // 3,
                progress=False,
            )
            # The first third compiles.
            times[name].append(1e3 / float(result.history["steps_per_second"][-1]))
    options: Any = {"classes": problem.classes}
    model = px.Student(problem.network.make(key), problem.process)
    few = px.KnowledgeDistillation(problem.flow, pairs=1024, **options)
    if not quick:
        jax.block_until_ready(few.init(model, key=key))  # compiles
    begin = time.perf_counter()
    count = 64 if quick else 16_384
    kd = px.KnowledgeDistillation(problem.flow, pairs=count, **options)
    pairs = jax.block_until_ready(kd.init(model, key=key))
    found = {
        "pairs": count,
        "pairs_seconds": time.perf_counter() - begin,
        "pairs_evaluations": float(pairs.evaluations) / count,
    }
    rows = [
        {"case": name, "ms": sorted(t), "ms_median": float(np.median(t))}
        for name, t in times.items()
    ]
    return bench.Outcome({"rows": rows, **found, "batch": problem.batch_size})


@bench.method(
    "pid",
    "cost: samples",
    label="samples a second",
    on=("ring", "digits"),
    group="cost",
    quick=False,
)
def samples(problem: Vectors, seed, quick):
    """Samples a second at equal batch."""
    key = jax.random.key(seed)
    student = px.Student(problem.network.make(key), problem.process)
    count = 64 if quick else 1024
    report = px.compare(
        problem.flow, student, key=key, count=count, block=count, progress=False,
        classes=problem.classes,
    )  # fmt: skip
    rows = [
        {
            "way": name,
            "evaluations": solution.evaluations,
            "samples_per_second": report.samples_per_second(name),
            "student_is_faster": report.speed_up(name),
        }
        for name, solution in report.solutions.items()
        if name != "reference"
    ]
    return bench.Outcome({"rows": rows, "batch": count})
