"""The parts of the GPU suite, which `python -m benchmarks.gpu` runs one by one.

    python parts.py PART[,PART...] FILE [--dry]

Each part is a function that calls `put(row, **numbers)` as its numbers come.
"""

import collections
import dataclasses
import fcntl
import functools
import glob
import gzip
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pidax as px
from benchmarks import bench
from benchmarks.gpu import NO_GPU
from pidax import pde
from pidax.train._memory import memory_of

DATA = Path(__file__).parents[2] / "tests/data"
DTYPES = {"bf16": jnp.bfloat16, "f32": jnp.float32}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What `--dry` shrinks."""

    matrix: int = 8192
    network: Any = dataclasses.field(default_factory=dict)
    resolution: int = 32
    batches: tuple[int, int] = (128, 512)
    steps: int = 30
    every: int = 10
    draws: int = 4096
    sampled: int = 512
    nodes: int = 8  # of an integral student
    width: int = 512  # of the networks of vectors
    depth: int = 4
    grid: int = 64
    golden: tuple[str, ...] = (
        "edm_ddpmpp_uncond", "edm_adm_small_cond", "edm_vp_ddpmpp"
    )  # fmt: skip
    precisions: tuple[str, ...] = ("default", "highest")  # of float32 products
    darcy: str = "darcy64"


DRY = Sizes(
    matrix=64,
    network=dict(width=4, multipliers=(1,), blocks=1, attention=()),
    resolution=4,
    batches=(1, 2),
    steps=4,
    every=2,
    draws=16,
    sampled=2,
    nodes=4,
    width=8,
    depth=1,
    grid=8,
    golden=("edm_vp_ddpmpp",),
    precisions=("default",),
    darcy="darcy16",
)


class Target:
    """The file of rows: what is there is kept, and not measured again."""

    def __init__(self, path: Path, part: str, dry: bool):
        self.path, self.part, self.dry = path, part, dry
        memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
        about = bench.provenance()
        about["machine"] = {"processor": bench.processor(), **about["machine"]}
        command = "python " + " ".join(sys.argv)
        self.head = {"command": command, **about, "dry": dry, "memory": memory}

    def read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def has(self, row: str) -> bool:
        return any(
            (r["part"], r["row"]) == (self.part, row)
            for r in self.read().get("rows", [])
        )

    def change(self, how: Callable[[dict[str, Any]], Any]) -> None:
        """At once or not at all: a suite that is killed leaves what was there."""
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a dry run has two parts at a time
            found = {**self.head, **self.read()}
            how(found)
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(found, indent=1) + "\n")
            os.replace(new, self.path)

    def fail(self, part: str, reason: str) -> None:
        """Why a part was not measured, for the list in the file."""
        self.change(lambda found: found.setdefault("failed", {}).update({part: reason}))

    def put(self, row: str, **numbers: Any) -> None:
        device = jax.devices()[0].device_kind
        new = {"part": self.part, "row": row, "device": device, **numbers}
        print({k: v for k, v in new.items() if k != "kernels"}, flush=True)
        self.change(lambda found: found.setdefault("rows", []).append(new))


def seconds(fn: Callable[[], Any], repeats: int = 10) -> float:
    """The median of warmed-up calls, results awaited."""
    return float(np.median(bench.seconds(fn, repeats)))


def peak_memory() -> int:
    """Of the device; where it keeps no account, of this process."""
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return peak or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# --- the machine ---------------------------------------------------------------------


def peaks(target: Target, sizes: Sizes) -> None:
    """Matrix products, of random numbers, and a copy: what 100% is."""
    n = sizes.matrix
    for name, dtype, precision in (
        ("bf16", jnp.bfloat16, "default"),
        ("f32 as it comes", jnp.float32, "default"),
        ("f32 highest", jnp.float32, "highest"),
        ("f64", jnp.float64, "highest"),
    ):
        if target.has(f"product {name}"):
            continue
        with jax.enable_x64(name == "f64"):
            size = n // 2 if name == "f64" else n
            a = jax.random.normal(jax.random.key(0), (size, size), dtype)
            product = jax.jit(functools.partial(jnp.matmul, precision=precision))
            exact = np.asarray(a[:64], np.float64) @ np.asarray(a, np.float64)
            error = np.abs(np.asarray(product(a, a)[:64], np.float64) - exact)
            took = seconds(functools.partial(product, a, a))
            target.put(
                f"product {name}", size=size, seconds=took,
                teraflops=2 * size**3 / took / 1e12,
                relative_error=float(error.max() / np.abs(exact).max()),
            )  # fmt: skip
    if target.has("copy"):
        return
    a = jax.random.normal(jax.random.key(0), (4 * n * n,))
    copy = jax.jit(lambda a: a + 1)
    took = seconds(lambda: copy(a))
    target.put(
        "copy", bytes=2 * a.nbytes, terabytes_per_second=2 * a.nbytes / took / 1e12
    )


# --- numerics ------------------------------------------------------------------------


def on(place: str, fn: Callable[..., Any], *arguments: Any) -> Any:
    """`fn` compiled for the CPU or the default device; NumPy arrays out."""
    device = jax.devices("cpu")[0] if place == "cpu" else jax.devices()[0]
    arrays = jax.device_put(eqx.filter(arguments, eqx.is_array), device)
    arguments = eqx.combine(arrays, arguments)
    with jax.default_device(device):
        out = eqx.filter_jit(fn)(*arguments)
        return jax.tree.map(np.asarray, eqx.filter(out, eqx.is_array))


def relative(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def smoke(target: Target, sizes: Sizes) -> None:
    """The same numbers as on the CPU, or as the published code gave."""
    for name in sizes.golden:
        denoiser = loaded(name)
        golden = dict(np.load(DATA / f"{name}.npz"))
        x = np.moveaxis(golden["x"], 1, -1)
        expected = np.moveaxis(golden["D32"], 1, -1)
        labels, sigma = golden.get("class_labels"), golden["sigma"]
        labels = jnp.zeros(len(x)) if labels is None else labels
        given = "class_labels" in golden

        def answer(denoiser, x, sigma, labels, given=given):
            one = lambda x, s, c: denoiser(x, s, 1.0, c if given else None)
            return jax.vmap(one)(x, sigma, labels)

        for precision, low in (*((p, 0) for p in sizes.precisions), ("default", 1)):
            model = in_precision(denoiser, "bf16") if low else denoiser
            row = f"D of {name}, {'bf16' if low else 'f32 ' + precision}"
            if target.has(row):
                continue
            with jax.default_matmul_precision(precision):
                found = on("gpu", answer, model, x, sigma, labels)
            scale = np.abs(expected).max()
            target.put(
                row, relative_l2=relative(found, expected),
                worst=float(np.abs(found - expected).max() / scale),
            )  # fmt: skip
    _smoke_of_solves(target, sizes)
    _smoke_of_training(target, sizes)
    _smoke_of_pid(target, sizes)


def loaded(name: str) -> Any:
    teacher = px.convert.load_edm(DATA / f"{name}.pkl")
    return getattr(teacher, "denoiser", teacher)


def in_precision(denoiser: Any, precision: str) -> Any:
    """The same denoiser with its network in bf16 or as it is."""
    if precision == "f32":
        return denoiser
    low = px.nn.LowPrecision(denoiser.network)
    return eqx.tree_at(lambda d: d.network, denoiser, low)


def _smoke_of_pid(target: Target, sizes: Sizes) -> None:
    """One loss of PID and its gradient, CPU against GPU, float32: both students."""
    process = px.EDM()
    if target.dry:
        network = px.nn.MLP(2, 2, width=sizes.width, depth=1, key=jax.random.key(0))
        denoiser = px.Preconditioned(network, process)
    else:
        denoiser = loaded(sizes.golden[0])
    flow = px.ProbabilityFlow(denoiser, process)
    students: dict[str, Any] = {
        "PID's loss": px.Student(denoiser.network, process),
        "PID's loss, integral student": integral_student(denoiser, sizes, "f32"),
    }
    objective = px.PID(flow)
    keys = jax.random.split(jax.random.key(1), 4)

    def value(student, objective, state, keys):
        def mean(student):
            one = lambda key: objective.loss(
                student, state, None, jnp.zeros(()), key=key
            )[0]
            return jax.vmap(one)(keys).mean()

        loss, gradient = eqx.filter_value_and_grad(mean)(student)
        leaves = jax.tree.leaves(eqx.filter(gradient, eqx.is_inexact_array))
        return loss, jnp.sqrt(sum((jnp.square(g).sum() for g in leaves), jnp.zeros(())))

    for name, student in students.items():
        rows = {p: f"{name}, f32 {p}" for p in sizes.precisions}
        if all(map(target.has, rows.values())):
            continue
        state = objective.init(student, key=jax.random.key(0))
        expected = on("cpu", value, student, objective, state, keys)
        for precision, row in rows.items():
            if target.has(row):
                continue
            with jax.default_matmul_precision(precision):
                loss, norm = on("gpu", value, student, objective, state, keys)
            target.put(
                row, loss=float(loss), relative_error=relative(loss, expected[0]),
                gradient_norm_relative_error=relative(norm, expected[1]),
            )  # fmt: skip


def mixture() -> px.GaussianMixture:
    means = 0.7 * np.random.default_rng(7).normal(size=(8, 64))
    return px.GaussianMixture(jnp.asarray(means, float), 0.2)


def _smoke_of_solves(target: Target, sizes: Sizes) -> None:
    """An adaptive solve of an exact teacher, and a refinement of Poisson's fields."""
    process = px.EDM()
    flow = px.ProbabilityFlow(mixture(), process)
    z = process.prior(jax.random.key(1), (16 if target.dry else 256, 64))
    solve = lambda flow, z: px.solve_batch(flow, z).end
    expected = on("cpu", solve, flow, z)
    for precision in sizes.precisions:
        if not target.has(f"solve, f32 {precision}"):
            with jax.default_matmul_precision(precision):
                found = on("gpu", solve, flow, z)
            rms = float(np.sqrt(np.mean((found - expected) ** 2)))
            target.put(f"solve, f32 {precision}", rms_from_cpu=rms)
    if target.has("refine"):
        return
    grid = pde.Grid((8, 8))
    equation = pde.Poisson(grid, pde.Matern(grid, modes=16))
    fields = pde.draw(equation, 64, key=jax.random.key(2))
    stacked = np.asarray(jax.vmap(equation.stack)(fields), np.float32)
    chart = pde.Whitened.fit(stacked, given=equation.given_mask, rank=12)
    coordinates = np.asarray(chart.normalise(stacked))
    teacher = px.Gaussian(
        jnp.asarray(coordinates.mean(0)), jnp.asarray(coordinates.var(0))
    )
    process = px.EDM(sigma_data=1.0)
    student = px.ExactStudent(teacher, process)
    results = []
    for device in (jax.devices("cpu")[0], jax.devices()[0]):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            found = px.refine(
                student, constraint=px.Residual(equation, chart),
                key=jax.random.key(3), samples=16, slack=0.1,
            )  # fmt: skip
            results.append(np.asarray(found.fields, np.float64))
    target.put("refine", relative_from_cpu=relative(results[1], results[0]))


