"""Processes against their defining formulas; grids against theirs."""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PROCESSES, assert_close, tolerance

import pidax as px

every_process = pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)
GRIDS = [px.karras, px.uniform_log_snr, px.uniform_angle, px.uniform_time]


def interior(process, n=9):
    fractions = jnp.linspace(0.0, 1.0, n)
    return process.t_min * (process.t_max / process.t_min) ** fractions


@pytest.mark.slow
@every_process
def test_the_time_of_a_level_is_the_inverse_of_the_level(make, dtype):
    process = make()
    t = interior(process)
    back = process.time(process.sigma(t), process.alpha(t))
    assert back.dtype == dtype
    assert_close(back, t, tolerance(dtype), 0)
    # Homogeneous: any chart's level with the same ratio is reached at the same time.
    scaled = process.time(3 * process.sigma(t), 3 * process.alpha(t))
    assert_close(scaled, t, tolerance(dtype), 0)


@every_process
def test_the_angle_and_its_inverse(make, x64):
    process = make()
    t = interior(process)
    phi = process.angle(t)
    assert_close(jnp.tan(phi[:-1]), (process.snr(t) ** -0.5)[:-1], 1e-10, 0)
    assert_close(process.time_of_angle(phi), t, 1e-9, 0)
    assert (jnp.diff(phi) > 0).all()
    assert phi[-1] <= jnp.pi / 2
    scale = jnp.hypot(process.alpha(t) * process.sigma_data, process.sigma(t))
    assert_close(process.scale(t), scale, 1e-14)


@every_process
def test_the_rates_are_the_derivatives(make, x64):
    process = make()
    t, h = interior(process)[1:-1], 1e-6
    alpha_rate, sigma_rate = process.rates(t)
    for rate, fn in ((alpha_rate, process.alpha), (sigma_rate, process.sigma)):
        numeric = (fn(t * (1 + h)) - fn(t * (1 - h))) / (2 * h * t)
        assert_close(rate, numeric, 1e-6)


def test_closed_forms_of_the_charts(x64):
    t = jnp.array([0.01, 0.3, 0.9])
    beta = 0.1 * t + 0.5 * 19.9 * t**2
    assert_close(px.VP().alpha(t), np.exp(-beta / 2), 1e-14)
    assert_close(px.VP().sigma(t) ** 2 + px.VP().alpha(t) ** 2, 1.0, 1e-14)
    assert_close(px.SubVP().sigma(t), 1 - np.exp(-beta), 1e-13)
    assert_close(px.VE().sigma(t), np.sqrt(t), 1e-14)
    assert_close(px.EDM().sigma(t), t, 0)
    assert_close(px.RectifiedFlow().alpha(t) + px.RectifiedFlow().sigma(t), 1.0, 1e-14)
    assert (px.EDM().t_min, px.EDM().t_max) == (0.002, 80.0)
    assert (px.VE().t_min, px.VE().t_max) == (0.02**2, 100.0**2)


def test_no_signal_is_a_time_of_every_chart_that_reaches_it(dtype):
    assert px.RectifiedFlow().time(1.0, 0.0) == 1.0
    for make in (px.EDM, px.VE, px.VP, px.SubVP):
        assert make().time(1.0, 0.0) == jnp.inf


@every_process
def test_perturb_has_the_mean_and_the_spread_of_the_chart(make, key):
    process = make()
    x0 = jnp.full((50_000,), 0.6)
    t = 0.5 * process.t_max
    x, eps = process.perturb(x0, t, key=key)
    mean, std = process.alpha(t) * 0.6, process.sigma(t)
    assert abs(x.mean() - mean) < 5 * std / 50_000**0.5
    assert abs(x.std() / std - 1) < 0.02
    assert_close(process.alpha(t) * x0 + process.sigma(t) * eps, x, 1e-6)


