"""Constraints against the equations they speak of, and projections against algebra."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from helpers import assert_close, tolerance

import pidax as px
from pidax import constraint as pc
from pidax import pde

GRID = pde.Grid((5, 6), extent=((0.0, 1.0), (-1.0, 1.0)))
SHAPE = (5, 6, 2)
POISSON = pde.Poisson(GRID)
DARCY = pde.Darcy.lognormal(GRID)
CHART = pde.Normaliser((1.2, 0.1), (0.5, 0.02))
RING = pde.Burgers(pde.Grid((8,), boundary=pde.Periodic()), rows=4)

LINE = pde.Grid((9,), boundary=((pde.Dirichlet(), pde.Neumann()),))


def random(seed, shape=SHAPE, dtype=None):
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, dtype or float)


def fields_of(seed):
    """Stacked fields of the size of Darcy's, far from any solution."""
    return jnp.asarray([1.2, 0.1] + np.array([0.5, 0.02]) * np.asarray(random(seed)))


@functools.cache
def darcy():
    """A solution of Darcy's equation, in float64, made once."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, DARCY.sample(key=jax.random.key(20220601)))


@functools.cache
def burgers():
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, RING.sample(key=jax.random.key(20220601)))


def stack(fields):
    return jnp.stack([jnp.asarray(f) for f in fields], axis=-1)


@eqx.filter_jit
def judged(constraint, fields):
    """Residual, cost, and the cost's gradient, of stacked fields."""
    cost, slope = jax.value_and_grad(constraint.cost_of)(fields)
    return constraint.residual_of(fields), cost, slope


@eqx.filter_jit
def residual_of(constraint, fields):
    return constraint.residual_of(fields)


@eqx.filter_jit
def cost_of(constraint, fields):
    return constraint.cost_of(fields)


@eqx.filter_jit
def projected(constraint, fields):
    return constraint.project_fields(fields)


def some(seed, share=0.4, shape=SHAPE):
    return np.random.default_rng(seed).uniform(size=shape) < share


class Doubling(pde.AbstractNormaliser):
    """Coordinates of another shape than the fields: the flattened half."""

    fields: tuple[int, ...] = eqx.field(static=True)

    @property
    def shape(self):
        return (int(np.prod(self.fields)),)

    def normalise(self, stacked) -> Any:
        return stacked.ravel() / 2

    def restore(self, coordinates: Any) -> Any:
        return 2 * coordinates.reshape(self.fields)


# ------------------------------------------------------------------------ residuals


@pytest.mark.slow
def test_the_cost_is_the_square_of_the_relative_residual():
    """In the model's coordinates, through the chart: mean |R|^2 / s^2."""

    @eqx.filter_jit
    def both(constraint, x):
        fields = CHART.restore(x)
        named = constraint.equation.Fields(fields[..., 0], fields[..., 1])
        relative = constraint.equation.relative_residual(named)
        wanted = relative**2, constraint.equation.residual(named)
        return (constraint.cost(x), constraint.residual(x)), wanted

    cases = ((POISSON, "float64"), (DARCY, "float64"), (POISSON, "float32"))
    for equation, dtype in cases:
        with jax.enable_x64(dtype == "float64"):
            x = random(1, dtype=dtype)
            got, wanted = both(px.Residual(equation, CHART), x)
            for a, b in zip(got, wanted, strict=True):
                assert a.dtype == dtype
                assert_close(a, b, tolerance(np.dtype(dtype), 100))


@pytest.mark.slow
def test_what_the_solver_made_costs_nothing_and_its_negative_does(x64):
    fields, constraint = stack(darcy()), px.Residual(DARCY, CHART)
    cost = eqx.filter_jit(constraint.cost)
    assert cost(CHART.normalise(fields)) < 1e-16
    wrong = fields * jnp.array([1.0, -1.0])
    assert_close(cost(CHART.normalise(wrong)), 4.0, 1e-10)


