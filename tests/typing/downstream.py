"""A downstream user's code, as pyright sees it: checked in CI, never run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

import diffrax
import jax
from jaxtyping import Array, Float

import pidax as px
from pidax.evaluate import Report


class Cosine(px.AbstractProcess):
    """A process of one's own."""

    t_min: float
    t_max: float
    sigma_data: float

    def alpha(self, t: px.types.ElementwiseLike) -> Array:
        return jax.numpy.cos(jax.numpy.asarray(t))

    def sigma(self, t: px.types.ElementwiseLike) -> Array:
        return jax.numpy.sin(jax.numpy.asarray(t))

    def time(
        self, sigma: px.types.ElementwiseLike, alpha: px.types.ElementwiseLike = 1.0
    ) -> Array:
        return jax.numpy.arctan2(jax.numpy.asarray(sigma), jax.numpy.asarray(alpha))


def physics(mean: Float[Array, " x"], cov: Float[Array, "x x"]) -> Float[Array, " x"]:
    prior = px.Gaussian(mean, cov)
    flow = px.ProbabilityFlow(prior, px.EDM(sigma_data=0.7))
    own = px.ProbabilityFlow(
        px.from_score(lambda x, t: -x / (1 + t**2), px.VP(), shape=(3,)),
        Cosine(1e-3, 1.57, 0.5),
        clock=px.flow.AngleClock(),
        extrapolate=True,
    )
    z = flow.process.prior(jax.random.key(0), (3,))
    path = px.solve(
        flow,
        z,
        times=px.karras(18, px.EDM(), final_zero=True),
        solver=diffrax.Tsit5(),
        rtol=1e-5,
    )
    assert_type(path, px.flow.Path)
    density = px.log_density(
        own, path.end, trace=px.flow.Hutchinson(8), key=jax.random.key(1)
    )
    assert_type(density.value, Array)
    posterior = prior.posterior(jax.numpy.eye(3)[:1], jax.numpy.ones(1), 0.1)
    assert_type(posterior, px.Gaussian)
    guided = px.Guided(px.GaussianMixture.ring(), 2.0)
    draws = px.sample(
        px.ProbabilityFlow(guided, px.RectifiedFlow()), 4, key=jax.random.key(2)
    )
    px.solve_batch(flow, draws, steps=8, throw=False)
    return px.encode(flow, path.end).end


def training(data: Float[Array, "sample 2"]) -> px.Student:
    process = px.EDM()
    net = px.nn.MLP(2, 2, key=jax.random.key(0))
    run = px.fit(
        px.Preconditioned(px.nn.LowPrecision(net), process),
        px.DenoisingScoreMatching(process, law=px.distill.UniformAngle()),
        data=data,
        steps=10,
        batch_size=4,
        key=jax.random.key(1),
        directory="runs/here",
        callback=lambda step, terms, result: {"twice": 2 * terms["loss"]},
    )
    assert_type(run, px.Result[px.Preconditioned])
    assert_type(run.ema(0.999), px.Preconditioned)
    flow = px.ProbabilityFlow(run.ema(0.999), process)
    pairs = px.KnowledgeDistillation(flow, pairs=64, rtol=1e-3)
    student = px.Student(net, process)
    return px.fit(student, pairs, steps=10, batch_size=4, key=jax.random.key(2)).model


def comparing(flow: px.ProbabilityFlow, student: px.Student) -> float:
    report = px.compare(flow, student, key=jax.random.key(0), rtol=1e-6, classes=10)
    assert_type(report, Report)
    px.plot.trajectories(report, count=8).set_title("teacher over student")
    assert_type(report.euler.endpoint, dict[str, float])
    return report.endpoint_rms


def solving() -> Float[Array, "x y"]:
    darcy = px.pde.Darcy(px.pde.Grid((16, 16)))
    fields = darcy.sample(key=jax.random.key(0))
    assert_type(fields, px.pde.DarcyFields)
    assert_type(darcy.resolve(fields), px.pde.DarcyFields)
    data = px.pde.generate(darcy, 64, key=jax.random.key(1), path="data/darcy")
    assert_type(data, px.pde.Dataset[px.pde.DarcyFields])
    heat = px.pde.draw(px.pde.Heat(), 8, key=jax.random.key(2))
    assert_type(heat, px.pde.Evolution)
    return data.fields(0).solution + fields.coefficient


def mistakes() -> None:
    px.solve(px.EDM(), jax.numpy.ones(2))  # pyright: ignore[reportArgumentType]
    flow = px.ProbabilityFlow(px.Circle(), px.EDM())
    px.solve(flow, jax.numpy.ones(2), tolerance=1.0)  # pyright: ignore[reportCallIssue]
    px.solve(flow, jax.numpy.ones(2), rtol="1")  # pyright: ignore[reportArgumentType]
    px.karras("18", px.EDM())  # pyright: ignore[reportArgumentType]
    px.fit(flow, px.EDM(), steps=1, batch_size=1, key=jax.random.key(0))  # pyright: ignore[reportArgumentType]
    darcy, key = px.pde.Darcy(px.pde.Grid((16, 16))), jax.random.key(0)
    darcy.sample(key=key).solutoin  # pyright: ignore[reportAttributeAccessIssue]
    px.pde.draw(darcy, 8, key=key).source  # pyright: ignore[reportAttributeAccessIssue]
    data = px.pde.open("data/darcy", darcy)
    data.fields(0).solutoin  # pyright: ignore[reportAttributeAccessIssue]
    poisson = px.pde.Poisson(px.pde.Grid((16, 16))).sample(key=key)
    darcy.relative_residual(poisson)  # pyright: ignore[reportArgumentType]
