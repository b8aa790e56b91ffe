"""Preconditioned networks against published coefficients and exact optima."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PROCESSES, assert_close, gaussian, tolerance
from networks import Network, level_of

import pidax as px
from pidax.denoiser import (
    EDMCoefficients,
    FlowCoefficients,
    Preconditioned,
    VelocityCoefficients,
    log_ratio,
)

COEFFICIENTS = {
    "edm": EDMCoefficients(),
    "velocity": VelocityCoefficients(),
    "flow": FlowCoefficients(),
}
every_kind = pytest.mark.parametrize("kind", COEFFICIENTS)


class Optimal(eqx.Module):
    """The regression's own minimiser for Gaussian data, from what each predicts."""

    exact: px.Gaussian
    process: Any
    kind: str

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        sd = self.process.sigma_data
        if self.kind == "flow":  # E[eps - x0 | x_lin]
            t = c_noise
            return self.exact.noise(x, t, 1 - t) - self.exact(x, t, 1 - t)
        if self.kind == "velocity":
            phi = c_noise
        else:
            sigma, alpha = level_of(4 * c_noise, self.process)
            phi = jnp.arctan2(sigma, alpha * sd)
        sin, cos = jnp.sin(phi), jnp.cos(phi)
        x0 = self.exact(x, sin, cos / sd)
        if self.kind == "velocity":
            return cos * self.exact.noise(x, sin, cos / sd) - sin * x0 / sd
        return (x0 - sd * cos * x) / (sd * sin)


def noised(exact, sigma, alpha):
    keys = jax.random.split(jax.random.key(1), sigma.size)
    x0 = jax.vmap(lambda key: exact.sample(key=key))(keys)
    eps = jax.random.normal(jax.random.key(2), x0.shape)
    return alpha[:, None] * x0 + sigma[:, None] * eps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        *(("edm", make) for make in (px.EDM, px.SubVP, px.RectifiedFlow)),
        ("velocity", px.VP),
        ("flow", px.VP),
    ],
)
def test_the_optimal_network_makes_the_exact_denoiser(make, kind, x64):
    """On the levels of every process, in another chart, and down to pure noise."""
    exact, process = gaussian(), make()
    network = Optimal(exact, process, kind)
    denoiser = Preconditioned(network, process, COEFFICIENTS[kind], shape=(3,))
    levels = [p().level(px.uniform_angle(5, p())) for p in PROCESSES.values()]
    levels.append((jnp.ones(3), jnp.array([1e-3, 1e-6, 0.0])))
    sigma, alpha = (jnp.concatenate(part) for part in zip(*levels, strict=True))
    x = noised(exact, sigma, alpha)

    @jax.jit
    @jax.vmap
    def both(x, sigma, alpha):
        return denoiser(x, sigma, alpha), exact(x, sigma, alpha)

    found, expected = both(x, sigma, alpha)
    assert_close(found, expected, 1e-9)
    found, expected = both(3 * x, 3 * sigma, 3 * alpha)
    assert_close(found, expected, 1e-9)


@pytest.mark.slow
def test_its_flow_is_the_exact_flow(x64):
    """From the first reading on, where a rectified flow has no signal."""
    exact, process = gaussian(), px.RectifiedFlow()
    denoiser = Preconditioned(Optimal(exact, process, "edm"), process, shape=(3,))
    fields = [px.ProbabilityFlow(d, process) for d in (denoiser, exact)]
    u = jnp.array([0.3, -1.0, 0.4])
    for t in (process.t_max, 0.4):
        tau = fields[0].clock.reading(process, jnp.asarray(t))
        assert_close(fields[0](tau, u), fields[1](tau, u), 1e-9)


