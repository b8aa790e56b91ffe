"""One sample of every equation: what is given, and what its own solver makes of it.

Run it with `python examples/pde_gallery.py`.
"""

from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import pidax as px
from pidax.pde import Grid, Periodic

SQUARE = Grid((48, 48))
TORUS = Grid((48, 48), boundary=Periodic())
EQUATIONS = {
    "Poisson": px.pde.Poisson(SQUARE),
    "Helmholtz": px.pde.Helmholtz(SQUARE),
    "Darcy, two phases": px.pde.Darcy(SQUARE),
    "Darcy, lognormal": px.pde.Darcy.lognormal(SQUARE),
    "heat": px.pde.Heat(),
    "Burgers": px.pde.Burgers(rows=64),
    "Burgers, inviscid": px.pde.InviscidBurgers(),
    "Navier-Stokes, vorticity": px.pde.NavierStokes(TORUS, rows=2),
}


def main():
    figure = plt.figure(figsize=(13, 11.5), layout="constrained")
    parts: Any = figure.subfigures(4, 2, hspace=0.04)
    keys = jax.random.split(jax.random.key(3), len(EQUATIONS))
    worst = {}
    for part, key, (name, equation) in tqdm(
        zip(parts.flat, keys, EQUATIONS.items(), strict=True), total=len(EQUATIONS)
    ):
        with jax.enable_x64(True):  # so that the residual is not float32's
            fields = equation.sample(key=key)
            worst[name] = float(equation.relative_residual(fields))
        fields = jax.tree.map(np.asarray, fields)
        px.plot.fields(equation, fields, axes=list(part.subplots(1, 2)))
        part.suptitle(f"{name}: relative residual {worst[name]:.1g}", size=10)
    target = Path("outputs/pde_gallery.png")
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=120)
    print(f"saved {target}")
    for name, residual in worst.items():
        assert residual < 1e-9, f"expected {name} to be solved, got residual {residual}"


if __name__ == "__main__":
    main()
