"""The training engine: its speed beside a bare loop, and what it costs to be safe.

`speed` compares `fit` with a hand-written jitted loop on the same model, loss,
optimiser and average in the same run, in turns. `parallel` runs in processes of its
own. Let nothing else run.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pidax as px

from .. import bench

DECAY = 0.999
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """One thing to train: a network, the shape of a sample, and for how long."""

    kind: str  # MLP or U-Net
    shape: tuple[int, ...]
    count: int  # of samples
    width: int
    batch_size: int
    steps: int
    rounds: int = 7
    rate: float = 1e-3

    @property
    def model(self):
        process, key = px.EDM(), jax.random.key(0)
        if self.kind == "MLP":
            network = px.nn.MLP(2, 2, width=self.width, depth=4, key=key)
            return px.Preconditioned(network, process)
        network = px.nn.UNet(1, 1, width=self.width, key=key)
        return px.Preconditioned(network, process, shape=self.shape)

    @property
    def objective(self):
        return px.DenoisingScoreMatching(px.EDM())

    @property
    def data(self):
        data = np.random.default_rng(0).normal(size=(self.count, *self.shape))
        return 0.5 * data.astype(np.float32)


WORKS = {
    "mlp2": Work("MLP", (2,), 20_000, 256, batch_size=1024, steps=400),
    "unet8": Work("U-Net", (8, 8, 1), 2_000, 32, batch_size=64, steps=100),
}
LABELS = {"mlp2": "2-D MLP", "unet8": "U-Net 8x8"}


def smaller(work: Work, quick: bool) -> Work:
    if not quick:
        return work
    return dataclasses.replace(
        work, count=64, width=8, batch_size=16, steps=4, rounds=1
    )


@bench.problem("train", label=LABELS["mlp2"], kind="work")
def mlp2(quick):
    """A 2-D MLP of the size of the PID ablations, batch 1,024."""
    return smaller(WORKS["mlp2"], quick)


@bench.problem("train", label=LABELS["unet8"], kind="work", quick=False)
def unet8(quick):
    """A small U-Net on 8x8 images, batch 64."""
    return smaller(WORKS["unet8"], quick)


def parameters(model: Any) -> int:
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return sum(leaf.size for leaf in leaves)


def fit(work: Work, **options: Any) -> px.Result:
    """`fit` on this work, with the bare loop's optimiser and average."""
    options = (
        dict(
            data=work.data,
            steps=work.steps,
            batch_size=work.batch_size,
            optimiser=optax.radam(work.rate),
            ema=(DECAY,),
            ema_ramp=None,
            key=jax.random.key(0),
            progress=False,
        )
        | options
    )
    return px.fit(work.model, work.objective, **options)


# --- speed ---------------------------------------------------------------------------


@bench.method("train", on=("work",))
def speed(work: Work, seed, quick):
    """Steps per second of `fit` and of the bare loop, in turns."""
    start = time.perf_counter()
    bare = bare_loop(work)
    bare(1)
    bare_first = time.perf_counter() - start
    pairs, firsts = [], []
    for _ in range(work.rounds):
        rate, first = fit_rate(work)
        firsts.append(first)
        pairs.append((rate, bare(work.steps)))
    mine, theirs = (np.array(column) for column in zip(*pairs, strict=True))
    return bench.Outcome(
        {
            "ratio_median": float(np.median(mine / theirs)),
            "ratio_range": [
                float((mine / theirs).min()),
                float((mine / theirs).max()),
            ],
            "fit_steps_per_second": sorted(map(float, mine)),
            "bare_steps_per_second": sorted(map(float, theirs)),
            "seconds_to_first_step": float(np.median(firsts)),
            "bare_seconds_to_first_step": bare_first,
            "parameters": parameters(work.model),
            "batch_size": work.batch_size,
        }
    )


