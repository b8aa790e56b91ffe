"""How far the default steps in time are from fine ones.

    python benchmarks/pde_accuracy.py     # a minute on two cores

Burgers and Navier-Stokes at their defaults, with one and two steps between rows,
against 32 times as many, float64: the largest and the root-mean-square error relative
to those of the solution. Writes benchmarks/results/pde_accuracy.json.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import record

from pidax import pde

DRAWS, FINE = 8, 64
EQUATIONS = {"Burgers": pde.Burgers, "Navier-Stokes": pde.NavierStokes}


def solutions(make, substeps, given):
    equation = make(substeps=substeps)
    solve = lambda field: equation.solve(field).solution
    return eqx.filter_jit(lambda given: jax.vmap(solve)(given))(given)


def main():
    rows = []
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), DRAWS)
        for name, make in EQUATIONS.items():
            equation = make()
            given = jax.vmap(lambda key, e=equation: e.draw(key=key)[0])(keys)
            fine = solutions(make, FINE, given)
            rms = lambda x: jnp.sqrt(jnp.mean(jnp.square(x)))
            for substeps in (1, 2):
                error = solutions(make, substeps, given) - fine
                row = {"equation": name, "substeps": substeps, "fine": FINE}
                row["largest"] = float(jnp.abs(error).max() / jnp.abs(fine).max())
                row["rms"] = float(rms(error) / rms(fine))
                rows.append(row)
                print(row, flush=True)
    settings = {"dtype": "float64", "seeds": [0], "draws": DRAWS}
    record.save("pde_accuracy", {**settings, "rows": rows})


if __name__ == "__main__":
    main()
