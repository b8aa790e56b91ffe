"""Students smaller than their teacher: how much of the ODE fits into how little.

A network learns two moons from samples; students of its own size, of a quarter and of a
sixteenth of its parameters learn its ODE by the residual alone, as in Table 7 of Tee et
al. 2024. Prints error, distance to data and speed of each, checks them, and saves
outputs/compress.png.

    python examples/compress.py
"""

from pathlib import Path

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import optax

import pidax as px

KEY = jax.random.key(0)
STEPS, WIDTH, NODES = 600, 256, 20


def parameters(model):
    """The number of trained weights."""
    weights = eqx.filter(model, px.nn.trainable(model))
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


def train_teacher(law):
    """A denoiser learned from 50,000 samples."""
    data = jax.vmap(lambda key: law.sample(key=key))(jax.random.split(KEY, 50_000))
    process = px.EDM(sigma_data=float(data.std()))
    network = px.nn.MLP(2, 2, width=WIDTH, depth=4, key=KEY)
    result = px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=data,
        steps=STEPS,
        batch_size=1024,
        optimiser=optax.adam(px.warmup_cosine(2e-3, STEPS)),
        key=jax.random.fold_in(KEY, 1),
    )
    return px.ProbabilityFlow(result.ema(), process)


def distil(flow, pid, times, width):
    """A student with layers of this width: it predicts a clean sample at each time."""
    key = jax.random.fold_in(KEY, width)
    network = px.nn.MLP(2, 2 * NODES, width=width, depth=4, key=key)
    result = px.fit(
        px.IntegralStudent(network, flow.process, times),
        pid,
        steps=STEPS,
        batch_size=512,
        optimiser=optax.contrib.muon(px.warmup_cosine(1e-2, STEPS), adam_b2=0.99),
        key=jax.random.fold_in(KEY, 2),
    )
    return result.ema()


def main():
    law = px.GaussianMixture.two_moons()
    flow = train_teacher(law)
    more = jax.vmap(lambda key: law.sample(key=key))(jax.random.split(KEY, 2 * 4096))
    key = jax.random.fold_in(KEY, 3)
    times = px.where_it_moves(flow, NODES, key=key)
    pid = px.PID(flow, weighting=px.distill.Unweighted())  # there are few dimensions
    grid = {"grid": times, "clock": px.flow.AngleClock()}
    sets, errors = {}, []
    size = parameters(flow.denoiser)
    head = f"{'parameters':>11} {'RMS':>8} {'sliced W2':>10} {'samples/s':>11}"
    print(f"\n{'':>22} {head}")
    for width in (WIDTH, WIDTH // 2, WIDTH // 4):
        student = distil(flow, pid, times, width)
        report = px.compare(flow, student, key=key, samples=more, **grid)
        row, count = report.student, parameters(student)
        rate = report.samples_per_second("student")
        name = f"student, width {width}"
        print(
            f"{name:>22} {count:>11,} {report.endpoint_rms:>8.4f} "
            f"{row.sliced_wasserstein:>10.4f} {rate:>11,.0f}"
        )
        sets[f"{name}: {count / size:.0%}"] = row.end
        errors.append(report.endpoint_rms)
    teacher = report.adaptive
    rate = report.samples_per_second("adaptive")
    print(
        f"{'teacher':>22} {size:>11,} {'':>8} {teacher.sliced_wasserstein:>10.4f} "
        f"{rate:>11,.0f}"
    )
    px.plot.samples({"teacher": teacher.end, **sets})
    target = Path("outputs/compress.png")
    target.parent.mkdir(exist_ok=True)
    plt.savefig(target, dpi=150)
    print(f"saved {target}")
    assert errors[1] < 0.05, f"expected a quarter of the size below 0.05, got {errors}"


if __name__ == "__main__":
    main()