@pytest.mark.slow
@every_process
def test_the_prior_and_its_density(make, key, x64):
    process = make()
    z = process.prior(key, (4000, 3))
    sigma = process.sigma(process.t_max)
    assert abs(z.std() / sigma - 1) < 0.03
    expected = -0.5 * jnp.sum((z[0] / sigma) ** 2)
    expected -= 3 * jnp.log(sigma * jnp.sqrt(2 * jnp.pi))
    assert_close(process.prior_log_density(z[0]), expected, 1e-12)


@every_process
@pytest.mark.parametrize("other", PROCESSES.values(), ids=PROCESSES)
def test_conversion_keeps_the_signal_and_the_noise_in_proportion(make, other, x64):
    process, target = make(sigma_data=0.7), other()
    t = interior(process)[4]
    x0, eps = jnp.array([0.3, -1.0]), jnp.array([1.2, 0.4])
    x = process.alpha(t) * x0 + process.sigma(t) * eps
    x_new, t_new = process.convert(x, t, target)
    expected = target.alpha(t_new) * x0 + target.sigma(t_new) * eps
    assert_close(x_new, expected, 1e-11)
    back, t_back = target.convert(x_new, t_new, process)
    assert_close(back, x, 1e-11)
    assert_close(t_back, t, 1e-11)


@pytest.mark.slow
@every_process
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_runs_from_t_max_to_t_min_and_is_finite(grid, make, dtype):
    process = make()
    ts = grid(12, process)
    assert ts.shape == (12,)
    assert ts[0] == process.t_max
    assert_close(ts[-1], process.t_min, 1e-7, 0)
    assert jnp.isfinite(ts).all()
    assert (jnp.diff(ts) < 0).all()
    with_zero = grid(12, process, final_zero=True)
    assert with_zero[-1] == 0
    assert_close(with_zero[:-1], ts, 0)


def test_karras_grid_is_equation_5(x64):
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert_close(px.karras(18, px.EDM()), expected, 1e-11, 0)


@pytest.mark.slow
def test_uniform_grids_are_uniform_in_their_variable(x64):
    for make in PROCESSES.values():
        process = make()
        phi = process.angle(px.uniform_angle(9, process))
        assert_close(jnp.diff(phi), jnp.diff(phi)[0], 1e-9)
        ts = px.uniform_log_snr(9, process)[1:]
        log_ratio = jnp.log(process.sigma(ts) / process.alpha(ts))
        assert_close(jnp.diff(log_ratio), jnp.diff(log_ratio)[0], 1e-9)


@pytest.mark.slow
def test_the_same_levels_whatever_the_chart(x64):
    """Karras's grid in VP and in EDM between the same ends is the same noise."""
    vp = px.VP()
    low, high = vp.ratio_interval
    edm = px.EDM(sigma_min=low, sigma_max=high)
    ts = px.karras(10, vp)
    assert_close(vp.sigma(ts) / vp.alpha(ts), px.karras(10, edm), 1e-9, 0)


