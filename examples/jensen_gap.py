"""Jensen's gap, exactly: what the residual of a mean says beyond the mean residual.

E[R(x0)|x] - R(E[x0|x]) against the noise level: on a circle in closed form; for
Poisson's equation, where it is zero; for Darcy's flow under its true law, and under the
law of a finite set of samples, which says nothing where the noise is small.

    python examples/jensen_gap.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import pidax as px
from pidax.constraint import covariance_term, gap_of, jensen_gap
from pidax.denoiser import clean_posterior, latent_posterior

LEVELS = np.geomspace(0.02, 20.0, 10)  # of noise, in standard deviations of the data
DRAWS = 6  # noised samples at each level
SETS = (250, 1000, 4000)  # sizes of the finite sets

GRID = px.pde.Grid((12, 12))
MODES = px.pde.Matern(GRID, modes=12)
POISSON = px.pde.Poisson(GRID, MODES)
DARCY = px.pde.Darcy(GRID, px.pde.Lognormal(MODES))


def rms(values):
    return jnp.sqrt(jnp.mean(values**2))


def on_circle(x):
    return jnp.sum(x**2) - 1


def circle(key):
    """The mean gap over noised data: by the posterior, and by Bessel functions."""
    teacher = px.Circle()

    @jax.jit
    def run(sigma):
        x = sigma * jax.random.normal(key, (500, 2)) + jnp.array([1.0, 0.0])
        gap = jax.vmap(lambda x: jensen_gap(on_circle, teacher, x, sigma).gap)(x)
        kappa = jnp.linalg.norm(x, axis=1) / sigma**2
        ratio = jax.scipy.special.i1e(kappa) / jax.scipy.special.i0e(kappa)
        return gap.mean(), (1 - ratio**2).mean()

    return np.array([run(sigma) for sigma in LEVELS]).T


def poisson(key):
    """The size of the gap relative to the source, under the exact Gaussian law."""
    law = POISSON.law()
    size = jnp.sqrt(jnp.mean(jnp.sum(law.factor**2, -1), (0, 1)))  # of each channel
    chart = px.pde.Normaliser([0.0, 0.0], size.tolist())
    spread = px.denoiser.Covariance.low_rank(law.factor / size[:, None])
    teacher = px.Gaussian(chart.normalise(law.mean), spread)
    residual = px.Residual(POISSON, chart)

    @jax.jit
    def run(sigma):
        first, second, third = jax.random.split(key, 3)
        x = teacher.sample(key=first)
        x = x + sigma * jax.random.normal(second, x.shape)
        gap = jensen_gap(residual, teacher, x, sigma, key=third, samples=256).gap
        return rms(gap) / size[0]

    return np.array([run(sigma) for sigma in LEVELS])


def solution(latent):
    a = jnp.exp(MODES.mean() + MODES.factor() @ latent)
    return DARCY.stack(DARCY.solve(a))


def darcy(key):
    """The same for Darcy: by the true law, by its covariance, by finite sets."""
    size = MODES.factor().shape[-1]
    first, *keys = jax.random.split(key, DRAWS + 1)
    make_many = jax.jit(jax.vmap(solution))
    data = make_many(jax.random.normal(first, (max(SETS), size)))
    chart = px.pde.Normaliser.fit(data)
    residual = px.Residual(DARCY, chart)
    scale = residual.scale_of(data[0])
    sets = [
        px.GaussianMixture.from_samples(chart.normalise(data[:n]), 0.0) for n in SETS
    ]

    def one(sigma, key):
        first, second, third = jax.random.split(key, 3)
        make = lambda latent: chart.normalise(solution(latent))
        x = make(jax.random.normal(first, (size,)))
        x = x + sigma * jax.random.normal(second, x.shape)
        true = latent_posterior(make, size, x, sigma, key=third, samples=256)
        laws = [true, *(clean_posterior(points, x, sigma) for points in sets)]
        found = [gap_of(residual, law) for law in laws]
        off = rms(covariance_term(residual, true) - found[0].gap)
        sizes = jnp.stack([rms(each.gap) / scale for each in found])
        return sizes, jnp.stack([each.effective for each in found]), off / scale

    run = jax.jit(lambda sigma: jax.lax.map(lambda k: one(sigma, k), jnp.stack(keys)))
    rows = [run(sigma) for sigma in tqdm(LEVELS, desc="Darcy")]
    sizes = np.array([rms_over(row[0]) for row in rows]).T
    effective = np.array([np.median(row[1], axis=0) for row in rows]).T
    return sizes, effective, max(float(row[2].max()) for row in rows)


def two_materials(key):
    """The same for a coefficient of 12 or 3, by a finite set: NaN where it is small."""
    first, second = jax.random.split(key)
    equation = px.pde.Darcy(GRID, mean="arithmetic")
    sample = lambda key: equation.stack(equation.solve(*equation.draw(key=key)))
    data = jax.jit(jax.vmap(sample))(jax.random.split(first, max(SETS)))
    chart = px.pde.Normaliser.fit(data)
    held, kept = jnp.split(chart.normalise(data), [DRAWS])
    points = px.GaussianMixture.from_samples(kept, 0.0)
    residual = px.Residual(equation, chart)
    noise = jax.random.normal(second, held.shape)

    @jax.jit
    def run(sigma):
        laws = jax.vmap(lambda x: clean_posterior(points, x, sigma))
        law = laws(held + sigma * noise)
        cost = jax.vmap(lambda law: residual.cost(law.mean))(law)  # E[R] is zero
        effective = jax.vmap(lambda law: law.effective)(law)
        return jnp.where(jnp.median(effective) < 10, jnp.nan, jnp.sqrt(cost.mean()))

    return np.array([run(sigma) for sigma in LEVELS])


def rms_over(draws):
    return np.sqrt(np.mean(np.square(draws), axis=0))


def draw(on, closed, zero, jumps, sizes, effective, target):
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    blue, red, green = px.plot.COLOURS[:3]
    axes[0].loglog(LEVELS, closed, color=blue, label=r"$1 - (I_1/I_0)^2$")
    axes[0].loglog(LEVELS, on, "o", color=red, label="weighted samples of $x_0$")
    axes[0].set(title="circle, $R = |x|^2 - 1$", ylabel="mean gap")
    axes[1].loglog(LEVELS, sizes[0], "-o", color=blue, label="Darcy, smooth")
    axes[1].loglog(LEVELS, jumps, "-^", color=red, label="Darcy, two materials")
    axes[1].loglog(LEVELS, np.maximum(zero, 1e-17), "-s", color=green, label="Poisson")
    axes[1].set(title="fields", ylabel="gap / source (root mean square)")
    axes[2].loglog(LEVELS, sizes[0], color=blue, label="true law")
    for i, count in enumerate(SETS, start=1):
        colour, few = px.plot.COLOURS[i], effective[i] < 10
        label = f"{count} samples"
        axes[2].loglog(LEVELS, sizes[i], ":", color=colour, lw=1)
        axes[2].loglog(LEVELS[~few], sizes[i][~few], "o", color=colour, label=label)
        axes[2].loglog(LEVELS[few], sizes[i][few], "o", color=colour, mfc="white")
    axes[2].set(title="Darcy: a finite set as the law", ylim=(sizes[0].min() / 3, 0.3))
    axes[2].plot([], [], "o", color="grey", mfc="white", label="worth < 10 samples")
    for ax, place in zip(axes, ("lower", "center", "lower"), strict=True):
        ax.set_xlabel(r"noise $\sigma/\alpha$, in standard deviations of the data")
        ax.legend(frameon=False, loc=f"{place} right")
    axes[0].set_xlabel(r"noise $\sigma/\alpha$, in radii")
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=150)
    print(f"saved {target}")


def main():
    with jax.enable_x64(True):
        on, closed = circle(jax.random.key(0))
        zero = poisson(jax.random.key(1))
        sizes, effective, off = darcy(jax.random.key(2))
        jumps = two_materials(jax.random.key(3))
    print(
        "noise   circle  Poisson  Darcy    worth  jumps | " + "  ".join(map(str, SETS))
    )
    for i, sigma in enumerate(LEVELS):
        print(
            f"{sigma:6.2f}  {on[i]:.4f}  {zero[i]:.0e}  {sizes[0, i]:.1e}"
            f"  {effective[0, i]:4.0f}  {jumps[i]:.3f} | "
            + "  ".join(
                f"{s:.1e} ({e:.0f})"
                for s, e in zip(sizes[1:, i], effective[1:, i], strict=True)
            )
        )
    draw(on, closed, zero, jumps, sizes, effective, Path("outputs/jensen_gap.png"))

    worst = np.abs(on - closed).max()
    assert worst < 1e-9, f"expected the closed form on the circle, missed by {worst}"
    assert zero.max() < 1e-9, f"expected no gap for Poisson, got {zero.max()}"
    assert off < 1e-9, f"expected Darcy's gap to be a covariance, missed by {off}"
    assert effective[0].min() > 100, f"expected 256 samples to count, {effective[0]}"
    print(f"Darcy's gap is half the second difference of the residual within {off:.0e}")


if __name__ == "__main__":
    main()