@pytest.mark.slow
def test_scalings_are_sizes_and_no_way_to_a_smaller_residual(x64):
    """The gradient of the cost is that of the residual alone, at a fixed scale."""
    fields = fields_of(2)
    relative = px.Residual(POISSON, CHART)
    residual, cost, slope = judged(relative, fields)
    _, absolute, plain = judged(px.Residual(POISSON, CHART, scaling="absolute"), fields)
    _, by_number, _ = judged(
        px.Residual(POISSON, CHART, scaling=np.float32(10)), fields
    )
    assert_close(absolute, jnp.mean(residual**2), 1e-13)
    assert_close(by_number, absolute / 100, 1e-13)

    @jax.jit
    def moving(fields):
        named = POISSON.unstack(fields)
        free = lambda f: POISSON.relative_residual(POISSON.unstack(f)) ** 2
        return POISSON.scale(named), POISSON.residual(named), jax.grad(free)(fields)

    scale, wanted, other = moving(fields)
    assert_close(residual, wanted, 0)
    assert_close(cost, absolute / scale**2, 1e-13)
    assert_close(slope, plain / scale**2, 1e-13)
    assert jnp.abs(other - slope).max() > 1e-3


def test_half_precision_samples_are_judged_in_float32(x32):
    constraint, x = px.Residual(POISSON, CHART), random(4)
    half = x.astype(jnp.bfloat16)
    both = jax.jit(lambda x: (constraint.residual(x), constraint.cost(x)))
    residual, cost = both(half)
    assert residual.dtype == jnp.float32
    assert_close(cost, both(half.astype(jnp.float32))[1], 0)


@pytest.mark.slow
def test_constraints_are_mapped_and_compiled(x64):
    both = px.Residual(DARCY, CHART) & px.Observation(some(5), fields_of(6))
    batch = random(7, (3, *SHAPE))
    costs = eqx.filter_jit(lambda c, x: jax.vmap(c.cost)(x))(both, batch)
    parts = eqx.filter_jit(lambda p, x: [c.cost(x) for c in p])
    alone = [sum(map(float, parts(both.parts, x))) for x in batch]
    assert_close(costs, alone, 1e-12)


# --------------------------------------------------------------------- observations


def test_what_is_not_observed_is_not_looked_at(x64):
    mask, truth, fields = some(8), fields_of(9), fields_of(10)
    values = jnp.where(mask, truth, jnp.nan)
    seen = px.Observation(mask, values, normaliser=CHART)
    wanted = np.where(mask, np.asarray(fields - truth), 0.0)
    assert_close(residual_of(seen, fields), wanted, 0)
    gradient = np.asarray(judged(seen, fields)[2])
    assert np.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).all()
    projected = seen.project(CHART.normalise(fields))
    assert_close(projected[mask], truth[mask], 0)
    assert_close(projected[~mask], fields[~mask], 1e-13)


def test_the_cost_is_in_units_of_the_noise_and_without_it_of_the_values(x64):
    mask, truth, fields = some(11), fields_of(12), fields_of(13)
    off = np.asarray(fields - truth)
    noisy = px.Observation(mask, truth, noise=np.float32(0.25))
    wanted = np.mean(off[mask] ** 2) / 0.0625
    assert_close(cost_of(noisy, fields), wanted, 1e-12)
    sizes = [
        np.sqrt(np.mean(np.asarray(truth)[..., c][mask[..., c]] ** 2)) for c in (0, 1)
    ]
    exact = px.Observation(mask, truth)
    wanted = np.mean((off / np.asarray(sizes))[mask] ** 2)
    assert_close(cost_of(exact, fields), wanted, 1e-12)
    zeros = px.Observation(mask, jnp.zeros(SHAPE))
    sizes = np.sqrt(np.mean(np.asarray(fields) ** 2, axis=(0, 1)))
    wanted = np.mean((np.asarray(fields) / sizes)[mask] ** 2)
    assert_close(cost_of(zeros, fields), wanted, 1e-12)