def _smoke_of_training(target: Target, sizes: Sizes) -> None:
    """`fit` learns, and goes on from a checkpoint as if it had not stopped."""
    if target.has("fit"):
        return
    process = px.EDM()
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), process)
    network = px.nn.MLP(2, 2, width=32, depth=2, key=jax.random.key(0))
    every = 2 if target.dry else 20

    def run(steps, directory=None):
        return px.fit(
            px.Student(network, process), px.PID(flow), steps=steps, batch_size=64,
            key=jax.random.key(1), optimiser=optax.adam(3e-3), directory=directory,
            progress=False, log_every=every,
        )  # fmt: skip

    straight = run(10 * every)
    with tempfile.TemporaryDirectory() as directory:
        run(5 * every, directory)
        resumed = run(10 * every, directory)
    leaves = lambda run: jax.tree.leaves(eqx.filter(run.model, eqx.is_inexact_array))
    worst = max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(leaves(straight), leaves(resumed), strict=True)
    )
    target.put(
        "fit", first_loss=float(straight.history["loss"][0]),
        last_loss=float(straight.history["loss"][-1]), resumed_differs_by=worst,
    )  # fmt: skip


# --- the step of an image network ----------------------------------------------------


def image_teacher(sizes: Sizes, precision: str) -> px.Preconditioned:
    """DDPM++ for CIFAR-10, 55.7 million random weights, without dropout."""
    network = px.nn.SongUNet.ddpmpp(
        3, 3, resolution=sizes.resolution, dropout=0.0, key=jax.random.key(0),
        **sizes.network,
    )  # fmt: skip
    return in_precision(px.Preconditioned(network, px.EDM()), precision)


