r"""An equation of your own: Allen-Cahn, from its terms to a dataset and a report.

    u_t = ε² Δu + u - u³        two phases, u = -1 and u = 1, and walls of width ε

on a square with insulated walls. The solver splits each step (Strang): half a step of
the reaction in closed form, a step of diffusion by cosines, half a step of reaction.

    python examples/own_equation.py
"""

from pathlib import Path
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import pidax as px
from pidax.pde import Grid, Laplacian, Matern, Neumann, Transform


class AllenCahn(px.pde.AbstractEvolution):
    """u_t = ε² Δu + u - u³ in rows of time, from a random field."""

    grid: Grid
    width: float = 0.04
    end: float = eqx.field(static=True, default=6.0)
    rows: int = eqx.field(static=True, default=7)
    substeps: int = eqx.field(static=True, default=8)
    kind: ClassVar = "nonlinear"

    def draw(self, *, key):
        return (Matern(self.grid, alpha=3.0, tau=5.0).sample(key=key),)

    def terms(self, u):
        return self.width**2 * Laplacian(self.grid)(u), u - u**3

    def advance(self, u):
        step, cosines = self.interval / self.substeps, Transform(self.grid)
        decay = np.exp(step * self.width**2 * cosines.eigenvalues)

        def react(u):  # u' = u - u³ for half a step, exactly
            return u * np.exp(step / 2) / jnp.sqrt(1 + u**2 * np.expm1(step))

        def split(_, u):
            return react(cosines.multiply(decay.astype(u.dtype), react(u)))

        return jax.lax.fori_loop(0, self.substeps, split, u)


def main():
    key = jax.random.key(0)
    equation = AllenCahn(Grid((32, 32), layout="cells", boundary=Neumann()))
    data = px.pde.generate(equation, 96, key=key, path="outputs/allen_cahn")
    print(data)

    # What a model that smooths would make of the same fields.
    true = data[:32]
    blurred = 0.5 * true + 0.125 * sum(
        np.roll(true, shift, axis) for shift in (-1, 1) for axis in (1, 2)
    )
    sets = {"true": true, "blurred": blurred}
    report = px.pde.report(equation, sets, data[32:], key=key)
    print(f"\n{report}")
    report.save("outputs/allen_cahn.json")

    px.plot.fields(equation, true[0], cmap="RdBu_r")
    target = Path("outputs/own_equation.png")
    plt.savefig(target, dpi=150)
    print(f"saved {target}")

    # The splitting is of second order in its steps.
    with jax.enable_x64(True):
        u0 = jnp.asarray(data.fields(0).initial, float)
        makers = [AllenCahn(equation.grid, substeps=n) for n in (4, 8, 16)]
        coarse, middle, fine = (maker.solve(u0).solution for maker in makers)
        ratio = jnp.abs(coarse - middle).max() / jnp.abs(middle - fine).max()
        order = float(jnp.log2(ratio))
    print(f"observed order of the splitting: {order:.2f}")
    assert abs(order - 2) < 0.2, f"expected order 2, got {order}"
    held = report["held-out data"].per_sample["residual"].max()
    assert held < 1e-5, f"expected held-out data at the rounding floor, got {held}"


if __name__ == "__main__":
    main()
