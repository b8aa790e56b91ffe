"""The work that benchmarks/engine.py measures, and the loop it is measured against."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pidax as px

SEEDS = [0]
DECAY = 0.999


@dataclasses.dataclass
class Work:
    """One thing to train."""

    model: px.Preconditioned
    objective: px.DenoisingScoreMatching
    data: Any
    batch_size: int
    steps: int
    rate: float = 1e-3


def planar() -> Work:
    """A 2-D MLP of the size of the PID ablations, batch 1,024."""
    process, key = px.EDM(), jax.random.key(0)
    network = px.nn.MLP(2, 2, width=256, depth=4, key=key)
    data = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    return Work(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        0.5 * data,
        1024,
        400,
    )


def images() -> Work:
    """A small U-Net on 8x8 images, batch 64."""
    process, key = px.EDM(), jax.random.key(0)
    network = px.nn.UNet(1, 1, width=32, key=key)
    data = np.random.default_rng(0).normal(size=(2_000, 8, 8, 1)).astype(np.float32)
    return Work(
        px.Preconditioned(network, process, shape=(8, 8, 1)),
        px.DenoisingScoreMatching(process),
        0.5 * data,
        64,
        100,
    )


CASES = {"2-D MLP": planar, "U-Net 8x8": images}


def parameters(model: Any) -> int:
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return sum(leaf.size for leaf in leaves)


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


def fit_rate(work: Work, **options: Any) -> tuple[float, float]:
    """Steps per second of `fit` once compiled, and the seconds that this took."""
    start = time.perf_counter()
    history = fit(work, steps=2 * work.steps, log_every=work.steps, **options).history
    total = time.perf_counter() - start
    rate = float(history["steps_per_second"][1])
    return rate, total - 2 * work.steps / rate


def step_memory(work: Work) -> dict[str, Any]:
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
    return {
        "model_bytes": model,
        "arguments": arguments,
        "temporary": account.temp_size_in_bytes,
        "outputs": account.output_size_in_bytes,
        "aliased": account.alias_size_in_bytes,
        "peak": peak,
        "peak_over_model": peak / model,
        "state_over_model": sum(
            leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array))
        )
        / model,
        "batch_size": work.batch_size,
    }


# --- several devices and processes ---------------------------------------------------


def parallel_row(devices: int, processes: int) -> dict[str, Any]:
    """Milliseconds a step in processes of their own: median of the lines but one."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    started = []
    for rank in range(processes):
        place = {"rank": rank, "processes": processes, "port": port}
        environment = {
            **os.environ,
            "XLA_FLAGS": flags,
            "PIDAX_WORKER": json.dumps(place),
        }
        command = [sys.executable, sys.argv[0]]
        started.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    outputs = [process.communicate()[0] for process in started]
    rows = json.loads(outputs[0].strip().splitlines()[-1])
    return {"rows": rows, "failures": sum(bool(p.returncode) for p in started)}


def worker() -> None:
    """One process of `parallel_row`."""
    place = json.loads(os.environ["PIDAX_WORKER"])
    if place["processes"] > 1:
        jax.distributed.initialize(
            f"localhost:{place['port']}", place["processes"], place["rank"]
        )
    rows = []
    for case, make in CASES.items():
        work = make()
        history = fit(work, steps=6 * work.steps, log_every=work.steps).history
        times = 1e3 / history["steps_per_second"][1:]
        rows.append(
            {
                "case": case,
                "ms_per_step": float(np.median(times)),
                "range": [float(times.min()), float(times.max())],
                "last_loss": float(history["loss"][-1]),
            }
        )
    print(json.dumps(rows))


# --- quality -------------------------------------------------------------------------


def two_moons() -> dict[str, Any]:
    """The teacher of examples/train_teacher.py, ten draws of 4,096 samples."""
    law = px.GaussianMixture.two_moons()
    draw = eqx.filter_jit(jax.vmap(lambda key: law.sample(key=key)))
    rows, count = [], 4_096
    for seed in SEEDS:
        key = jax.random.key(seed)
        keys = lambda i, n, key=key: jax.random.split(jax.random.fold_in(key, i), n)
        data = np.asarray(draw(keys(0, 50_000)))
        process = px.EDM(sigma_data=float(data.std()))
        network = px.nn.MLP(2, 2, width=128, depth=4, key=key)
        steps, start = 6_000, time.perf_counter()
        result = px.fit(
            px.Preconditioned(network, process),
            px.DenoisingScoreMatching(process),
            data=data,
            steps=steps,
            batch_size=512,
            optimiser=optax.radam(px.warmup_cosine(2e-3, steps)),
            ema=(0.999,),
            key=key,
            log_every=500,
        )
        seconds = time.perf_counter() - start
        flow = px.ProbabilityFlow(result.ema(), process)
        exact = px.ProbabilityFlow(law, process)
        far, floor, solved = [], [], []
        for i in range(10):
            held_out, more = draw(keys(1 + 2 * i, count)), draw(keys(2 + 2 * i, count))
            ours = px.sample(flow, count, key=jax.random.key(1000 + i))
            best = px.sample(exact, count, key=jax.random.key(1000 + i))
            far_from = lambda x, y=held_out, i=i: float(
                px.metrics.sliced_wasserstein(x, y, key=jax.random.key(i))
            )
            far.append(far_from(ours))
            floor.append(far_from(more))
            solved.append(far_from(best))
        rows.append(
            {
                "seed": seed,
                "training_seconds": seconds,
                "teacher": far,
                "held_out_again": floor,
                "exact_denoiser": solved,
                "ratio_of_means": float(np.mean(far) / np.mean(floor)),
            }
        )
        print(rows[-1])
    return {"count": count, "draws": 10, "rows": rows}
