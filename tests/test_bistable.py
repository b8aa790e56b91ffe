"""The bistable medium: walls in closed form, branches, stability, the contract."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from pidax.pde import Bistable, Grid, Neumann

SQUARE = Bistable()
WIDTH = 0.05


@eqx.filter_jit
def solved(equation, source, start):
    fields = equation.solve(source, start)
    return (
        fields,
        equation.relative_residual(fields),
        equation.stability(fields),
        equation.log_determinant(fields),
    )


@eqx.filter_jit
def at_zero(equation):
    zero = jnp.zeros(equation.grid.shape)
    fields = equation.Fields(zero, zero, zero)
    return equation.stability(fields), equation.log_determinant(fields)


@eqx.filter_jit
def judged(line):
    start = jnp.sin(np.pi * line.grid.points[0])
    fields = line.solve(jnp.zeros(line.grid.shape), start)
    return fields.solution, line.relative_residual(fields)


def wall_error(n):
    """From the half line's u = tanh(x / (sqrt 2 eps)) at both ends."""
    line, x = Bistable(Grid((n,)), width=WIDTH, source=0.0), np.linspace(0, 1, n)
    wall = lambda x: np.tanh(x / np.sqrt(2) / WIDTH)
    u, relative = judged(line)
    assert relative < 1e-13
    return np.abs(np.asarray(u) - wall(x) * wall(1 - x)).max()


def test_a_wall_at_the_side_is_a_hyperbolic_tangent(x64):
    assert wall_error(33) < 0.015


@pytest.mark.slow
def test_walls_are_of_second_order(x64):
    assert abs(np.log2(wall_error(33) / wall_error(65)) - 2) < 0.2


def test_zero_is_a_solution_and_not_stable(x64):
    """Its rates are eps^2 lambda - 1 of every mode: by the five-point eigenvalues."""
    h, k = 1 / 15, np.arange(1, 15)
    one = 4 / h**2 * np.sin(np.pi * k * h / 2) ** 2
    rates = 0.08**2 * (one[:, None] + one) - 1
    stability, determinant = at_zero(SQUARE)
    assert_close(stability, rates.min(), 1e-10)
    assert stability < 0
    assert_close(determinant, np.log(np.abs(rates)).sum(), 1e-10)


def test_what_is_refused():
    with pytest.raises(ValueError, match="holds zero on every side, got Grid"):
        Bistable(Grid((16, 16), boundary=Neumann()))
    with pytest.raises(ValueError, match=r"source and solution, shape \(16, 16, 2\)"):
        SQUARE.unstack(jnp.zeros((16, 16, 3)))
    assert SQUARE.given_mask[..., 0].all()
    assert not SQUARE.given_mask[..., 1].any()


@pytest.mark.slow
def test_one_source_has_several_stable_solutions(x64):
    """Each a solution to rounding, and stable; signs of both change all signs."""
    key = jax.random.key(0)
    source = SQUARE.draw(key=key)[0]
    starts = [SQUARE.draw(key=jax.random.fold_in(key, i))[1] for i in range(12)]
    found = [solved(SQUARE, source, start) for start in starts]
    for _, relative, stability, _ in found:
        assert relative < 1e-12
        assert stability > 0
    means = {round(float(fields.solution.mean()), 3) for fields, *_ in found}
    assert 2 <= len(means) <= 6
    fields = found[0][0]
    again = SQUARE.unstack(SQUARE.stack(fields))
    assert_close(SQUARE.resolve(again).solution, fields.solution, 1e-9)
    other = solved(SQUARE, -source, -starts[0])[0]
    assert_close(other.solution, -fields.solution, 1e-9)


@pytest.mark.slow
def test_the_gradient_is_of_the_branch(x64):
    """By implicit differentiation, against a central difference."""
    source, start = SQUARE.draw(key=jax.random.key(1))
    total = jax.jit(jax.value_and_grad(lambda g: SQUARE.solve(g, start).solution.sum()))
    move = 1e-4 * np.random.default_rng(0).normal(size=source.shape)
    slope = (total(source + move)[0] - total(source - move)[0]) / 2
    assert_close(np.vdot(total(source)[1], move), slope, 1e-5, 0)