@pytest.mark.slow
def test_grids_cap_the_ratio_only_where_the_signal_vanishes(x64):
    flow = px.RectifiedFlow()
    ts = px.karras(30, flow)
    ratio = flow.sigma(ts) / flow.alpha(ts)
    assert jnp.isinf(ratio[0])
    assert ratio[1] < 160 * flow.sigma_data
    late = px.karras(4, px.RectifiedFlow(t_min=0.99))
    assert (jnp.diff(late) < 0).all()
    hot = px.EDM(sigma_max=1e4)
    assert px.karras(5, hot)[0] == 1e4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: px.EDM(sigma_data=0.0), "sigma_data must be positive"),
        (lambda: px.VP(sigma_data=-1.0), "sigma_data must be positive"),
        (lambda: px.EDM(sigma_min=3.0, sigma_max=2.0), r"\(3.0, 2.0\)"),
        (lambda: px.VE(sigma_min=-1.0), "sigma_min, sigma_max must be an interval"),
        (lambda: px.VP(t_min=0.0), "t_min, t_max must be an interval"),
        (
            lambda: px.VP(beta_min=3.0, beta_max=1.0),
            "beta_min, beta_max must be",
        ),
        (lambda: px.RectifiedFlow(t_max=1.5), "0 < low < high <= 1"),
        (lambda: px.karras(1, px.EDM()), "whole number of at least 2, got n=1"),
        (lambda: px.karras(5, px.EDM(), rho=0.0), "rho must be positive"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scale_of_a_level_does_not_overflow(x32):
    assert px.EDM(sigma_max=1e31).scale(1e30) == np.float32(1e30)


@pytest.mark.slow
def test_processes_are_vmappable_and_differentiable(x64):
    t = jnp.linspace(0.1, 0.9, 5)
    slopes = jax.vmap(jax.grad(px.VP().angle))(t)
    numeric = (px.VP().angle(t + 1e-6) - px.VP().angle(t - 1e-6)) / 2e-6
    assert_close(slopes, numeric, 1e-8)


def test_numbers_of_numpy_are_pythons(x64):
    """They take the dtype of what they meet; arrays of JAX stay, to be traced."""
    makers: list[Any] = [px.EDM, px.VE, px.VP, px.SubVP, px.RectifiedFlow]
    for make in makers:
        process = make(sigma_data=np.float32(0.25))
        assert type(process.sigma_data) is float
        assert eqx.tree_equal(process, make(sigma_data=0.25))
    whole: Any = np.int64(20)
    assert type(px.VP(beta_max=whole).beta_max) is float
    slope = jax.grad(lambda s: px.EDM(sigma_data=s).scale(2.0))(0.5)
    assert_close(slope, 0.5 / np.hypot(0.5, 2.0), 1e-12)
    assert px.karras(np.int64(3), px.EDM(), rho=np.float32(7)).shape == (3,)


class Cosine(px.process.AbstractProcess):
    """The cosine path, whose signal rounds below zero at its end."""

    t_min: float = 1e-3
    t_max: float = jnp.pi / 2
    sigma_data: float = 0.5

    def alpha(self, t):
        return jnp.cos(t)

    def sigma(self, t):
        return jnp.sin(t)

    def time(self, sigma, alpha=1.0):
        return jnp.arctan2(sigma, alpha)


def test_the_signal_of_a_level_is_not_negative_and_keeps_its_slope(x32):
    process = Cosine()
    end = jnp.asarray(process.t_max)
    assert process.alpha(end) < 0
    sigma, alpha = process.level(end)
    assert (sigma, alpha) == (1, 0)
    assert jax.grad(lambda t: process.level(t)[1])(end) == -1
    assert process.ratio_interval[1] == jnp.inf
    assert process.angle(end) == end


@pytest.mark.parametrize(
    ("process", "text"),
    [
        (px.EDM(0.01), "EDM(sigma_min=0.01, sigma_max=80, sigma_data=0.5)"),
        (px.VE(0.03, 9.0), "VE(sigma_min=0.03, sigma_max=9, sigma_data=0.5)"),
        (
            px.VP(beta_max=12.5),
            "VP(t_min=0.001, t_max=1, sigma_data=0.5, beta_min=0.1, beta_max=12.5)",
        ),
        (px.RectifiedFlow(), "RectifiedFlow(t_min=0.001, t_max=1, sigma_data=0.5)"),
    ],
)
def test_it_prints_what_makes_it_again(process, text):
    assert repr(process) == text
    again = eval(text, dict(vars(px)))
    assert_close(again.t_max, process.t_max, 1e-15)
    assert_close(again.t_min, process.t_min, 1e-15)
    names = list(inspect.signature(type(process)).parameters)
    assert [part.split("=")[0] for part in text.split("(")[1].split(", ")] == names
    said = type(process).__doc__ or ""
    assert all(f"`{name}`" in said for name in names)


def test_a_process_of_noise_levels_names_them():
    with pytest.raises(ValueError, match=r"got t_min\. Pass sigma_min \(t is") as e:
        px.EDM(t_min=0.01)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"and sigma_max \(t is sigma squared"):
        px.VE(t_min=0.01, t_max=3.0)  # type: ignore[call-arg]
    assert "EDM is made by its noise levels" in str(e.value)