@pytest.mark.slow
def test_noisy_values_are_not_overwritten_and_move_by_their_noise(x64, key):
    mask, truth, fields = some(14), fields_of(15), fields_of(16)
    noise = np.where(some(17, 0.5), 0.2, 0.0)
    seen = px.Observation(mask, truth, noise)
    known = mask & (noise == 0)
    assert (seen.exact == known).all()
    assert (seen.noisy == (mask & ~known)).all()
    over = projected(seen, fields)
    assert_close(over[known], truth[known], 0)
    assert_close(over[~known], fields[~known], 0)
    perturb = jax.jit(jax.vmap(lambda k: seen.perturb(key=k).values))
    moved = np.asarray(perturb(jax.random.split(key, 4000)))
    assert_close(moved.mean(0), seen.values, 0.02)
    assert_close(moved.std(0), np.where(mask, noise, 0.0), 0.02)


@pytest.mark.slow
def test_fields_are_observed_by_name(x64, key):
    fields = darcy()
    forward = px.Observation.of(DARCY, coefficient=fields.coefficient)
    assert forward.mask[..., 0].all()
    assert not forward.mask[..., 1].any()
    assert_close(forward.values[..., 0], fields.coefficient, 0)
    part = some(18, shape=(5, 6))
    both = px.Observation.of(
        DARCY,
        coefficient=fields.coefficient,
        solution=(part, fields.solution),
        noise={"solution": 1e-3},
    )
    assert (both.mask[..., 1] == part).all()
    assert_close(both.noise[..., 1], np.where(part, 1e-3, 0.0), 0)
    assert (both.noise[..., 0] == 0).all()
    assert both.cost_of(stack(fields)) == 0


@pytest.mark.slow
def test_fields_of_an_evolution_are_observed_in_its_solution(x64, key):
    fields = burgers()
    image = jnp.asarray(fields.solution)[..., None]
    first = px.Observation.of(RING, initial=fields.initial)
    assert first.mask[0].all()
    assert not first.mask[1:].any()
    assert_close(projected(first, 0 * image), image.at[1:].set(0.0), 0)
    seen = np.zeros((4, 8), bool)
    seen[-1, :3] = True
    last = px.Observation.of(RING, initial=fields.initial, solution=(seen, fields[-1]))
    assert_close(projected(last, 0 * image)[-1, :3, 0], fields.solution[-1, :3], 0)
    assert int(last.mask.sum()) == 11
    disagree = (seen | (np.arange(4) == 0)[:, None], 1 + fields.solution)
    with pytest.raises(ValueError, match="observed twice"):
        px.Observation.of(RING, initial=fields.initial, solution=disagree)
    heat = pde.RandomHeat(pde.Grid((6,), boundary=pde.Periodic()), rows=3)
    nu = px.Observation.of(heat, diffusivity=jnp.asarray(2.0))
    assert nu.mask[..., 1].all()
    assert not nu.mask[..., 0].any()
    assert_close(nu.values[..., 1], 2.0, 0)
    front = pde.InviscidBurgers(LINE, rows=4)
    left = px.Observation.of(front, left=jnp.asarray(0.7))
    wanted = np.zeros((4, 9, 1))
    wanted[1:, 0] = 0.7
    assert_close(left.values, wanted, 0)


@pytest.mark.slow
def test_random_points_are_exactly_as_many_as_said(x64, key):
    fields = darcy()
    seen = px.Observation.at_random(
        DARCY, fields, 0.3, key=key, noise={"solution": 0.01}
    )
    assert [int(seen.mask[..., c].sum()) for c in (0, 1)] == [9, 9]
    assert (seen.mask[..., 0] != seen.mask[..., 1]).any()
    off = seen.residual_of(stack(fields))
    assert (off[..., 0] == 0).all()
    assert 0.003 < jnp.sqrt(jnp.sum(off[..., 1] ** 2) / 9) < 0.03
    only = px.Observation.at_random(DARCY, fields, 1.0, key=key, names=("solution",))
    assert [int(only.mask[..., c].sum()) for c in (0, 1)] == [0, 30]
    rows = px.Observation.at_random(RING, burgers(), 0.25, key=key)
    assert int(rows.mask.sum()) == 8