def integral_student(
    teacher: px.Preconditioned, sizes: Sizes, precision: str
) -> px.IntegralStudent:
    """From a float32 teacher, with its last layer once for each node."""
    times = px.karras(sizes.nodes, teacher.process)
    student = px.IntegralStudent.from_teacher(teacher, teacher.process, times)
    if precision == "f32":
        return student
    low = px.nn.LowPrecision(student.network)
    return eqx.tree_at(lambda s: s.network, student, low)


def forward_flops(teacher: px.Preconditioned, sizes: Sizes) -> float:
    """Floating-point operations of one evaluation of one image, as XLA counts them."""
    shape = (sizes.resolution, sizes.resolution, 3)
    weights, rest = eqx.partition(teacher, eqx.is_array)
    call = lambda weights, x: eqx.combine(weights, rest)(x, 1.0)
    traced = jax.jit(call).trace(weights, jnp.zeros(shape))
    lowered = traced.lower(
        lowering_platforms=("cpu",)
    )  # the GPU's lowering counts none
    return float((lowered.cost_analysis() or {})["flops"])


def images(target: Target, sizes: Sizes, preset: str, precision: str) -> None:
    """A training step of PID as `px.fit` takes it, beside the matmul peak.

    The paper's preset, or ours: an integral student, whose one pass predicts all nodes,
    and the teacher at four of them.
    """
    teacher = image_teacher(sizes, precision)
    flow = px.ProbabilityFlow(teacher, teacher.process)
    flops = forward_flops(teacher, sizes)
    # Passes of the student count three times: forward, and twice for the gradient.
    if preset == "paper":
        student, passes = px.Student.from_teacher(teacher, teacher.process), 2 * 3 + 1
        objective = px.PID.paper(flow)
    else:
        student = integral_student(image_teacher(sizes, "f32"), sizes, precision)
        objective, passes = px.PID(flow), 3 + min(4, sizes.nodes)
    used, parts, batches = 0, 1, sizes.batches
    if target.dry and precision == "bf16":
        batches = batches[:1]  # these lines have been run
    for batch in batches:
        if used:  # what the smaller batch took says how many micro-batches fit
            share = used / memory_of(jax.devices()[0]) * batch / sizes.batches[0]
            parts = 1 if share < 0.85 else 2 if share < 1.7 else 4
        if target.has(f"batch {batch}"):
            continue
        profile = batch == sizes.batches[0]
        start = time.perf_counter()
        kernels: dict[str, float] = {}
        folder = tempfile.mkdtemp()

        def look(step, terms, result, profile=profile, folder=folder, kernels=kernels):
            if step == sizes.steps and profile:
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0
                options.host_tracer_level = 1
                jax.profiler.start_trace(folder, profiler_options=options)
            elif step == sizes.steps + sizes.every and profile:
                jax.profiler.stop_trace()
                kernels.update(kernel_seconds(folder))

        run = px.fit(
            student, objective, steps=sizes.steps + sizes.every,
            batch_size=batch, accumulate=parts,
            optimiser=optax.radam(1e-4), ema=(0.999,), key=jax.random.key(2),
            log_every=sizes.every, progress=False, callback=look,
        )  # fmt: skip
        whole = time.perf_counter() - start
        speeds = [float(s) for s in run.history["steps_per_second"]]
        step = float(np.median([1 / s for s in speeds[1:-1] or speeds]))
        used = peak_memory()
        target.put(
            f"batch {batch}", preset=preset, precision=precision, micro_batches=parts,
            seconds=step, images_per_second=batch / step,
            flops_of_one_evaluation=flops,
            teraflops=flops * passes * batch / step / 1e12,
            first_line_with_compiling=sizes.every / speeds[0],
            whole_call=whole, peak_memory=used, loss=float(run.history["loss"][-1]),
            parameters=count_parameters(student.network),
            kernels=kernels,
        )  # fmt: skip
        del run


