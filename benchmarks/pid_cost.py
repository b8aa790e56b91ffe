"""What a step of distillation costs, and what a sample costs then.

    python benchmarks/pid_cost.py    # five minutes; let nothing else run

Milliseconds a step of PID beside knowledge distillation, whose solved pairs cost extra,
as in the paper's Table 4; and samples a second of a student (one evaluation) and of its
teacher at equal batch. Untrained students: their speed is that of trained ones. Writes
benchmarks/results/pid_cost.json.
"""

import time

import jax
import numpy as np
import pid_problems
import pid_settings
import record
from pid_settings import Setting

import pidax as px

STEPS, ROUNDS = 60, 3
CASES = {
    "paper's preset, RAdam": ("paper", "RAdam"),
    "paper's preset, Muon": ("paper", "Muon"),
    "ours, RAdam": ("ours", "RAdam"),
    "ours, Adam": ("ours", "Adam"),
    "ours, Muon": ("ours", "Muon"),
    "central difference, Muon": ("central", "Muon"),
    "knowledge distillation, RAdam": ("kd", "RAdam"),
    "knowledge distillation, Muon": ("kd", "Muon"),
}


def step_times(problem):
    """Milliseconds a step of each case, in turns; and seconds of the pairs' solve."""
    key = jax.random.key(0)
    model = px.Student(problem.network(key), problem.flow.process)
    times = {name: [] for name in CASES}
    begin = {}
    for _ in range(ROUNDS):
        for name, (recipe, optimiser) in CASES.items():
            choices = {
                "kd": {"pairs": 1024},
                "central": {"derivative": px.student.Central()},
            }
            setting = Setting(
                problem.name,
                "ours" if recipe == "central" else recipe,
                choices=choices.get(recipe, {}),
                steps=STEPS,
                optimiser=optimiser,
            )
            result = px.fit(
                model,
                pid_settings.objective(setting, problem),
                steps=STEPS,
                batch_size=problem.batch_size,
                optimiser=pid_settings.optimiser(setting),
                key=key,
                log_every=STEPS // 3,
                progress=False,
            )
            # The first third compiles.
            times[name].append(1e3 / float(result.history["steps_per_second"][-1]))
    few = px.KnowledgeDistillation(problem.flow, classes=problem.classes, pairs=1024)
    jax.block_until_ready(few.init(model, key=key))  # compiles
    start = time.perf_counter()
    kd = px.KnowledgeDistillation(problem.flow, classes=problem.classes)
    pairs = jax.block_until_ready(kd.init(model, key=key))
    begin["pairs"] = 16_384
    begin["pairs_seconds"] = time.perf_counter() - start
    begin["pairs_evaluations"] = float(pairs.evaluations) / 16_384
    rows = [
        {"case": name, "ms": sorted(t), "ms_median": float(np.median(t))}
        for name, t in times.items()
    ]
    return {"problem": problem.name, "batch": problem.batch_size, "rows": rows, **begin}


def speeds(problem):
    """Samples a second at equal batch."""
    key = jax.random.key(0)
    student = px.Student(problem.network(key), problem.flow.process)
    report = px.compare(
        problem.flow, student, key=key, count=1024, block=1024, classes=problem.classes
    )
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
    return {"problem": problem.name, "batch": 1024, "rows": rows}


def main():
    record.provenance()
    problems = [pid_problems.ring(), pid_problems.digits()]
    results = {"dtype": "float32", "seeds": [0]}
    results["steps"] = [step_times(problem) for problem in problems]
    results["samples"] = [speeds(problem) for problem in problems]
    print(record.save("pid_cost", results))


if __name__ == "__main__":
    main()