def test_points_are_found_by_their_coordinates(x64):
    x, y = (np.asarray(c) for c in GRID.coordinates)
    where = (np.array([1, 4, 2]), np.array([2, 0, 5]))
    points = np.stack([x[where], y[where]], axis=-1)
    values = np.array([1.0, 2.0, 3.0])
    seen = px.Observation.at_points(POISSON, points, values, name="solution")
    assert_close(seen.values[..., 1][where], values, 0)
    assert int(seen.mask.sum()) == 3
    near = points + 0.4 * np.asarray(GRID.spacing) * np.array([-1, 1])
    near = np.clip(near, [0, -1], [1, 1])
    moved = px.Observation.at_points(
        POISSON, near, values, name="solution", nearest=True
    )
    assert_close(moved.values, seen.values, 0)
    # In space and time; on a ring the end is the beginning.
    late = np.array([[1.0, 1.0], [1 / 3, 0.25]])
    ring = px.Observation.at_points(RING, late, values[:2], name="solution")
    assert_close(ring.values[3, 0, 0], 1.0, 0)
    assert_close(ring.values[1, 2, 0], 2.0, 0)


# ---------------------------------------------------------------- exact projections


def sums(rows=4, seed=20):
    """Rows with one that is the difference of two others, and values that agree."""
    a = np.random.default_rng(seed).normal(size=(rows, *SHAPE))
    a[-1] = a[0] - a[1]
    b = np.tensordot(a, np.asarray(fields_of(21)), 3)
    return a, b


@pytest.mark.slow
def test_affine_projection_is_exact_nearest_and_idempotent(dtype):
    a, b = sums()
    constraint = pc.Affine(jnp.asarray(a, dtype), jnp.asarray(b, dtype), CHART)
    fields = jnp.asarray(fields_of(22), dtype)
    near = projected(constraint, fields)
    tol = tolerance(dtype, 50)
    assert_close(residual_of(constraint, near), 0.0, tol)
    assert_close(projected(constraint, near), near, tol)
    # The step is orthogonal to all that the rows do not see: the nearest point.
    null = np.linalg.svd(a.reshape(4, -1))[2][3:]
    step = np.asarray(near - fields, np.float64).ravel()
    assert np.linalg.norm(step) > 0.1
    assert_close(null @ step, 0.0, tol)
    assert_close(constraint.project(CHART.normalise(fields)), near, tol)


@pytest.mark.slow
def test_affine_takes_lineax_operators(x64):
    """The Laplacian of one channel is prescribed: Poisson with a known source."""
    grid = pde.Grid((5, 4))
    laplacian = pde.Laplacian(grid)
    inner = lambda x: laplacian.mv(grid.restrict(x[..., 1])).ravel()
    like = jax.ShapeDtypeStruct((5, 4, 2), jnp.result_type(float))
    source = random(23, (6,))
    constraint = pc.Affine(lx.FunctionLinearOperator(inner, like), source)
    fields = projected(constraint, random(24, (5, 4, 2)))
    assert_close(inner(fields), source, 1e-12)


@pytest.mark.slow
def test_exact_values_are_the_affine_projection_on_its_entries(x64):
    mask, truth, fields = some(25, 0.1), fields_of(26), fields_of(27)
    rows = np.eye(60)[mask.ravel()].reshape(-1, *SHAPE)
    affine = pc.Affine(rows, truth[mask])
    seen = px.Observation(mask, truth)
    assert_close(projected(affine, fields), projected(seen, fields), 1e-13)


@pytest.mark.slow
def test_means_are_shifted_in_the_norm_of_the_grid(x64):
    fields = fields_of(28)
    mean = pc.Mean.of(DARCY, CHART, solution=0.25)
    near = mean.project(CHART.normalise(fields))
    assert_close(GRID.mean(near[..., 1]), 0.25, 1e-13)
    assert_close(near[..., 0], fields[..., 0], 1e-13)
    shift = near[..., 1] - fields[..., 1]
    assert_close(shift, shift[0, 0], 1e-13)
    expected = GRID.mean(fields[..., 1]) - 0.25
    assert_close(residual_of(mean, fields), expected, 1e-13)
    image = random(29, (4, 8, 1))
    rows = projected(pc.Mean.of(RING, solution=0.3), image)
    assert_close(rows[..., 0].mean(1), 0.3, 1e-13)
    assert_close(jnp.ptp(rows - image, axis=1), 0.0, 1e-13)
    every = pc.Mean(jnp.array([0.1, -0.2]), None).project_fields(fields)
    assert_close(every.mean((0, 1)), [0.1, -0.2], 1e-13)