def count_parameters(model: Any) -> int:
    return sum(w.size for w in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def kernel_seconds(folder: str) -> dict[str, float]:
    """Seconds on the device by the name of the kernel, the largest first."""
    total: collections.Counter[str] = collections.Counter()
    for file in glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True):
        with gzip.open(file) as opened:
            events = json.load(opened)["traceEvents"]
        names = {
            e["pid"]: e["args"]["name"]
            for e in events
            if e.get("name") == "process_name" and "args" in e
        }
        for event in events:
            where = names.get(event.get("pid"), "")
            if event.get("ph") == "X" and "/device:" in where:
                total[event["name"]] += event.get("dur", 0) / 1e6
    return dict(total.most_common(40))


def sampling(target: Target, sizes: Sizes) -> None:
    """Images a second, in bf16: one step, EDM's sampler, the default solver."""
    teacher = image_teacher(sizes, "bf16")
    process = teacher.process
    flow = px.ProbabilityFlow(teacher, process)
    student = px.Student.from_teacher(teacher, process)
    count = sizes.sampled
    shape = (sizes.resolution, sizes.resolution, 3)
    z = process.prior(jax.random.key(1), (count, *shape))
    keys = jax.random.split(jax.random.key(2), count)
    once = eqx.filter_jit(lambda student, z: jax.vmap(student.sample)(z))
    churn = lambda flow: lambda z, key: px.sample_with_churn(flow, z, key=key)
    heun = eqx.filter_jit(lambda flow, z, keys: jax.vmap(churn(flow))(z, keys))
    solve = eqx.filter_jit(lambda flow, z: px.solve_batch(flow, z))
    calls: dict[str, Any] = {
        "one step": (lambda: once(student, z), 1),
        "EDM's sampler, 18 steps": (lambda: heun(flow, z, keys), 35),
        "adaptive solver": (lambda: solve(flow, z).end, None),
    }
    for name, (call, evaluations) in calls.items():
        if target.has(name):
            continue
        start = time.perf_counter()
        jax.block_until_ready(call())
        compiling = time.perf_counter() - start
        took = seconds(call, 3)
        if evaluations is None:
            evaluations = int(np.max(solve(flow, z).stats["evaluations"]))
        target.put(
            name, batch=count, evaluations=evaluations, seconds=took,
            images_per_second=count / took, first_call=compiling,
        )  # fmt: skip