def test_edm_coefficients_are_the_published_ones(dtype):
    """Karras et al. 2022, Table 1, with their sigma_data = 0.5."""
    sigma = np.array([0.002, 0.5, 80.0])
    c = EDMCoefficients()(jnp.asarray(sigma, dtype), jnp.ones(3), px.EDM())
    published = (
        0.25 / (sigma**2 + 0.25),
        sigma * 0.5 / (0.25 + sigma**2) ** 0.5,
        1 / (sigma**2 + 0.25) ** 0.5,
        np.log(sigma) / 4,
    )
    assert_close(jnp.stack(c), np.array(published), tolerance(dtype, 0.2), 0)


def test_velocity_and_flow_coefficients_are_the_published_ones(x64):
    """Salimans & Ho 2022: x0 = alpha x - sigma v in a variance-preserving chart."""
    process = px.VP(sigma_data=1.0)
    sigma, alpha = process.level(0.3)
    c_skip, c_out, c_in, angle = VelocityCoefficients()(sigma, alpha, process)
    assert_close(
        jnp.stack([c_skip, c_out, c_in]), jnp.stack([alpha, -sigma, 1.0]), 1e-14
    )
    assert_close(angle, process.angle(0.3), 1e-14)
    found = FlowCoefficients()(*px.RectifiedFlow().level(0.3), px.RectifiedFlow())
    assert_close(jnp.stack(found), [1.0, -0.3, 1.0, 0.3], 1e-15)


@every_kind
def test_input_and_target_have_unit_variance(kind, x64):
    """For data of variance sigma_data^2; of the linear path, the path's own."""
    for make in PROCESSES.values():
        process = make(sigma_data=1.0 if kind == "flow" else 0.3)
        sd = process.sigma_data
        level = process.level(px.uniform_angle(5, process))
        c_skip, c_out, c_in, _ = COEFFICIENTS[kind](*level, process)
        sigma, alpha, c_skip, c_out, c_in = map(
            np.asarray, (*level, c_skip, c_out, c_in)
        )
        seen = c_in**2 * ((alpha * sd) ** 2 + sigma**2)
        # The target (x0 - c_skip (alpha x0 + sigma eps)) / c_out
        target = ((1 - c_skip * alpha) * sd) ** 2 + (c_skip * sigma) ** 2
        target = target / c_out**2
        s = sigma / (alpha + sigma)
        assert_close(seen, (1 - s) ** 2 + s**2 if kind == "flow" else np.ones(5), 1e-9)
        assert_close(target, np.full(5, 2.0 if kind == "flow" else 1.0), 1e-9)


@pytest.mark.slow
@every_kind
def test_chart_free_and_finite_at_both_ends(kind):
    denoiser = Preconditioned(Network(), px.EDM(), COEFFICIENTS[kind])
    x = jnp.array([0.7, -0.3, 0.2])
    call = jax.jit(lambda x, sigma, alpha: denoiser(x, sigma, alpha))
    once = call(x, 0.3, 0.8)
    assert once.dtype == x.dtype
    assert_close(call(7 * x, 2.1, 5.6), once, tolerance(x.dtype, 10))
    assert_close(call(x, 0.0, 0.5), 2 * x, tolerance(x.dtype, 0.1))
    sigma, alpha = jnp.array([[0.0, 0.5], [1.0, 0.0], [1.0, -1e-9], [1e4, 1.0]]).T
    slope = jax.jacobian(lambda s, a: denoiser(x, s, a), (0, 1))
    for derivative in jax.jit(jax.vmap(slope))(sigma, alpha):
        assert jnp.isfinite(derivative).all()


@pytest.mark.slow
@every_kind
def test_float32_agrees_with_float64(kind, x64):
    double = Preconditioned(Network(), px.RectifiedFlow(), COEFFICIENTS[kind])
    single = jax.tree.map(
        lambda a: a.astype(jnp.float32) if eqx.is_array(a) else a, double
    )
    sigma, alpha = px.RectifiedFlow().level(px.uniform_angle(7, px.RectifiedFlow()))
    x = jnp.linspace(-1.0, 1.0, 21).reshape(7, 3)
    call = eqx.filter_jit(lambda model, *args: jax.vmap(model)(*args))
    low = call(single, *(a.astype(jnp.float32) for a in (x, sigma, alpha)))
    assert low.dtype == jnp.float32
    assert_close(low, call(double, x, sigma, alpha), tolerance(low.dtype))