@pytest.mark.slow
def test_values_and_means_project_together_as_one_affine_does(x64):
    """Overwrite, then shift what is free: the nearest in the grid's norm.

    What is observed with noise is free.
    """
    mask, truth, fields = some(30), fields_of(31), fields_of(32)
    noise = np.where(some(60, 0.3), 0.1, 0.0)
    both = px.Observation(mask, truth, noise) & pc.Mean.of(DARCY, solution=0.2)
    assert both.projects
    got = projected(both, fields)
    mask = mask & (noise == 0)
    w = np.asarray(GRID.weights)[..., None] * np.ones(2)
    mean = np.zeros(SHAPE)
    mean[..., 1] = w[..., 1] / w[..., 1].sum()
    rows = np.concatenate([np.eye(60)[mask.ravel()].reshape(-1, *SHAPE), mean[None]])
    b = np.append(np.asarray(truth)[mask], 0.2)
    # In the variable sqrt(w) x the grid's norm is Euclid's.
    affine = pc.Affine(rows / np.sqrt(w), b)
    wanted = projected(affine, jnp.asarray(np.sqrt(w)) * fields) / np.sqrt(w)
    assert_close(got, wanted, 1e-12)
    assert_close(got[mask], truth[mask], 0)
    assert_close(residual_of(both.parts[1], got), 0.0, 1e-13)


@pytest.mark.slow
def test_values_and_linear_conditions_project_together_as_one_affine_does(x64):
    a, b = sums()
    mask, fields = some(30), fields_of(32)
    truth = fields_of(21)  # for which the rows have the values b
    both = pc.Affine(a, b) & px.Observation(mask, truth)
    rows = np.concatenate([a, np.eye(60)[mask.ravel()].reshape(-1, *SHAPE)])
    one = pc.Affine(rows, np.concatenate([b, np.asarray(truth)[mask]]))
    near = projected(both, fields)
    assert_close(near, projected(one, fields), 1e-11)
    assert_close(near[mask], truth[mask], 0)


class Halved(pc.AbstractConstraint):
    """The second channel is half the first: a constraint of a user's own."""

    normaliser: pde.AbstractNormaliser | None = None

    def residual_of(self, fields):
        return fields[..., 1] - 0.5 * fields[..., 0]


def test_a_constraint_of_ones_own_says_one_thing(x64):
    """All else follows; a function makes the same one."""
    own, fields = Halved(CHART), fields_of(52)
    wanted = np.asarray(fields[..., 1] - 0.5 * fields[..., 0])
    made = pc.from_residual(own.residual_of, SHAPE, CHART)
    in_tens = pc.from_residual(own.residual_of, SHAPE, scale=10)
    for constraint in (own, made):
        assert_close(constraint.residual(CHART.normalise(fields)), wanted, 1e-13)
        assert_close(cost_of(constraint, fields), np.mean(wanted**2), 1e-13)
        constraint.check(SHAPE)
        assert not constraint.projects
        with pytest.raises(ValueError, match="no exact projection is known"):
            constraint.project_fields(fields)
    joined = in_tens & px.Residual(DARCY, CHART)
    assert joined.parts[0].normaliser == CHART
    assert_close(cost_of(in_tens, fields), np.mean(wanted**2) / 100, 1e-13)
    with pytest.raises(ValueError, match=r"expected samples of the shape \(5, 6, 2\)"):
        made.check((4, 4, 2))
    with pytest.raises(ValueError, match="restores samples to fields of the shape"):
        pc.from_residual(own.residual_of, SHAPE, Doubling((4, 4, 2)))
    with pytest.raises(ValueError, match=r"one array.*got tuple"):
        pc.from_residual(lambda fields: (fields, fields), SHAPE)
    with pytest.raises(ValueError, match="scale must be positive"):
        pc.from_residual(own.residual_of, SHAPE, scale=0.0)


