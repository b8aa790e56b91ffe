"""What one PID step of an image network costs, and where the time goes.

DDPM++ for 32 by 32 images with three channels (width 32, multipliers 1, 2, 2, two
blocks, attention at 16), batch 16, the paper's preset with N = 250 times, RAdam, one
average, float32. Seconds a step by `px.fit`; forward, backward and teacher apart;
compilation; peak memory of the process. Each as JAX comes, and with the settings of
docs/training.md, "On a CPU": memory that is kept between steps, and a device for each
core. With PIDAX_TORCH set to the interpreter of an environment that has PyTorch, the
same step there (`_torch_step.py`), in turns with ours and in the same two environments.
Let nothing else run.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .. import bench
from ._images import SMALL, Images

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
ROOT = Path(__file__).parents[2]


@bench.problem("train", label="DDPM++, 32 x 32", kind="images", quick=False)
def ddpmpp32(quick):
    return SMALL if quick else Images()


@dataclasses.dataclass(frozen=True)
class Case:
    """An environment in which the step is timed, by itself; a method of the suite."""

    name: str
    cores: int
    flags: str = ""  # XLA_FLAGS
    kept: bool = False  # memory between steps

    def configuration_on(self, problem: Images):
        return {**vars(self), "kept": KEPT if self.kept else {}}

    def __call__(self, problem: Images, seed, quick) -> bench.Outcome:
        torch = os.environ.get("PIDAX_TORCH")
        words = ["--steps", str(problem.steps), "--threads", str(self.cores)]
        theirs = [str(torch), str(Path(__file__).with_name("_torch_step.py")), *words]
        before = self.child(theirs) if torch else None
        ours = [sys.executable, "-m", "benchmarks.train.step", *["--quick"] * quick]
        row = {"pidax": self.child(ours)}
        if before is not None:
            after = self.child(theirs)
            row["torch"] = {**after, "seconds": before["seconds"] + after["seconds"]}
        return bench.Outcome({**row, "batch": problem.batch, "cores": self.cores})

    def child(self, command):
        """Run in this environment; what the command prints last is its answer."""
        flags = f"{os.environ.get('XLA_FLAGS', '')} {self.flags}"
        env = dict(os.environ, OMP_NUM_THREADS=str(self.cores), XLA_FLAGS=flags)
        env |= KEPT if self.kept else {}
        every = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(every)[-self.cores :])  # children inherit it
        try:
            run = subprocess.run(
                command,
                env=env,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        finally:
            os.sched_setaffinity(0, every)
        return json.loads(run.stdout.splitlines()[-1])


CASES = (
    Case("one core, as it comes", 1, ONE_THREAD),
    Case("one core, memory kept", 1, ONE_THREAD, kept=True),
    Case("two cores, as it comes", 2),
    Case("two cores, memory kept, a device each", 2, TWO_DEVICES, kept=True),
)
for _i, _case in enumerate(CASES):
    bench.method("train", _case.name, on=("images",), quick=_i == 0)(_case)


def measured(problem: Images) -> dict[str, Any]:
    """All numbers of this process, which sees as many cores as it was given."""
    import equinox as eqx
    import jax
    import optax

    import pidax as px

    teacher = problem.teacher()
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
    images = jax.random.normal(jax.random.key(1), problem.shape(2 * problem.batch))
    parts = {
        "forward, 32 images": (forward, (weights, images)),
        "forward and backward, 32 images": (jax.grad(square), (weights, images)),
        "teacher, 16 images": (denoise, (images[: problem.batch],)),
    }
    for name, (fn, arguments) in parts.items():
        start = time.perf_counter()
        compiled = jax.jit(fn).lower(*arguments).compile()
        found[f"compiling: {name}"] = time.perf_counter() - start
        call = lambda compiled=compiled, arguments=arguments: compiled(*arguments)
        found[name] = sorted(bench.seconds(call, problem.repeats))

    start = time.perf_counter()
    result = px.fit(
        px.Student.from_teacher(teacher, process),
        px.PID.paper(flow, times=px.karras(problem.nodes, process)),
        steps=problem.steps,
        batch_size=problem.batch,
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


if __name__ == "__main__":
    print(json.dumps(measured(SMALL if "--quick" in sys.argv else Images())))
