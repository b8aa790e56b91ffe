"""The typed API in physics code that trains nothing: an imaging problem in 1-D.

A temperature profile on a rod is a Gaussian field with a known covariance. Its score
comes from the physicist's own function, written without knowledge of diffusion models;
pidax wraps it, draws fields by its probability flow, and evaluates their density.
Then the same prior is conditioned on three noisy thermometers: the exact posterior is
again a denoiser, and its flow draws the fields that agree with the readings.

    python examples/typed_physics.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import matplotlib.pyplot as plt
from jaxtyping import Array, Float
from tqdm import tqdm

import pidax as px

POINTS = 24
Profile = Float[Array, f"{POINTS}"]  # temperatures along the rod, in units of 100 K


def covariance(position: Float[Array, " x"]) -> Float[Array, "x x"]:
    """Squared-exponential, correlation length a fifth of the rod, std 0.5."""
    distance = position[:, None] - position[None, :]
    smooth = 0.25 * jnp.exp(-0.5 * (distance / 0.2) ** 2)
    return smooth + 1e-3 * jnp.eye(position.size)


def main():
    position = jnp.linspace(0.0, 1.0, POINTS)
    cov = covariance(position)
    mean: Profile = 0.3 * jnp.sin(jnp.pi * position)

    def my_score(x: Profile, t: Float[Array, ""]) -> Profile:
        """The score of N(mean, cov) after Brownian noise of standard deviation t."""
        return -jnp.linalg.solve(cov + t**2 * jnp.eye(POINTS), x - mean)

    process = px.EDM(sigma_data=0.5)
    denoiser = px.from_score(my_score, process, shape=(POINTS,))
    flow = px.ProbabilityFlow(denoiser, process)
    fields = px.sample(flow, 200, key=jax.random.key(0))

    exact = px.Gaussian(mean, cov)
    values = []
    for x in tqdm(fields[:20], desc="densities"):
        value = px.log_density(flow, x, terminal=exact.log_density).value
        values.append(value - exact.log_density(x, process.t_min))
    worst = float(jnp.abs(jnp.stack(values)).max())
    print(f"\nlog-densities of 20 fields: within {worst:.1e} nats of the exact ones")

    where = jnp.array([4, 11, 20])
    thermometers = jnp.eye(POINTS)[where]
    readings, noise = jnp.array([0.9, -0.2, 0.4]), 0.05
    posterior = exact.posterior(thermometers, readings, noise)
    conditional = px.ProbabilityFlow(posterior, process)
    draws = px.sample(conditional, 200, key=jax.random.key(1))
    miss = jnp.sqrt(jnp.mean((draws[:, where] - readings) ** 2))
    spread = draws.std(axis=0)[where].mean()
    print(f"posterior fields miss the readings by {miss:.3f} RMS (noise {noise})")

    try:  # fields on two grids are not compared: the error names the axis and sizes
        px.metrics.rms_error(fields, draws[:, ::2])
    except jaxtyping.TypeCheckError as error:
        print("\n" + "\n".join(f"  | {line}" for line in str(error).splitlines()[:4]))

    figure, axes = plt.subplots(
        1, 2, figsize=(9, 3.4), sharey=True, layout="constrained"
    )
    for ax, samples, title in (
        (axes[0], fields, "drawn by the flow of my_score"),
        (axes[1], draws, "drawn by the flow of the posterior"),
    ):
        ax.plot(position, samples[:40].T, color=px.plot.COLOURS[0], alpha=0.25, lw=0.8)
        ax.plot(position, samples.mean(axis=0), color="k", lw=1.5, label="mean of 200")
        ax.set(title=title, xlabel="position along the rod")
    axes[1].plot(
        position[where], readings, "o", color=px.plot.COLOURS[1], label="readings"
    )
    axes[0].set_ylabel("temperature [100 K]")
    axes[1].legend(frameon=False)
    target = Path("outputs/typed_physics.png")
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=150)
    print(f"saved {target}")

    assert worst < 0.05, f"expected densities within 0.05 nats, got {worst}"
    assert spread < 2 * noise, (
        f"expected the readings to bind, got a spread of {spread}"
    )


if __name__ == "__main__":
    main()
