"""Failures are loud, and bad input is named: expected, got, do this."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import gaussian

import pidax as px


@pytest.mark.slow
def test_a_failed_solve_raises_and_says_how_to_cure_it():
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), px.EDM())
    z, heun = jnp.array([80.0, 1.0]), diffrax.Heun()  # quick to compile
    for solve in (px.solve, px.encode, px.log_density):
        with pytest.raises(
            eqx.EquinoxRuntimeError, match=r"max_steps=2 .*raise max_steps"
        ):
            solve(flow, z, max_steps=2, solver=heun)
    broken = px.from_function(lambda x, s, a: x * jnp.nan, shape=(2,))
    cases: list[dict[str, Any]] = [{"steps": 3}, {"max_steps": 50}]
    for options in cases:
        with pytest.raises(eqx.EquinoxRuntimeError, match=r"NaN"):
            px.solve(px.ProbabilityFlow(broken, px.EDM()), z, solver=heun, **options)


@pytest.mark.slow
def test_a_failed_solve_is_never_a_sample():
    """throw=False: NaN, alone and under vmap, where the others keep their answers."""
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), px.EDM())
    z = jnp.array([[80.0, 1.0], [3.0, 1.0]])
    heun: Any = dict(solver=diffrax.Heun())  # quick to compile
    path = px.solve(flow, z[0], max_steps=3, throw=False, dense=True, **heun)
    assert jnp.isnan(path.xs).all()
    assert jnp.isnan(path.end).all()
    assert jnp.isnan(path.evaluate(1.0)).all()
    assert jnp.isnan(path.evaluate(79.0)).all()  # reached, but of a failed solve
    assert "FAILED" in str(path)
    steps = [int(px.solve(flow, s, **heun).stats["num_steps"]) for s in z]
    assert steps[0] != steps[1]
    short: Any = dict(max_steps=min(steps), throw=False, **heun)
    many = jax.vmap(lambda s: px.solve(flow, s, **short).end)(z)
    failed = int(np.argmax(steps))
    assert jnp.isnan(many[failed]).all()
    assert jnp.isfinite(many[1 - failed]).all()
    both = px.solve_batch(flow, z, max_steps=3, throw=False, **heun)
    assert jnp.isnan(both.end).all()


def edm(**options):
    return px.ProbabilityFlow(gaussian(), px.EDM(), **options)


Z = np.ones(3, np.float32)
EULER: Any = dict(steps=2, solver=diffrax.Euler())  # quick to compile


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: px.solve(edm(), jnp.ones(4)), r"z must have the shape \(3,\).*\(4,\)"),
        (lambda: px.solve(edm(), jnp.ones((5, 3))), "use solve_batch, or jax.vmap"),
        (lambda: px.solve_batch(edm(), Z), r"samples of \(3,\).*got \(3,\).*z\[None\]"),
        (lambda: px.solve(edm(), Z, steps=True), "steps must be a whole number"),
        (lambda: px.solve(edm(), Z, rtol=0.0), "rtol=0.0, atol=0.0 is below"),
        (
            lambda: px.solve(
                edm(), Z, rtol=1e-3, stepsize_controller=diffrax.PIDController(1, 1)
            ),
            "tolerances of its own, so rtol and atol would be ignored",
        ),
        (
            lambda: px.solve(edm(), Z, dense=True, **EULER).evaluate(90.0),
            "between the ends 0.002 and 80.0 of the path, got 90.0",
        ),
        (lambda: px.encode(edm(), jnp.ones(2)), r"x0 must have the shape \(3,\)"),
        (
            lambda: px.solve(edm(), jnp.array([1.0, jnp.nan, jnp.inf])),
            "z must be finite, got NaN or infinite entries in 2 of 3",
        ),
        (
            lambda: px.solve(edm(), Z, times=jnp.array([90.0, 1.0])),
            r"\[t_min, t_max\] = \[0.002, 80.0\] of EDM, got times from 1.0 to 90",
        ),
        (
            lambda: px.solve(edm(), Z, times=jnp.array([1.0, 2.0])),
            "strictly decrease.*use encode",
        ),
        (
            lambda: px.encode(edm(), Z, times=jnp.array([2.0, 1.0])),
            "strictly increase.*use solve",
        ),
        (
            lambda: px.solve(edm(), Z, times=jnp.array([5.0, 1.0, 1.0])),
            "strictly decrease",
        ),
        (
            lambda: px.solve(edm(), Z, times=jnp.array([80.0, 1.0, 0.0])),
            "time 0 is zero noise, where the ODE is singular.*final_zero=True.*denoise",
        ),
        (lambda: px.solve(edm(), Z, times=jnp.array([80.0, 0.0])), "ODE is singular"),
        (lambda: px.solve(edm(), Z, times=jnp.array([80.0])), "at least the start"),
        (
            lambda: px.solve(edm(), Z, rtol=1e-9),
            "below the rounding 1.2e-07 of float32",
        ),
        (lambda: px.solve(edm(), Z, steps=5, rtol=1e-3), "rtol would be ignored"),
        (lambda: px.solve(edm(), Z, steps=0), "steps must be a whole number"),
        (
            lambda: px.solve(edm(), Z, steps=px.karras(5, px.EDM(sigma_max=40.0))),
            "the times in steps must run strictly from the start.*from 80.0 to 0.002",
        ),
        (
            lambda: px.solve(edm(), Z, steps=px.karras(5, px.EDM(), final_zero=True)),
            "without its final zero",
        ),
        (lambda: px.solve(edm(), Z, solver=diffrax.Euler()), "error est.*got Euler"),
        (lambda: edm(shape=(4,)), r"shape=\(4,\) contradicts.*\(3,\)"),
        (lambda: px.solve(edm(), Z, **EULER).evaluate(1.0), "Solve with dense=True"),
        (
            lambda: px.sample(
                px.ProbabilityFlow(px.from_function(lambda x, s, a: x), px.EDM()),
                3,
                key=jax.random.key(0),
            ),
            "Pass shape= to ProbabilityFlow",
        ),
        (
            lambda: px.ProbabilityFlow(
                px.from_noise(lambda x, t: x, px.VP(), shape=(3,)),
                px.EDM(sigma_max=1e3),
            ),
            "trained for.*extrapolate=True",
        ),
        (
            lambda: px.solve_batch(
                edm(), jnp.ones((4, 3)), condition=jnp.zeros(3, dtype=int)
            ),
            r"expected length 4, got shape \(3,\)",
        ),
        (
            lambda: px.solve(edm(), Z, saveat=diffrax.SaveAt(subs=[])),
            "one SubSaveAt",
        ),
        (
            lambda: px.solve(
                edm(), Z, saveat=diffrax.SaveAt(t1=True, solver_state=True)
            ),
            "got solver_state.*flow.term",
        ),
        (
            lambda: px.ProbabilityFlow(
                px.from_noise(lambda x, t: x, px.VP(), shape=(3,)), px.EDM(0.002, 160.0)
            ),
            "extrapolate=True",
        ),
        (
            lambda: px.ProbabilityFlow(
                px.from_noise(lambda x, t: x, px.VP(), shape=(3,)), px.EDM(0.009, 80.0)
            ),
            "extrapolate=True",
        ),
        (
            lambda: px.sample(edm(), 0, key=jax.random.key(0)),
            "count must be a whole number",
        ),
        (lambda: px.log_density(edm(), Z, t=80.0), "must lie before t_max=80.0"),
    ],
)
def test_bad_input_is_named(make, message, x32):
    with pytest.raises(ValueError, match=message):
        make()


def test_things_in_each_others_places_are_named():
    process, teacher = px.EDM(), gaussian()
    for arguments in ((process, teacher), (lambda x, t: x, process)):
        with pytest.raises(jaxtyping.TypeCheckError, match=r"'(denoiser|process)'"):
            px.ProbabilityFlow(*arguments)  # type: ignore[arg-type]
    with pytest.raises(jaxtyping.TypeCheckError, match="'clock'"):
        px.ProbabilityFlow(teacher, process, clock=process)  # type: ignore
    with pytest.raises(ValueError, match="clock must be an instance of AbstractClock"):
        px.ProbabilityFlow(teacher, process, clock=px.flow.TimeClock)  # type: ignore


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="tolerance"):
        px.solve(edm(), jnp.ones(3), tolerance=1e-3)  # pyright: ignore[reportCallIssue]


def test_one_precision_throughout(x64):
    flow = px.ProbabilityFlow(
        px.from_function(lambda x, s, a: x.astype(jnp.float64), shape=(3,)), px.EDM()
    )
    with pytest.raises(ValueError, match="dtype of its input, float32, got float64"):
        px.solve(flow, jnp.ones(3, jnp.float32))


def test_tolerances_may_be_traced(key, x64):
    flow, z = edm(), 80 * jnp.ones(3)
    ends = jax.jit(
        lambda rtol: px.solve(flow, z, rtol=rtol, solver=diffrax.Bosh3()).end
    )
    exact = gaussian().transport(z, (80.0, 1.0), (0.002, 1.0))
    assert (
        jnp.linalg.norm(ends(1e-7) - exact) < 1e-5 < jnp.linalg.norm(ends(0.1) - exact)
    )


@pytest.mark.slow
def test_bad_values_are_named_inside_jit_too():
    run = eqx.filter_jit(
        lambda z, ts: px.solve(edm(), z, times=ts, solver=diffrax.Heun()).end
    )
    good = jnp.array([80.0, 0.002])
    assert jnp.isfinite(run(jnp.ones(3), good)).all()
    with pytest.raises(eqx.EquinoxRuntimeError, match="z must be finite"):
        run(jnp.full(3, jnp.nan), good)
    with pytest.raises(eqx.EquinoxRuntimeError, match="strictly decrease"):
        run(jnp.ones(3), good[::-1])


def test_extrapolation_is_a_decision():
    model = px.from_noise(lambda x, t: 0.1 * x, px.VP(), shape=(3,))
    wide = px.EDM(sigma_max=1e3)
    flow = px.ProbabilityFlow(model, wide, extrapolate=True)
    assert jnp.isfinite(px.solve(flow, jnp.ones(3), **EULER).end).all()


def test_arguments_in_the_other_order_are_named():
    for wrap in (px.from_score, px.from_noise, px.from_velocity, px.from_function):
        with pytest.raises(ValueError, match=rf"Swap them: {wrap.__name__}.model, EDM"):
            wrap(px.EDM(), lambda x, t: x)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"in whose \(x, t\) the model answers"):
            wrap(lambda x, t: x, 3)  # type: ignore[arg-type]


def test_times_may_be_a_list(x32):
    """The same numbers as of an array, wherever times are taken."""
    flow = px.ProbabilityFlow(px.Gaussian(jnp.ones(2), jnp.ones(2)), px.EDM())
    times, array = [80, 1.0, 0.002], jnp.array([80, 1.0, 0.002])
    some, same = (
        px.student.Upwind().stencil(px.EDM(), t).rows.times for t in (times, array)
    )
    np.testing.assert_array_equal(some, same)
    np.testing.assert_array_equal(px.PID(flow, times=times).times, array)
    z = jnp.ones(2)
    some, same = (px.solve(flow, z, times=t, **EULER).xs for t in (times, array))
    np.testing.assert_array_equal(some, same)
