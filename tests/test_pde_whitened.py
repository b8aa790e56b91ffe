"""Coordinates of fields: inverse of each other, of one size, exact where they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pidax as px
from pidax import pde

GRID = pde.Grid((6, 5))
DARCY = pde.Darcy.lognormal(GRID)


@pytest.fixture(scope="module")
def fields():
    """Sixty-four positive fields, and what each makes: zero on the sides, nonlinear."""
    rng = np.random.default_rng(0)
    log_a = rng.normal(size=(64, 30)) @ rng.normal(size=(30, 30)) / 8
    x, y = (np.asarray(c).ravel() for c in GRID.coordinates)
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    u = np.exp(-log_a) @ np.exp(-4 * apart) * (x * (1 - x) * y * (1 - y)) / 10
    return np.stack([np.exp(log_a), u], axis=-1).reshape(64, *GRID.shape, 2)


@pytest.fixture(scope="module")
def solved():
    """A hundred samples of a linear equation, and the equation."""
    poisson = pde.Poisson(pde.Grid((6, 6)))
    with jax.enable_x64(True):
        many = pde.draw(poisson, 100, key=jax.random.key(3), batch_size=100)
        return poisson, np.stack([np.asarray(f, float) for f in many], axis=-1)


def bases():
    spectral = pde.Spectral([GRID.with_boundary(pde.Neumann()), GRID])
    return {"principal": None, "spectral": spectral}


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["principal", "spectral"])
def test_restore_undoes_normalise(fields, x64, basis):
    for form in ("modes", "grid"):
        chart = pde.Whitened.fit(fields, positive=[0], basis=bases()[basis], form=form)
        y = np.asarray(chart.normalise(fields))
        assert y.shape[1:] == chart.shape
        np.testing.assert_allclose(chart.restore(y), fields, rtol=1e-9, atol=1e-12)
        # Any axes may lead, none too.
        one = chart.restore(y[0])
        np.testing.assert_allclose(one, fields[0], rtol=1e-9, atol=1e-12)
        again = chart.normalise(fields.reshape(2, 32, *fields.shape[1:]))
        again = np.reshape(again, (64, *chart.shape))
        np.testing.assert_allclose(again, y, atol=1e-12)


def test_without_damping_every_principal_coordinate_has_variance_one(fields, x64):
    chart = pde.Whitened.fit(fields, damping=0.0)
    y = np.asarray(chart.normalise(fields))
    covariance = y.T @ y / len(y)
    np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=1e-6)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-9)


def test_directions_have_one_sign_whatever_the_decomposition_gives(fields):
    """Fitted to the same samples in another order, or to their opposites."""
    centred = fields - fields.mean(axis=0)
    found = pde.Principal.find(centred, 12)
    for same in (-centred, centred[::-1]):
        again = pde.Principal.find(same, 12)
        np.testing.assert_allclose(again.vectors, found.vectors, atol=1e-8)
    for vector in np.asarray(found.vectors).reshape(12, -1):
        large = np.abs(vector) > 0.5 * np.abs(vector).max()
        assert vector[large][0] > 0


@pytest.mark.parametrize("basis", ["principal", "spectral"])
def test_damping_is_the_formula(fields, x64, basis):
    """Variances var / (var + damping^2 max var), up to one factor that makes them 1."""
    free = pde.Whitened.fit(fields, basis=bases()[basis], damping=0.0)
    damped = pde.Whitened.fit(fields, basis=bases()[basis], damping=0.3)
    z = (fields - free.channels.mean) / np.asarray(free.channels.std) - free.centre
    v = np.asarray(jax.jit(jax.vmap(free.basis.forward))(jnp.asarray(z))).var(axis=0)
    found = np.asarray(damped.normalise(fields)).var(axis=0)
    expected = v / (v + 0.09 * v.max())
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.mean(), 1, rtol=1e-9)


@pytest.mark.parametrize("basis", ["principal", "spectral"])
def test_any_coordinates_are_fields_inside_the_constraints(fields, x64, basis):
    """Positive stays positive, and the prescribed boundary values hold exactly."""
    chart = pde.Whitened.fit(fields, positive=[0], basis=bases()[basis])
    y = 3 * np.random.default_rng(1).normal(size=(64, *chart.shape))
    made = np.asarray(chart.restore(y))
    assert (made[..., 0] > 0).all()
    edge = np.ones(GRID.shape, bool)
    edge[1:-1, 1:-1] = False
    assert np.abs(made[..., 1][:, edge]).max() < 1e-10 * np.abs(made[..., 1]).max()


@pytest.mark.slow
def test_linear_relations_hold_for_all_coordinates(solved, x64):
    """Poisson: whatever the coordinates, the fields solve the equation."""
    poisson, many = solved
    chart = pde.Whitened.fit(many)
    assert chart.shape == (35,)  # the source, of zero mean, which makes the rest
    made = chart.restore(np.random.default_rng(1).normal(size=(100, 35)))
    relative = lambda fields: poisson.relative_residual(poisson.unstack(fields))
    assert jax.jit(jax.vmap(relative))(made).max() < 1e-5


@pytest.mark.parametrize(
    ("basis", "rank"), [("principal", None), ("principal", 4), ("spectral", None)]
)
def test_the_form_on_a_grid_is_the_same_chart_turned(fields, x64, basis, rank):
    """A multiple of B y, of mean square one over samples and points."""
    options = {"basis": bases()[basis], "rank": rank}
    modes = pde.Whitened.fit(fields, **options)
    grid = pde.Whitened.fit(fields, form="grid", **options)
    y, g = modes.normalise(fields), np.asarray(grid.normalise(fields))
    assert g.shape == fields.shape
    back = np.asarray(jax.jit(jax.vmap(modes.basis.inverse))(y))
    np.testing.assert_allclose(back / back.std(), g, atol=1e-2 * np.abs(g).max())
    np.testing.assert_allclose((g**2).mean(), 1, rtol=1e-12)


def conditional(fields, **options):
    return pde.Whitened.fit(fields, positive=[0], given=[0], **options)


@pytest.mark.slow
def test_conditional_coordinates_are_uncorrelated_and_invertible(fields, x64):
    chart = conditional(fields, damping=0.0)
    y = np.asarray(chart.normalise(fields))
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(y.shape[1]), atol=1e-6)
    np.testing.assert_allclose(chart.restore(y), fields, rtol=1e-8, atol=1e-11)


@pytest.mark.slow
def test_the_second_coordinates_move_the_unknown_alone(fields, x64):
    """And the first ones move it along the regression: B, by least squares here."""
    chart = conditional(fields, damping=0.1)
    here, there = chart.basis.blocks(chart.shape[0])
    y = np.asarray(chart.normalise(fields[0]))
    moved = y.copy()
    moved[there] += 1.0
    moved = np.asarray(chart.restore(moved))
    np.testing.assert_allclose(moved[..., 0], fields[0, ..., 0], rtol=1e-10)
    assert np.abs(moved[..., 1] - fields[0, ..., 1]).max() > 1e-4
    log_a = np.log(fields[..., 0]).reshape(len(fields), -1)
    u = fields[..., 1].reshape(len(fields), -1)
    design = log_a - log_a.mean(0)
    slopes = np.linalg.lstsq(design, u - u.mean(0), rcond=None)[0]
    step = np.zeros(len(y))
    step[here] = np.random.default_rng(0).normal(size=here.stop)
    changed = np.asarray(chart.restore(y + step))
    expected = (np.log(changed[..., 0]).ravel() - log_a[0]) @ slopes
    found = (changed[..., 1] - fields[0, ..., 1]).ravel()
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.slow
def test_a_linear_equation_leaves_nothing_unexplained(solved, x64):
    poisson, many = solved
    chart = pde.Whitened.fit(many, given=poisson.given_mask)
    assert chart.shape == (35,)
    np.testing.assert_allclose(chart.restore(chart.normalise(many)), many, atol=1e-9)


def test_what_is_given_as_a_mask():
    assert DARCY.given_mask[..., 0].all()
    assert not DARCY.given_mask[..., 1].any()
    burgers = pde.Burgers(pde.Grid((8,), boundary=pde.Periodic()), rows=4)
    assert burgers.given_mask.shape == (4, 8, 1)
    assert burgers.given_mask[0].all()
    assert not burgers.given_mask[1:].any()


def test_rough_channels_are_seen_through_the_laplacian(fields, x64):
    """Coordinates of u are linear in its five-point Laplacian, formed here by hand."""
    chart = pde.Whitened.fit(fields, rough={1: GRID}, damping=0.0, given=[0])
    np.testing.assert_allclose(
        chart.restore(chart.normalise(fields)), fields, rtol=1e-8, atol=1e-10
    )
    u, (h, k) = fields[:, :, :, 1], GRID.spacing
    right = np.zeros_like(u)
    right[:, 1:-1, 1:-1] = (
        u[:, 2:, 1:-1] - 2 * u[:, 1:-1, 1:-1] + u[:, :-2, 1:-1]
    ) / h**2 + (u[:, 1:-1, 2:] - 2 * u[:, 1:-1, 1:-1] + u[:, 1:-1, :-2]) / k**2
    z = np.stack([fields[..., 0], right], axis=-1)
    plain = pde.Whitened.fit(z, damping=0.0, given=[0])
    found, expected = chart.normalise(fields), plain.normalise(z)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)


def test_rank_keeps_the_best_directions(fields, x64):
    """No other 8 directions leave less behind: Eckart and Young."""
    chart = pde.Whitened.fit(fields, rank=8)
    z = (fields - chart.channels.mean) / np.asarray(chart.channels.std) - chart.centre
    singular = np.linalg.svd(z.reshape(len(z), -1), compute_uv=False)
    project = lambda a: chart.basis.inverse(chart.basis.forward(a))
    kept = jax.jit(jax.vmap(project))(jnp.asarray(z))
    lost = np.sum((z - np.asarray(kept)) ** 2)
    np.testing.assert_allclose(lost, np.sum(singular[8:] ** 2), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"basis": bases()["spectral"], "form": "grid"},
        {"given": [0], "rough": {1: GRID}},
    ],
    ids=["principal", "spectral", "conditional"],
)
def test_it_is_saved_and_loaded(fields, tmp_path, options):
    chart = pde.Whitened.fit(fields, positive=[0], **options)
    px.save(tmp_path / "chart.px", px.Residual(DARCY, chart))
    loaded = px.load(tmp_path / "chart.px").normaliser
    y = chart.normalise(jnp.asarray(fields[:2], jnp.float32))
    np.testing.assert_array_equal(loaded.restore(y), chart.restore(y))


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, [0]])
def test_products_are_in_full_precision(fields, given):
    """Some accelerators round the factors of float32 products unless told not to."""
    chart = pde.Whitened.fit(fields, given=given, rough={1: GRID})
    y = chart.normalise(jnp.asarray(fields[0], jnp.float32))
    for function, at in ((chart.restore, y), (chart.normalise, chart.restore(y))):
        program = str(jax.make_jaxpr(function)(at))
        count = program.count("dot_general")
        assert count > 1
        assert program.count("Precision.HIGHEST") >= count


def test_what_is_lost_is_said(fields, x64):
    """By channel, in units of its standard deviation; a rank is allowed to lose."""
    assert max(pde.Whitened.fit(fields).unexplained) < 1e-9
    chart = pde.Whitened.fit(fields, rank=8)
    off = np.asarray(chart.restore(chart.normalise(fields))) - fields
    expected = np.sqrt((off**2).mean((0, 1, 2))) / fields.std((0, 1, 2))
    np.testing.assert_allclose(chart.unexplained, expected, rtol=1e-10)
    assert min(expected) > 1e-3


def test_coordinates_that_lose_the_samples_are_refused(fields):
    """Zero on the sides, for a coefficient or a solution that is not."""
    with pytest.raises(ValueError, match="of channel 0: expected"):
        pde.Whitened.fit(fields, basis=pde.Spectral([GRID, GRID]))
    lifted = fields + np.array([0.0, 0.05])
    with pytest.raises(ValueError, match="of channel 1: expected"):
        pde.Whitened.fit(lifted, rough={1: GRID})


@pytest.mark.slow
def test_conditional_coordinates_are_larger_on_other_samples(x64):
    """By 1 / (1 - k/n)^2 where the rest is linear and has a noise of its own."""
    rng = np.random.default_rng(4)
    known = rng.normal(size=(2256, 8, 8))
    noise = rng.normal(size=(2256, 4)) @ rng.normal(size=(4, 64))
    slopes = rng.normal(size=(64, 64)) / 8
    rest = known.reshape(-1, 64) @ slopes + 0.1 * noise
    many = np.stack([known, rest.reshape(known.shape)], axis=-1)
    chart = pde.Whitened.fit(many[:256], given=[0], damping=0.0)
    here = np.asarray(chart.normalise(many))[:, chart.blocks[0] :] ** 2
    assert chart.blocks == (64, 4)
    expected = 1 / (1 - 64 / 256) ** 2
    np.testing.assert_allclose(here[256:].mean(), expected, rtol=0.1)


def test_distances_are_in_standard_deviations_of_the_channel(fields, x64):
    chart = pde.Whitened.fit(fields, positive=[0], given=[0])
    mean, std = fields.mean((0, 1, 2)), fields.std((0, 1, 2))
    values = mean - std * np.array([0.1, 30.0])
    found = chart.distance(np.broadcast_to(values, fields.shape[1:]))
    np.testing.assert_allclose(found[0, 0], [0.1, 30.0], rtol=1e-9)
    assert np.isinf(chart.distance(-fields[0])[..., 0]).all()


def test_what_is_wrong_is_named(fields):
    def says(words, make):
        with pytest.raises(ValueError, match=words):
            make()

    says("form must be one of", lambda: pde.Whitened.fit(fields, form="x"))
    says("damping must be", lambda: pde.Whitened.fit(fields, damping=-1.0))
    says("at least two samples", lambda: pde.Whitened.fit(fields[:1]))
    says("least value is -", lambda: pde.Whitened.fit(-fields, positive=[0]))
    says(r"channels \(0 to 1\)", lambda: pde.Whitened.fit(fields, positive=[2]))
    chart = pde.Whitened.fit(fields)
    says("Whitened.fit", lambda: chart.normalise(np.zeros((7, 7, 2))))
    says("coordinates of shape", lambda: chart.restore(np.zeros(3)))
    says("grid", lambda: conditional(fields, form="grid"))
    says("a rank of at most 10", lambda: conditional(fields[:20]))
    says("leave others", lambda: pde.Whitened.fit(fields, given=[0, 1]))
    says("rough names", lambda: pde.Whitened.fit(fields, rough={0: pde.Grid((3, 3))}))
    says(
        "Leave one out",
        lambda: pde.Whitened.fit(fields, rank=3, basis=bases()["spectral"]),
    )
    two = [GRID, pde.Grid((4, 4))]
    says("one grid for each channel", lambda: pde.Spectral(two))