def bare_loop(work: Work):
    """What one writes by hand: noise for the whole batch, one jitted step, no checks.

    EDM's loss (Karras et al. 2022), RAdam, one average of the weights, donated buffers;
    batches gathered on the device from data that lie there.
    """
    process, data = work.objective.process, jnp.asarray(work.data)
    weights, static = eqx.partition(work.model, eqx.is_inexact_array)
    weights = jax.tree.map(jnp.copy, weights)
    optimiser, sd = optax.radam(work.rate), process.sigma_data

    def loss(weights, x0, key):
        model = eqx.combine(weights, static)
        first, second = jax.random.split(key)
        count = x0.shape[0]
        sigma = sd * jnp.exp(
            -1.2 - np.log(0.5) + 1.2 * jax.random.normal(first, (count,))
        )
        sigma = jnp.clip(sigma, process.t_min, process.t_max)
        wide = sigma.reshape(-1, *(1 for _ in x0.shape[1:]))
        x = x0 + wide * jax.random.normal(second, x0.shape)
        error = jax.vmap(model)(x, sigma) - x0
        weight = (wide**2 + sd**2) / (wide * sd) ** 2
        return jnp.mean(weight * error**2)

    @partial(jax.jit, donate_argnums=0)
    def step(state, key):
        weights, moments, average = state
        first, second = jax.random.split(key)
        rows = jax.random.randint(first, (work.batch_size,), 0, len(data))
        value, slope = jax.value_and_grad(loss)(weights, data[rows], second)
        updates, moments = optimiser.update(slope, moments, weights)
        weights = optax.apply_updates(weights, updates)
        average = optax.incremental_update(weights, average, 1 - DECAY)
        return (weights, moments, average), value

    average = jax.tree.map(jnp.copy, weights)
    state = [(weights, optimiser.init(weights), average)]
    keys = list(jax.random.split(jax.random.key(1), 1000))

    def run(steps: int) -> float:
        """Steps per second."""
        start = time.perf_counter()
        for i in range(steps):
            state[0], _ = step(state[0], keys[i])
        jax.block_until_ready(state[0])
        return steps / (time.perf_counter() - start)

    return run


def fit_rate(work: Work, **options: Any) -> tuple[float, float]:
    """Steps per second of `fit` once compiled, and the seconds that this took."""
    start = time.perf_counter()
    history = fit(work, steps=2 * work.steps, log_every=work.steps, **options).history
    total = time.perf_counter() - start
    rate = float(history["steps_per_second"][1])
    return rate, total - 2 * work.steps / rate


# --- checkpoints and memory ----------------------------------------------------------


@bench.method("train", on=("work",))
def checkpoint(work: Work, seed, quick):
    """Milliseconds and bytes of one checkpoint, written and read."""
    from pidax.train._checkpoint import Checkpoints

    result = fit(work, steps=1)
    with tempfile.TemporaryDirectory() as folder:
        kept = Checkpoints(Path(folder), {}, 3, result.decays)
        kept.prepare()
        kept.release()
        writes, reads = [], []
        for step in range(2 if quick else 20):
            start = time.perf_counter()
            kept.write(result.state, step, None)
            writes.append(time.perf_counter() - start)
            start = time.perf_counter()
            kept.read_last(result.state)
            reads.append(time.perf_counter() - start)
        size = max(path.stat().st_size for path in kept.files().values())
    return bench.Outcome(
        {
            "write_ms": 1e3 * float(np.median(writes)),
            "read_ms": 1e3 * float(np.median(reads)),
            "bytes": size,
            "model_bytes": 4 * parameters(work.model),
            "averages": len(result.decays),
        }
    )


@bench.method("train", on=("work",))
def memory(work: Work, seed, quick):
    """What XLA says that a step of `fit` needs, in bytes, beside the model's own.

    `arguments` is the state (weights, moments, average), the data of a dispatch, and
    the teacher; donated, so that the outputs need none of their own (`aliased`).
    """
    from pidax.train._state import Numbers
    from pidax.train._step import Recipe, dispatch, sample_loss

    whole = work.model, work.objective, ()
    static = eqx.filter(whole, eqx.is_array, inverse=True)
    recipe = Recipe(
        model=static[0],
        state=(),
        objective=static[1],
        trainable=px.nn.trainable(work.model),
        optimiser=optax.radam(work.rate),
        loss=sample_loss(*static),
        batch_size=work.batch_size,
        accumulate=1,
        per_dispatch=1,
        unroll=False,
    )
    numbers = Numbers.of(work.steps, None, (DECAY,), None)
    state = fit(work, steps=1).state
    samples = jnp.asarray(work.data[: work.batch_size])[None]
    first, one, no = jnp.array(0), jnp.array(1), jnp.array(False)
    step: Any = eqx.filter_jit(dispatch(recipe, 1, None), donate="all")
    lowered = step.lower(state, work.objective, numbers, samples, first, one, no)
    account: Any = lowered.compile().compiled.memory_analysis()
    model = 4 * parameters(work.model)
    arguments = account.argument_size_in_bytes
    peak = arguments + account.temp_size_in_bytes + account.output_size_in_bytes
    peak -= account.alias_size_in_bytes
    own = sum(a.nbytes for a in jax.tree.leaves(eqx.filter(state, eqx.is_array)))
    return bench.Outcome(
        {
            "peak_over_model": peak / model,
            "state_over_model": own / model,
            "model_bytes": model,
            "arguments": arguments,
            "temporary": account.temp_size_in_bytes,
            "outputs": account.output_size_in_bytes,
            "aliased": account.alias_size_in_bytes,
            "peak": peak,
            "batch_size": work.batch_size,
        }
    )