# --- precision, devices --------------------------------------------------------------


def precision(target: Target, sizes: Sizes) -> None:
    """What the precision of matrix products does, against float64 on this device."""
    process = px.EDM()
    z64 = np.asarray(process.prior(jax.random.key(1), (sizes.draws, 64)), np.float64)
    results: dict[str, Any] = {}
    rows = {
        name: f"solve of a mixture in 64 dimensions, {name}"
        for name in ("float64", *sizes.precisions[::-1])
    }
    for name in rows if not all(map(target.has, rows.values())) else ():
        with jax.enable_x64(name == "float64"):
            dtype = np.float64 if name == "float64" else np.float32
            flow = px.ProbabilityFlow(_cast(mixture(), dtype), process)
            z = jnp.asarray(z64, dtype)
            solve = eqx.filter_jit(
                lambda flow, z: px.solve_batch(flow, z, steps=12).end
            )
            with jax.default_matmul_precision("highest" if name == "float64" else name):
                results[name] = np.asarray(solve(flow, z), np.float64)
                took = seconds(functools.partial(solve, flow, z), 5)
            error = results[name] - results["float64"]
            if target.has(rows[name]):
                continue
            target.put(
                rows[name], seconds=took,
                samples_per_second=len(z) / took, rms=float(np.sqrt((error**2).mean())),
                worst=float(np.abs(error).max()),
            )  # fmt: skip
    equation = pde.Darcy.lognormal(pde.Grid((sizes.grid, sizes.grid)))
    with jax.enable_x64(True):
        fields = pde.draw(equation, 64, key=jax.random.key(0))
    for name in rows:
        if target.has(f"Darcy, {name}"):
            continue
        with jax.enable_x64(name == "float64"):
            dtype = np.float64 if name == "float64" else np.float32
            some = _cast(fields, dtype)
            with jax.default_matmul_precision("highest" if name == "float64" else name):
                judge = eqx.filter_jit(
                    lambda equation, f: jax.vmap(equation.relative_residual)(f)
                )
                found = np.asarray(judge(equation, some), np.float64)
                given = some[: len(equation.given)]
                solve = eqx.filter_jit(
                    lambda equation, *g: jax.vmap(equation.solve)(*g)
                )
                made = solve(equation, *given)
                took = seconds(functools.partial(solve, equation, *given), 3)
            exact = np.asarray(fields.solution, np.float64)
            target.put(
                f"Darcy, {name}", median_relative_residual=float(np.median(found)),
                solutions_per_second=64 / took,
                solve_relative_error=relative(np.asarray(made.solution), exact),
            )  # fmt: skip


