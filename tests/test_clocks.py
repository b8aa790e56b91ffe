"""The clocks in which Euler's method is DDIM and Heun's is EDM's sampler."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PROCESSES, assert_close, full_mixture, gaussian

import pidax as px
from pidax.flow import AngleClock, UnitNoiseClock, UnitSignalClock

CLOCKS = UnitSignalClock(), UnitNoiseClock()


def ddim(process, denoiser, x, t, s):
    """The denoised sample and its noise, held from t to s: Song et al. 2021."""
    (sigma, alpha), (later_sigma, later_alpha) = process.level(t), process.level(s)
    x0 = denoiser(x, sigma, alpha)
    return later_alpha * x0 + later_sigma * (x - alpha * x0) / sigma


def turn(process, denoiser, x, t, s):
    """The same as a rotation in the angle: y cos(d) + v sin(d)."""
    flow = px.ProbabilityFlow(denoiser, process)
    phi, y = flow.enter(x, t)
    psi = AngleClock().reading(process, s)
    return flow.leave(psi, jnp.cos(psi - phi) * y + jnp.sin(psi - phi) * flow(phi, y))[
        0
    ]


def euler(process, denoiser, x, t, s, clock):
    """One step of Euler's method, in the process's own variables."""
    flow = px.ProbabilityFlow(denoiser, process, clock=clock)
    tau, u = flow.enter(x, t)
    end = clock.reading(process, s)
    return flow.leave(end, u + (end - tau) * flow(tau, u))


EACH = [
    name if name == "VP" else pytest.param(name, marks=pytest.mark.slow)
    for name in PROCESSES
]


@pytest.mark.parametrize("name", EACH)
def test_euler_holds_the_denoised_sample_and_its_noise(name, x64):
    process, teacher = PROCESSES[name](), full_mixture()
    t, s = 0.7 * process.t_max, 0.2 * process.t_max
    x = process.scale(jnp.asarray(t)) * jnp.array([0.6, -1.3])

    @jax.jit
    def steps(x):
        stepped = [euler(process, teacher, x, t, s, clock) for clock in CLOCKS]
        return (
            ddim(process, teacher, x, t, s),
            turn(process, teacher, x, t, s),
            *stepped,
        )

    held, turned, *stepped = steps(x)
    assert jnp.linalg.norm(held - x) > 0.01
    assert_close(turned, held, 1e-12)
    for end, time in stepped:
        assert_close(end, held, 1e-12)
        assert_close(time, s, 1e-12)


@pytest.mark.slow
def test_heun_is_the_sampler_of_edm_for_a_process_with_other_units(key, x64):
    """Against the sampler with noise, of which none is added."""
    process = px.VP()
    flow = px.ProbabilityFlow(full_mixture(), process, clock=UnitSignalClock())
    z, grid = process.prior(key, (2,)), px.karras(5, process)
    path = px.solve(flow, z, solver=diffrax.Heun(), steps=grid, denoise=True)
    # The last step to time 0 is one evaluation in both.
    times = px.karras(5, process, final_zero=True)
    expected = px.sample_with_churn(flow, z, key=key, times=times)
    assert_close(path.end, expected, 1e-10)
    assert path.stats["evaluations"] == 9


def test_pure_noise_has_no_signal_clock(x64):
    process, teacher = px.RectifiedFlow(), gaussian()
    z = jnp.array([0.3, -1.0, 2.0])
    signal = px.ProbabilityFlow(teacher, process, clock=UnitSignalClock())
    cases: list[px.flow.SolveOptions] = [{"steps": 4}, {}]
    for options in cases:
        with pytest.raises(ValueError, match=r"UnitSignalClock needs .*AngleClock"):
            px.solve(signal, z, **options)


@pytest.mark.slow
def test_pure_noise_has_a_noise_clock(x64):
    process, teacher = px.RectifiedFlow(), gaussian()
    z = jnp.array([0.3, -1.0, 2.0])
    noise = px.ProbabilityFlow(teacher, process, clock=UnitNoiseClock())
    steps = px.uniform_log_snr(40, process)
    found = px.solve(noise, z, solver=diffrax.Bosh3(), steps=steps).end
    exact = teacher.transport(z, process.level(1.0), process.level(process.t_min))
    assert_close(found, exact, 3e-3)
    assert np.abs(found - z).max() > 0.5