# --- several devices and processes ---------------------------------------------------

PLACES = (("1 device", 1, 1), ("2 fake devices", 2, 1), ("2 processes", 1, 2))


@bench.method("train", on=("work",))
def parallel(work: Work, seed, quick):
    """Milliseconds a step: one device, two fake ones, two processes; equal work."""
    rows = [
        {"where": name, **in_processes(work, devices, processes)}
        for name, devices, processes in PLACES[2 if quick else 0 :]
    ]
    return bench.Outcome({"failures": sum(r["failures"] for r in rows), "rows": rows})


def in_processes(work: Work, devices: int, processes: int) -> dict[str, Any]:
    """Milliseconds a step in processes of their own: median of the lines but one."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    started = []
    for rank in range(processes):
        place = {"rank": rank, "processes": processes, "port": port}
        place["work"] = dataclasses.asdict(work)
        command = [sys.executable, "-m", "benchmarks.train.engine", json.dumps(place)]
        environment = {**os.environ, "XLA_FLAGS": flags}
        started.append(
            subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
        )
    outputs = [process.communicate()[0] for process in started]
    row = json.loads(outputs[0].strip().splitlines()[-1])
    return {**row, "failures": sum(bool(p.returncode) for p in started)}


def worker(place: dict[str, Any]) -> None:
    """One process of `in_processes`."""
    if place["processes"] > 1:
        jax.distributed.initialize(
            f"localhost:{place['port']}", place["processes"], place["rank"]
        )
    options = place["work"]
    work = Work(**{**options, "shape": tuple(options["shape"])})
    history = fit(work, steps=6 * work.steps, log_every=work.steps).history
    times = 1e3 / history["steps_per_second"][1:]
    row = {
        "ms_per_step": float(np.median(times)),
        "range": [float(times.min()), float(times.max())],
        "last_loss": float(history["loss"][-1]),
    }
    print(json.dumps(row))


# --- quality -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Moons:
    """Two moons, the teacher of examples/train_teacher.py, and how it is judged."""

    width: int = 128
    steps: int = 6_000
    batch_size: int = 512
    rate: float = 2e-3
    train: int = 50_000
    count: int = 4_096
    draws: int = 10


@bench.problem("train", label="two moons", kind="moons", quick=False)
def moons(quick):
    if quick:
        return Moons(16, 10, 32, train=128, count=64, draws=1)
    return Moons()


@bench.method("train", on=("moons",))
def quality(problem: Moons, seed, quick):
    """Sliced W2 of a learned teacher to held-out data, and its floor."""
    law = px.GaussianMixture.two_moons()
    draw = eqx.filter_jit(jax.vmap(lambda key: law.sample(key=key)))
    count, key = problem.count, jax.random.key(seed)
    keys = lambda i, n: jax.random.split(jax.random.fold_in(key, i), n)
    data = np.asarray(draw(keys(0, problem.train)))
    process = px.EDM(sigma_data=float(data.std()))
    network = px.nn.MLP(2, 2, width=problem.width, depth=4, key=key)
    start = time.perf_counter()
    result = px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=data,
        steps=problem.steps,
        batch_size=problem.batch_size,
        optimiser=optax.radam(px.warmup_cosine(problem.rate, problem.steps)),
        ema=(0.999,),
        key=key,
        log_every=max(problem.steps // 12, 1),
        progress=False,
    )
    seconds = time.perf_counter() - start
    flow = px.ProbabilityFlow(result.ema(), process)
    exact = px.ProbabilityFlow(law, process)
    far, floor, solved = [], [], []
    for i in range(problem.draws):
        held_out, more = draw(keys(1 + 2 * i, count)), draw(keys(2 + 2 * i, count))
        ours = px.sample(flow, count, key=jax.random.key(1000 + i))
        best = px.sample(exact, count, key=jax.random.key(1000 + i))
        far_from = lambda x, y=held_out, i=i: float(
            px.metrics.sliced_wasserstein(x, y, key=jax.random.key(i))
        )
        far.append(far_from(ours))
        floor.append(far_from(more))
        solved.append(far_from(best))
    return bench.Outcome(
        {
            "ratio_of_means": float(np.mean(far) / np.mean(floor)),
            "teacher": far,
            "held_out_again": floor,
            "exact_denoiser": solved,
            "count": count,
            "draws": problem.draws,
        },
        {"seconds": seconds},
    )


if __name__ == "__main__":
    worker(json.loads(sys.argv[1]))