def _cast(tree: Any, dtype: Any) -> Any:
    floating = lambda a: eqx.is_array(a) and jnp.issubdtype(a.dtype, jnp.floating)
    return jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a), dtype) if floating(a) else a, tree
    )


def pmap(target: Target, sizes: Sizes) -> None:
    """The same step by `eqx.filter_pmap` over every device, and by `eqx.filter_jit`."""
    process = px.EDM()
    flow = px.ProbabilityFlow(mixture(), process)
    row = "a step of PID in 64 dimensions"
    if target.has(row):
        return
    network = px.nn.ResidualMLP(
        64, 64, width=sizes.width, depth=sizes.depth, key=jax.random.key(0)
    )
    student = px.Student(network, process)
    objective, devices = px.PID(flow), jax.local_device_count()
    state = objective.init(student, key=jax.random.key(0))
    optimiser = optax.adam(1e-3)
    weights, rest = eqx.partition(student, eqx.is_inexact_array)
    opt = optimiser.init(weights)
    batch = sizes.draws

    def step(weights, opt, keys, axis=None):
        def mean(weights):
            model = eqx.combine(weights, rest)
            one = lambda k: objective.loss(model, state, None, jnp.zeros(()), key=k)[0]
            return jax.vmap(one)(keys).mean()

        loss, gradient = jax.value_and_grad(mean)(weights)
        if axis is not None:
            loss, gradient = jax.lax.pmean((loss, gradient), axis)
        updates, opt = optimiser.update(gradient, opt, weights)
        return optax.apply_updates(weights, updates), opt, loss

    keys = jax.random.split(jax.random.key(1), batch)
    single = eqx.filter_jit(step)
    mapped = eqx.filter_pmap(
        lambda weights, opt, keys: step(weights, opt, keys, "data"),
        in_axes=(None, None, 0), out_axes=None, axis_name="data",
    )  # fmt: skip
    split = keys.reshape(devices, -1)
    expected, _, loss = single(weights, opt, keys)
    found, _, mean = mapped(weights, opt, split)
    worst = max(
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    )
    one = lambda: single(weights, opt, keys)
    other = lambda: mapped(weights, opt, split)
    first, second, ratio = bench.paired_ratio(one, other, 10)
    target.put(
        row, devices=devices, batch=batch,
        jit_seconds=float(np.median(first)), pmap_seconds=float(np.median(second)),
        pmap_over_jit=ratio, weights_differ_by=worst, loss=float(loss),
        loss_differs_by=float(jnp.abs(loss - mean)),
    )  # fmt: skip


