"""What one PID step of an image network costs, and where the time goes.

    python benchmarks/train_step.py                        # on one core, then on two
    python benchmarks/train_step.py --torch PYTHON         # and the same in PyTorch

DDPM++ for 32 by 32 images with three channels (width 32, multipliers 1, 2, 2, two
blocks, attention at 16), batch 16, the paper's preset with N = 250 times, RAdam, one
average, float32. Seconds a step by `px.fit`; forward, backward and teacher apart;
compilation; peak memory of the process. Each as JAX comes, and with the settings of
docs/training.md, "On a CPU": memory that is kept between steps, and a device for each
core. With `--torch`, the interpreter of an environment that has PyTorch, the same step
there (train_step_torch.py), in turns with ours and in the same two environments. Let
nothing else run. Writes benchmarks/results/train_step.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BATCH, NODES = 16, 250
STEPS = 10
# glibc's: freed memory is kept, so that the kernel need not clear it at each step.
KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "100000000",
}
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
TWO_DEVICES = (
    "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
)
CASES = {  # cores, XLA_FLAGS, memory kept
    "one core, as it comes": (1, ONE_THREAD, False),
    "one core, memory kept": (1, ONE_THREAD, True),
    "two cores, as it comes": (2, "", False),
    "two cores, memory kept, a device each": (2, TWO_DEVICES, True),
}
HERE = Path(__file__).parent


def measured(steps):
    """All numbers of this process, which sees as many cores as it was given."""
    import equinox as eqx
    import image_problem
    import jax
    import optax
    import record

    import pidax as px

    teacher = image_problem.teacher()
    process, network = teacher.process, teacher.network
    flow = px.ProbabilityFlow(teacher, process)
    weights, rest = eqx.partition(network, eqx.is_inexact_array)
    found: dict[str, Any] = {}
    found["parameters"] = sum(w.size for w in jax.tree.leaves(weights))

    def forward(weights, x):
        net = eqx.combine(weights, rest)
        return jax.vmap(lambda x: net(x, 0.3))(x)

    square = lambda weights, x: (forward(weights, x) ** 2).mean()
    denoise = lambda x: jax.vmap(lambda x: teacher(x, 1.0))(x)
    images = jax.random.normal(jax.random.key(1), (2 * BATCH, 32, 32, 3))
    parts = {
        "forward, 32 images": (forward, (weights, images)),
        "forward and backward, 32 images": (jax.grad(square), (weights, images)),
        "teacher, 16 images": (denoise, (images[:BATCH],)),
    }
    for name, (fn, arguments) in parts.items():
        start = time.perf_counter()
        compiled = jax.jit(fn).lower(*arguments).compile()
        found[f"compiling: {name}"] = time.perf_counter() - start
        call = lambda compiled=compiled, arguments=arguments: compiled(*arguments)
        found[name] = sorted(record.seconds(call, 5))

    start = time.perf_counter()
    result = px.fit(
        px.Student.from_teacher(teacher, process),
        px.PID.paper(flow, times=px.karras(NODES, process)),
        steps=steps,
        batch_size=BATCH,
        optimiser=optax.radam(1e-4),
        ema=(0.999,),
        key=jax.random.key(2),
        log_every=1,
        progress=False,
    )
    whole = time.perf_counter() - start
    each = [1 / float(s) for s in result.history["steps_per_second"]]
    found["step"] = each[2:]  # the first compiles, the second fills the queue
    found["first step, compiling"] = whole - sum(each[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak memory of the process, MB"] = peak / 1e3
    return found


def child(case, command):
    """Run as this case says; what the command prints last is its answer."""
    cores, flags, kept = CASES[case]
    env = dict(os.environ, OMP_NUM_THREADS=str(cores), XLA_FLAGS=flags)
    env |= KEPT if kept else {}
    mine = sorted(os.sched_getaffinity(0))[-cores:]
    run = subprocess.run(
        command,
        env=env,
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, mine),
    )
    return json.loads(run.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch", help="an interpreter that has PyTorch")
    parser.add_argument("--measure", action="store_true", help="and print")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only", default="", help="cases with this in their name")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(arguments.steps)))
        return
    import numpy as np
    import record

    record.provenance()
    steps = ["--steps", str(arguments.steps)]
    target, rows = record.RESULTS / "train_step.json", []
    if arguments.only and target.exists():  # the others stay
        before = json.loads(target.read_text())["rows"]
        rows = [row for row in before if arguments.only not in row["case"]]
    for case in CASES:
        if arguments.only not in case:
            continue
        ours = [sys.executable, __file__, "--measure", *steps]
        row = {"case": case, "cores": CASES[case][0]}
        theirs = [str(arguments.torch), str(HERE / "train_step_torch.py"), *steps]
        theirs += ["--threads", str(CASES[case][0])]
        before = child(case, theirs) if arguments.torch else None
        row["pidax"] = child(case, ours)
        line = f"{case}: {np.median(row['pidax']['step']):.3f} s"
        if before is not None:
            after = child(case, theirs)
            row["torch"] = {**after, "seconds": before["seconds"] + after["seconds"]}
            line += f", PyTorch {np.median(row['torch']['seconds']):.3f} s"
        rows.append(row)
        print(line, flush=True)
        found = {"dtype": "float32", "seeds": [0, 1, 2], "batch": BATCH, "kept": KEPT}
        record.save("train_step", {**found, "rows": rows})


if __name__ == "__main__":
    main()