def test_a_network_in_low_precision_is_combined_in_full():
    def low(x, c_noise, condition=None, *, augment=None, key=None):
        return x.astype(jnp.bfloat16)

    x = jnp.array([0.123456789, -1.1])
    out = Preconditioned(low, px.EDM())(x, 1e-4)
    full = Preconditioned(lambda x, *args, **rest: x, px.EDM())(x, 1e-4)
    assert out.dtype == x.dtype
    assert 0 < jnp.abs(out - full).max() < 1e-4 * 2 * 2**-8  # c_out F, F of order one


@pytest.mark.slow
@pytest.mark.parametrize("make", [px.VE, px.VP, px.RectifiedFlow])
def test_log_ratio_is_the_logarithm_and_goes_on_smoothly(make, x64):
    process = make()
    low, high = process.ratio_interval
    high = high if np.isfinite(high) else 160 * process.sigma_data
    of = jax.jit(lambda r: log_ratio(r, jnp.ones_like(r), process))
    slope = jax.jit(jax.vmap(jax.grad(of)))
    r = jnp.array([low, 1.3 * low, 1.0, 0.7 * high, high])
    assert_close(of(r), jnp.log(r), 1e-12)
    assert_close(r * slope(r), jnp.ones(5), 1e-9)
    r = jnp.array([low, high])  # the value and the slope from either side
    assert_close(of(r * (1 - 1e-9)), of(r * (1 + 1e-9)), 1e-8)
    assert_close(r * slope(r * (1 - 1e-9)), r * slope(r * (1 + 1e-9)), 1e-8)
    one, nil = jnp.ones(()), jnp.zeros(())
    assert_close(log_ratio(one, nil, process), np.log(high) + 1, 1e-12)
    assert_close(log_ratio(nil, one, process), np.log(low) - 1, 1e-12)
    values = of(jnp.geomspace(1e-3 * low, 1e3 * high, 200))
    assert (jnp.diff(values) > 0).all()


def test_it_states_what_it_is():
    process = px.VP()
    denoiser = Preconditioned(Network(classes=4), process)
    assert denoiser.shape == (3,)
    assert denoiser.classes == 4
    assert denoiser.interval == process.ratio_interval
    assert denoiser.evaluations(2) == 1
    assert isinstance(denoiser.coefficients, EDMCoefficients)
    assert not hasattr(Preconditioned(lambda *a, **k: a[0], process), "classes")
    x = jnp.ones(3)
    free, bound = denoiser(x, 0.5), denoiser(x, 0.5, 1.0, 2)
    assert jnp.abs(free - bound).max() > 1e-3
    assert_close(denoiser(x, 0.5, 1.0, -1), free, 0)


def test_it_hands_on_augmentation_and_key():
    got = {}

    def network(x, c_noise, condition=None, *, augment=None, key=None):
        got.update(condition=condition, augment=augment, key=key)
        return x

    key, augment = jax.random.key(0), jnp.ones(9)
    model = Preconditioned(network, px.EDM())
    model(jnp.ones(2), 1.0, 1.0, 5, augment=augment, key=key)
    assert got["condition"] == 5
    assert got["augment"] is augment
    assert got["key"] is key


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Preconditioned(lambda *a, **k: a[0][:1], px.EDM())(jnp.ones(2), 1),
            r"the network must return one array of the shape \(2,\).*got \(1,\).*layer",
        ),
        (
            lambda: Preconditioned(Network(), px.EDM())(jnp.ones((5, 3)), 1.0),
            r"shape \(3,\), got \(5, 3\). Use jax.vmap",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