@pytest.mark.slow
def test_all_sums_costs_and_joins_residuals(x64):
    residual = px.Residual(DARCY, CHART)
    seen = px.Observation(some(33), fields_of(34), noise=0.1)
    mean = pc.Mean(np.float32(0.1), channel=np.int64(1))
    all_three = residual & seen & mean
    assert len(all_three.parts) == 3
    assert all(part.normaliser == CHART for part in all_three.parts)
    fields = fields_of(35)
    parts = (residual, seen, mean)
    total = sum(float(cost_of(part, fields)) for part in parts)
    assert_close(cost_of(all_three, fields), total, 1e-12)
    assert_close(all_three.cost(CHART.normalise(fields)), total, 1e-12)
    joined = jnp.concatenate([residual_of(part, fields).ravel() for part in parts])
    assert_close(residual_of(all_three, fields), joined, 1e-14)
    relative = jnp.concatenate([part.relative_of(fields).ravel() for part in parts])
    assert_close(all_three.relative_of(fields), relative, 1e-14)
    assert not all_three.projects
    with pytest.raises(ValueError, match="no exact projection"):
        all_three.project_fields(fields)


# ------------------------------------------------------------------------- mistakes


def test_a_normaliser_must_be_there_and_fit():
    with pytest.raises(ValueError, match=r"got none.*Normaliser.fit\(dataset"):
        px.Residual(DARCY)
    with pytest.raises(ValueError, match=r"does not fit the residual of Darcy"):
        px.Residual(DARCY, pde.Normaliser([0.0], [1.0]))
    with pytest.raises(ValueError, match=r"fields of the shape \(6, 5, 2\), expected"):
        px.Residual(DARCY, Doubling((6, 5, 2)))
    with pytest.raises(ValueError, match="scaling must be"):
        px.Residual(DARCY, CHART, scaling="relativ")
    with pytest.raises(ValueError, match="scaling must be"):
        px.Residual(DARCY, CHART, scaling=0.0)
    with pytest.raises(ValueError, match="expected a normaliser between"):
        px.Observation(some(36), fields_of(37)).cost(random(38))
    other = pde.Normaliser((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(ValueError, match="two that differ"):
        _ = px.Residual(DARCY, CHART) & pc.Mean(0.0, 1, other)


def test_the_grid_of_the_samples_is_checked_before_compiling():
    constraint = px.Residual(DARCY, CHART)
    constraint.check(SHAPE)
    with pytest.raises(ValueError, match=r"got samples of the shape \(8, 8, 2\).*Grid"):
        constraint.check((8, 8, 2))
    other = px.Residual(DARCY, Doubling(SHAPE))
    other.check((60,))
    with pytest.raises(ValueError, match=r"expected samples of the shape \(60,\)"):
        other.check(SHAPE)
    weighted = pc.Mean.of(DARCY, CHART, solution=0.0)
    weighted.check(SHAPE)
    with pytest.raises(ValueError, match="can judge"):
        weighted.check((8, 8, 2))
    with pytest.raises(ValueError, match="fields of one shape"):
        _ = constraint & px.Observation(some(39, shape=(4, 4, 2)), jnp.ones((4, 4, 2)))


@pytest.mark.slow
def test_masks_and_values_that_cannot_be_meant():
    values, mask = fields_of(40), some(41)
    with pytest.raises(ValueError, match="observes nothing"):
        px.Observation(np.zeros(SHAPE, bool), values)
    with pytest.raises(ValueError, match="observes everything"):
        px.Observation(np.ones(SHAPE, bool), values)
    px.Observation(np.ones(SHAPE, bool), values, noise=0.1)  # to denoise is a problem
    with pytest.raises(ValueError, match="must be finite"):
        px.Observation(mask, values.at[tuple(np.argwhere(mask)[0])].set(jnp.nan))
    with pytest.raises(ValueError, match="not negative"):
        px.Observation(mask, values, noise=-0.1)
    with pytest.raises(ValueError, match="one for each entry"):
        px.Observation(mask, values, noise=np.ones(3))
    scaled = CHART.normalise(values)
    assert px.Observation(mask, values, normaliser=CHART).mask is not None
    with pytest.raises(ValueError, match=r"physical units.*of channel 1"):
        px.Observation(mask, scaled, normaliser=CHART)
    with pytest.raises(ValueError, match="physical units"):
        _ = px.Residual(DARCY, CHART) & px.Observation(mask, scaled)
    with pytest.raises(ValueError, match="one point exactly"):
        _ = px.Observation(mask, values) & px.Observation(mask, values + 1)


@pytest.mark.slow
def test_units_are_checked_in_whitened_coordinates_too(key):
    many = np.asarray(jax.vmap(DARCY.stack)(pde.draw(DARCY, 80, key=key)))
    chart = pde.Whitened.fit(many, positive=[0], given=DARCY.given_mask)
    one, mask = jnp.asarray(many[0]), some(43)
    _ = px.Residual(DARCY, chart) & px.Observation(mask, one)
    other = one * jnp.array([1.0, 1000.0])
    with pytest.raises(ValueError, match=r"physical units.*of channel 1"):
        px.Observation(mask, other, normaliser=chart)
    with pytest.raises(ValueError, match=r"of channel 0.*not positive"):
        _ = px.Residual(DARCY, chart) & px.Observation(mask, -one)


def test_a_mask_comes_before_its_values(key):
    fields = darcy()
    u, mask = fields.solution, some(46, shape=(5, 6))
    for swapped in ((u, mask), (u, mask.astype(int)), (mask.astype(float), u)):
        with pytest.raises(ValueError, match=r"\(mask, values\), in this order.*float"):
            px.Observation.of(DARCY, solution=swapped)
    with pytest.raises(ValueError, match="in this order"):
        px.Observation.of(DARCY, solution=(3 * mask.astype(int), u))
    with pytest.raises(ValueError, match="in this order"):
        px.Observation.of(DARCY, solution=(mask.astype(int), mask))
    counted = px.Observation.of(DARCY, solution=(mask.astype(np.int8), u))
    assert (counted.mask == px.Observation.of(DARCY, solution=(mask, u)).mask).all()


def test_a_normaliser_that_is_missing_is_said_to_be_missing():
    """And not that the samples are of another grid, which they are not."""
    seen = px.Observation(some(47), fields_of(48))
    with pytest.raises(ValueError, match=r"shape \(60,\).*got none. Pass normaliser="):
        seen.check((60,))
    with pytest.raises(ValueError, match="expected a normaliser between"):
        seen.check(SHAPE)
    (seen & px.Residual(DARCY, Doubling(SHAPE))).check((60,))


@pytest.mark.slow
def test_observations_of_another_domain_are_refused(key):
    """The shapes agree, the places do not."""
    square, wide, cells = (
        pde.Darcy.lognormal(grid)
        for grid in (
            pde.Grid((5, 5)),
            pde.Grid((5, 5), (0.0, 2.0)),
            pde.Grid((5, 5), layout="cells"),
        )
    )
    residual = px.Residual(square, CHART)
    mask = some(49, shape=(5, 5))
    for other, said in ((wide, r"\(0.0, 2.0\)"), (cells, "cells")):
        seen = px.Observation.of(other, solution=(mask, np.full((5, 5), 0.1)))
        with pytest.raises(ValueError, match=f"points of one grid.*nodes.*{said}"):
            _ = residual & seen
    sides = pde.Grid((5, 5), boundary=pde.Dirichlet(np.ones(5)))
    other = pde.Darcy.lognormal(sides)
    seen = px.Observation.of(other, solution=(mask, 0.1 * mask))
    cost = eqx.filter_jit(lambda c, f: c.cost_of(f))
    joined = cost(residual & seen, jnp.ones((5, 5, 2)))
    assert jnp.isfinite(joined)
    assert seen.perturb(key=key).grid == seen.grid == square.grid
    bare = px.Observation(np.stack([mask, mask], -1), jnp.full((5, 5, 2), 0.1))
    assert bare.grid is None
    assert len((residual & bare).parts) == 2


def test_points_whose_values_are_prescribed_tell_nothing(key):
    fields = darcy()
    edge = np.ones((5, 6), bool)
    edge[1:-1, 1:-1] = False
    with pytest.raises(ValueError, match=r"all 18 observed points.*Darcy prescribes"):
        px.Observation.of(DARCY, solution=(edge, fields.solution))
    corner = np.array([[0.0, -1.0]])
    with pytest.raises(ValueError, match="all 1 observed points"):
        px.Observation.at_points(DARCY, corner, np.zeros(1), name="solution")
    for name in ("coefficient", "solution"):
        more = edge.copy()
        more[2, 2] = name == "solution"
        pair: Any = {name: (more, getattr(fields, name))}
        told = px.Observation.of(DARCY, **pair)
        assert int(told.mask.sum()) == more.sum()


def test_points_that_cannot_be_meant(x64, key):
    at = lambda points, **more: px.Observation.at_points(
        POISSON, np.array(points), np.ones(len(points)), name="solution", **more
    )
    with pytest.raises(ValueError, match=r"outside the domain.*y in \[-1, 1\], got y"):
        at([[0.5, 0.2], [0.5, 1.6]], nearest=True)
    with pytest.raises(ValueError, match="nearest=True"):
        at([[0.3, 0.2]])
    with pytest.raises(ValueError, match="one point of the grid"):
        at([[0.25, 0.2], [0.25, 0.2]])
    with pytest.raises(ValueError, match=r"coordinates \(x, y\)"):
        at([[0.25]])
    fields = darcy()
    with pytest.raises(ValueError, match="has the fields coefficient, solution"):
        px.Observation.of(DARCY, pressure=fields.solution)
    with pytest.raises(ValueError, match="on the equation's grid"):
        px.Observation.of(DARCY, solution=fields.solution[1:])
    with pytest.raises(ValueError, match="at least one"):
        px.Observation.at_random(DARCY, fields, 0.01, key=key)


def test_projections_that_do_not_exist(x64):
    a, b = sums()
    joined = pc.Affine(a, b) & pc.Mean(0.1)
    assert not joined.projects
    mask = np.ones(SHAPE, bool)
    mask[0, 0] = False  # two entries are free, of three conditions
    values = px.Observation(mask, fields_of(51))
    with pytest.raises(ValueError, match="contradict them"):
        (pc.Affine(a, b) & values).project_fields(fields_of(42))
    with pytest.raises(ValueError, match="rows of one Affine"):
        joined.project_fields(fields_of(42))
    twice = pc.Mean(0.1) & pc.Mean(0.2)
    assert not twice.projects
    with pytest.raises(ValueError, match="no fields satisfy all"):
        pc.Affine(a, b + np.array([0, 0, 0, 1.0]))
    full = np.zeros(SHAPE, bool)
    full[..., 1] = True
    with pytest.raises(ValueError, match="nothing is left to shift"):
        _ = px.Observation(full, fields_of(43)) & pc.Mean(0.1, channel=1)


@pytest.mark.slow
def test_the_start_must_be_finite():
    constraint = px.Residual(DARCY, CHART)
    batch = random(44, (3, *SHAPE), jnp.float32)
    constraint.check_start(batch)
    with pytest.raises(ValueError, match=r"got 1 of 3 with NaN.*first: 2"):
        constraint.check_start(batch.at[2, 0, 0, 0].set(jnp.nan))
    huge = batch.at[1].multiply(1e30)
    with pytest.raises(ValueError, match=r"1 of 3 samples whose residual.*first: 1"):
        constraint.check_start(huge)


@pytest.mark.slow
def test_squares_at_the_start_must_be_finite_too(x32):
    """A residual of 1e22 is a float32 number, its square is none."""
    batch = random(45, (3, *SHAPE), jnp.float32)
    darcy, poisson = px.Residual(DARCY, CHART), px.Residual(POISSON, CHART)
    factors = np.ones((3, 1, 1, 2), np.float32)
    factors[1, ..., 1] = 1e22
    large = batch * factors
    assert jnp.isfinite(residual_of(darcy, CHART.restore(large[1]))).all()
    with pytest.raises(ValueError, match=r"1 of 3 samples.*its square.*first: 1"):
        darcy.check_start(large)
    # Poisson's scale is that of the source: infinite, and the ratio would be zero.
    large = batch * np.roll(factors[..., ::-1], 1, axis=0)
    assert cost_of(poisson, CHART.restore(large[2])) == 0
    with pytest.raises(ValueError, match=r"1 of 3 samples.*scale.*first: 2"):
        poisson.check_start(large)