# --- fields --------------------------------------------------------------------------


def darcy_data(target: Target, sizes: Sizes) -> None:
    """Fields and chart of the part `darcy`, on the CPU."""
    start = time.perf_counter()
    problem = bench.suite("piddm").problems[sizes.darcy].made(quick=target.dry)
    assert len(problem.normaliser.blocks)  # fields and chart are kept
    print(f"Darcy's data: {time.perf_counter() - start:.0f} s", flush=True)


def darcy(target: Target, sizes: Sizes) -> None:
    """The main rows of docs/piddm.md on 64 x 64 points; one seed."""
    suite = bench.suite("piddm")
    problem = suite.problems[sizes.darcy].made(quick=target.dry)
    network = problem.training.network(problem.normaliser, jax.random.key(0))
    size = count_parameters(network)
    for row in (
        "data", "data through the coordinates", "Gaussian", "its given, then solve",
        "teacher", "PIDDM (a)", "PIDDM (a) + refinement, fields held", "distillation",
        "distillation + refinement, fields held",
        "Gaussian + direct optimisation, held", "PIDDM (b)",
    ):  # fmt: skip
        if target.has(row):
            continue
        start = time.perf_counter()
        found = suite.methods[row].run(problem, 0, target.dry)
        made = time.perf_counter() - start
        target.put(
            row, problem=sizes.darcy, seed=0, parameters=size, seconds_in_all=made,
            cost=found.cost, **found.metrics,
        )  # fmt: skip


PARTS: dict[str, Callable[[Target, Sizes], None]] = {
    "peaks": peaks,
    "smoke": smoke,
    "images paper bf16": functools.partial(images, preset="paper", precision="bf16"),
    "images ours bf16": functools.partial(images, preset="ours", precision="bf16"),
    "images paper f32": functools.partial(images, preset="paper", precision="f32"),
    "sampling": sampling,
    "precision": precision,
    "pmap": pmap,
    "darcy data": darcy_data,
    "darcy": darcy,
}


def main() -> None:
    names, path, dry = sys.argv[1].split(","), Path(sys.argv[2]), "--dry" in sys.argv
    if not dry and names != ["darcy data"] and jax.default_backend() != "gpu":
        print(
            f"expected a GPU, got JAX's devices {jax.devices()}. Install pidax[cuda], "
            "or use --dry, which measures nothing.",
            file=sys.stderr,
        )
        sys.exit(NO_GPU)
    failed = []
    for name in names:
        target = Target(path, name, dry)
        start = time.perf_counter()
        try:
            PARTS[name](target, DRY if dry else Sizes())
        except Exception as error:  # said in the file; the other parts still run
            traceback.print_exc()
            failed.append(name)
            target.fail(name, f"{type(error).__name__}: {error}")
        print(f"--- {name}: {time.perf_counter() - start:.0f} s", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
