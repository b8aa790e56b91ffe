"""Comparisons against closed-form trajectories, known offsets and solvers by hand."""

import dataclasses
import itertools
import json
import sys
import time
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance
from networks import Network, Trajectory

import pidax as px
from pidax.evaluate import FirstAnswer, Report, Solution
from pidax.evaluate._compare import half_distance
from pidax.evaluate._measure import (
    Along,
    Way,
    accurate,
    first_answers,
    two_sets,
    with_seconds,
)

KEY = jax.random.key(3)
COUNT, NODES = 48, 6
MEAN = np.array([0.4, 0.1])
COVARIANCE = np.array([[0.30, 0.17], [0.17, 0.12]])
# A reference by the program of the default solve, with another tolerance.
SAME: dict[str, Any] = dict(solver=diffrax.Tsit5(), rtol=1e-5)


def compared(student, flow, **options: Any) -> Report:
    """Blocks of twenty, the last filled up, not timed."""
    options = {"key": KEY, "block": 20, "repeats": 0, **options}
    return px.compare(flow, student, **options)


class Moved(eqx.Module):
    """The student, off by a vector whose length may depend on the noise."""

    student: px.Student
    by: jax.Array
    varying: bool = eqx.field(static=True)

    @property
    def process(self):
        return self.student.process

    def evaluations(self, condition):
        return 3

    def __call__(self, z, t, condition):
        size = jnp.abs(z[0]) if self.varying else 1.0
        return self.student(z, t, condition) + size * self.by


@pytest.fixture(scope="module")
def scene():
    """Gaussian data, their flow, the student that is exact, noise and times."""
    process = px.EDM()
    exact = px.Gaussian(jnp.asarray(MEAN, float), jnp.asarray(COVARIANCE, float))
    flow = px.ProbabilityFlow(exact, process)
    student = px.Student(Trajectory(exact, process), process, shape=(2,))
    z = process.prior(jax.random.key(1), (COUNT, 2))
    return flow, student, z, px.karras(NODES, process)


@pytest.fixture(scope="module")
def report(scene):
    flow, student, z, times = scene
    return compared(student, flow, z=z, times=times, paths=5, repeats=2)


@pytest.fixture(scope="module")
def moved(scene):
    """Off by 0.3|z_1| and 0.4|z_1|: each sample's error is |z_1|/2."""
    flow, student, z, times = scene
    student = Moved(student, jnp.array([0.3, 0.4]), True)
    return compared(student, flow, z=z, times=times, **SAME)


def transported(flow, z, times):
    """The states of Gaussian data in closed form: sample by time."""
    start = flow.process.level(flow.process.t_max)
    move = lambda z, t: flow.denoiser.transport(z, start, flow.process.level(t))
    return jax.vmap(jax.vmap(move, (None, 0)), (0, None))(z, times)


# --- several steps, and first answers ------------------------------------------------


class Knows(eqx.Module):
    """A "network" with the same clean samples for every state."""

    clean: jax.Array
    classes = None
    shape = (2,)

    def __call__(self, x, c_noise, condition=None, *, key=None):
        return (self.clean + 0.01 * x.sum()).reshape(-1)


def integral_student(process):
    clean = np.random.default_rng(2).normal(size=(8, 2))
    network = Knows(jnp.asarray(clean, float))
    return px.IntegralStudent(network, process, px.karras(8, process), starts=2)


def test_first_answers_are_compared_with_the_teacher_at_the_same_state(scene):
    """The denoiser of a Gaussian: mean + C (C + t^2)^-1 (x - mean)."""
    flow, exact, z, times = scene
    student = integral_student(flow.process)
    along = Along(z, times, None, 20, False, 0)
    found = first_answers(flow, student, along)
    assert found is not None
    assert [f.time for f in found] == pytest.approx(student.start_times)
    for k, answer in zip(student.start_nodes, found, strict=True):
        t = student.nodes[k]
        x = np.asarray(jax.jit(jax.vmap(lambda z, t=t: student(z, t)))(z), float)
        gain = COVARIANCE @ np.linalg.inv(COVARIANCE + t**2 * np.eye(2))
        wanted = MEAN + (x - MEAN) @ gain.T
        asked = x / np.sqrt(0.25 + t**2)  # c_in
        own = np.asarray(student.network.clean)[k] + 0.01 * asked.sum(1, keepdims=True)
        assert_close(answer.error, np.sqrt(np.mean((own - wanted) ** 2)), 2e-5)
        assert_close(answer.size, np.sqrt(np.mean(wanted**2)), 2e-5)
    # This network answers zero at t_max; what is no student of a network is not asked.
    only = first_answers(flow, exact, along)
    assert only is not None
    assert only == [FirstAnswer(80.0, only[0].size, only[0].size)]
    assert first_answers(flow, Moved(exact, jnp.zeros(2), False), along) is None


@pytest.mark.slow
def test_each_number_of_steps_is_a_row(scene):
    flow, _, z, times = scene
    student = integral_student(flow.process)
    report = compared(student, flow, z=z, times=times, **SAME)
    two = report.in_steps[2]
    assert list(report.solutions)[:3] == ["student", "student_in_2", "adaptive"]
    assert (report.student.evaluations, two.evaluations) == (1, 2)
    ends = jax.vmap(student.in_steps(2).sample)(z)
    assert_close(two.end, ends, 1e-4)
    assert abs(ends - report.student.end).max() > 1e-2
    text = str(report)
    assert "student, 2 steps" in text
    assert f"asked at t = {student.start_times[1]:.4g}" in text
    assert len(report.as_dict()["first_answers"]) == 2


@pytest.mark.slow
def test_a_solver_by_name_is_a_row(scene):
    """DDIM is Euler's method for EDM; a pair brings its own steps."""
    flow, exact, z, times = scene
    fast = px.solver.DPMSolverFast(7)
    solvers = {"DDIM": px.solver.DDIM(), "fast": (fast, fast.steps)}
    report = compared(exact, flow, z=z, times=times, solvers=solvers, **SAME)
    ddim = report.solvers["DDIM"]
    assert_close(ddim.end, report.euler.end, 1e-4)
    assert ddim.evaluations == report.euler.evaluations == len(times) - 1
    assert report.solvers["fast"].evaluations == 7
    assert "teacher, fast" in str(report)
    assert "solver_fast" in report.as_dict()
    with pytest.raises(ValueError, match=r"maps names to solvers, .* got int. Pass"):
        compared(exact, flow, z=z, times=times, solvers={"none": 3}, **SAME)


# --- errors --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_student_that_is_exact_has_the_error_of_the_reference(scene, report):
    flow, _, z, times = scene
    exact = transported(flow, z, times)
    assert_close(report.reference.end, exact[:, -1], tolerance(z.dtype, 2), 2e-5)
    assert report.endpoint_rms < {4: 3e-5, 8: 1e-7}[z.dtype.itemsize]
    assert report.endpoint_rms < report.adaptive.endpoint_rms < 1e-3
    assert report.adaptive.endpoint_rms < report.heun.endpoint_rms
    assert_close(report.student.paths, exact[:5], tolerance(z.dtype, 10), 1e-5)
    assert (report.reference.errors == 0).all()


@pytest.mark.slow
def test_a_student_off_by_a_vector_is_off_by_its_length(scene):
    flow, student, z, times = scene
    report = compared(
        Moved(student, jnp.array([3.0, -4.0]), False), flow, z=z, times=times
    )
    assert_close(report.student.errors, np.full((COUNT, NODES), 5.0), 2e-5)
    assert_close(list(report.endpoint.values()), [5.0] * 4, 2e-5)
    # A shift of the samples shifts their law: W_2^2 = |shift|^2 / 2 on average.
    assert report.student.sliced_wasserstein == pytest.approx(5 / 2**0.5, rel=0.05)
    assert report.student.mmd is not None
    assert report.student.mmd > 0.3


def test_statistics_are_over_samples_at_each_time(scene, moved):
    _, _, z, times = scene
    expected = np.abs(np.asarray(z[:, 0], float)) / 2
    along = moved.student.along
    for name, number in (
        ("rms", np.sqrt(np.mean(expected**2))),
        ("median", np.median(expected)),
        ("p99", np.quantile(expected, 0.99)),
        ("max", expected.max()),
    ):
        assert_close(along[name], np.full(NODES, number), 1e-4)
        assert moved.endpoint[name] == along[name][-1]
    summary = px.metrics.error_summary(moved.student.end, moved.reference.end)
    assert moved.endpoint == pytest.approx(summary, rel=1e-6)
    size = np.sqrt(2) * np.sqrt(0.5**2 + np.asarray(times, float) ** 2)
    assert_close(moved.relative(along["rms"]), along["rms"] / size, 1e-5)
    assert moved.student.evaluations == 3


@pytest.mark.slow
def test_errors_per_component_are_smaller_by_the_root_of_their_number(scene, moved):
    flow, _, z, times = scene
    student = Moved(scene[1], jnp.array([0.3, 0.4]), True)
    each = compared(student, flow, z=z, times=times, per_component=True)
    assert_close(each.student.errors, moved.student.errors / np.sqrt(2), 1e-5)
    ours, theirs = (r.relative(r.student.along["rms"]) for r in (each, moved))
    assert_close(ours, theirs, 1e-5)


def test_samples_that_end_elsewhere_are_counted_apart():
    """Nine errors of 0.1 and 0.3, and one of 5: by hand."""
    errors = np.array([[9.0, e] for e in [0.1] * 8 + [0.3, 5.0]])
    some = Solution("some", 1.0, errors, errors, errors)
    assert_close(some.elsewhere(1.0), (0.1, np.sqrt((8 * 0.01 + 0.09) / 9)), 1e-12)
    assert_close(some.elsewhere(), (0.1, np.sqrt((8 * 0.01 + 0.09) / 9)), 1e-12)
    assert_close(some.elsewhere(0.2), (0.2, 0.1), 1e-12)
    assert some.elsewhere(0.0)[0] == 1.0
    # Neighbours on a ring of eight: 2 r sin(pi / 8), of which half.
    ring, half = px.GaussianMixture.ring(8, radius=0.7), 0.7 * np.sin(np.pi / 8)
    assert_close(half_distance(ring, False), half, 1e-6)
    assert_close(half_distance(ring, True), half / np.sqrt(2), 1e-6)
    assert half_distance(px.Circle(0.7), False) is None


# --- the teacher on the student's grid -----------------------------------------------


def by_hand(slope, grid, heun):
    """Euler's or Heun's method for dx/ds = slope(x, s), one step after another."""

    def steps(x):
        xs = [x]
        for s, later in itertools.pairwise(grid):
            step, first = later - s, slope(x, s)
            mean = (first + slope(x + step * first, later)) / 2 if heun else first
            x = x + step * mean
            xs.append(x)
        return np.stack(xs, axis=1)

    return steps


def denoised(x, t):
    """E[x0 | x] of the Gaussian data at noise level t."""
    gain = COVARIANCE @ np.linalg.inv(COVARIANCE + t**2 * np.eye(2))
    return MEAN + (x - MEAN) @ gain.T


def test_euler_and_heun_are_those_written_by_hand(scene, moved):
    """In EDM's own (x, t): dx/dt = (x - D)/t."""
    _, _, z, times = scene
    grid = np.asarray(times, float)
    slope = lambda x, t: (x - denoised(x, t)) / t
    accuracy = tolerance(z.dtype, 20)
    ends = []
    for solution, heun in ((moved.euler, False), (moved.heun, True)):
        xs = by_hand(slope, grid, heun)(np.asarray(z, float))
        assert_close(solution.end, xs[:, -1], accuracy)
        assert_close(solution.paths, xs, accuracy)
        ends.append(xs)
    off = [np.linalg.norm(moved.student.end - xs[:, -1], axis=1) for xs in ends]
    assert_close(moved.student_to_euler[:, -1], off[0], accuracy)
    assert_close(moved.student_to_heun[:, -1], off[1], accuracy)


@pytest.mark.slow
def test_evaluations_are_the_ledgers(scene, report):
    flow, _, z, times = scene
    assert report.student.evaluations == 1
    assert report.euler.evaluations == NODES - 1
    assert report.heun.evaluations == 2 * (NODES - 1)
    solved = [
        px.solve_batch(flow, some, times=times).evaluations()[0]
        for some in (z[:20], z[20:40], z[40:])
    ]
    assert report.adaptive.evaluations == np.mean(solved)
    assert report.reference.evaluations > report.adaptive.evaluations


@pytest.mark.slow
def test_a_grid_and_a_clock_of_ones_own(scene):
    """In the angle: dy/dphi = (y cos - D/sd)/sin, on another grid than the times."""
    flow, student, z, times = scene
    grid = px.karras(11, flow.process)
    report = compared(
        student, flow, z=z, times=times, grid=grid, clock=px.flow.AngleClock(), paths=0
    )
    scale = lambda phi: 0.5 / np.cos(phi)  # x = y scale, t = sd tan(phi)

    def slope(y, phi):
        clean = denoised(y * scale(phi), 0.5 * np.tan(phi))
        return (y * np.cos(phi) - clean / 0.5) / np.sin(phi)

    phi = np.arctan2(np.asarray(grid, float), 0.5)
    for solution, heun in ((report.euler, False), (report.heun, True)):
        ys = by_hand(slope, phi, heun)(np.asarray(z, float) / scale(phi[0]))
        assert_close(solution.end, ys[:, -1] * scale(phi[-1]), tolerance(z.dtype, 50))
        assert solution.paths.shape == (0, NODES, 2)
    assert (report.euler.evaluations, report.heun.evaluations) == (10, 20)
    assert "Euler, 10 steps" in str(report)
    assert report.settings["clock"] == "AngleClock"


# --- conditions ----------------------------------------------------------------------


class Labelled(eqx.Module):
    """Solves the mixture of one isotropic Gaussian a class, at the label plus one."""

    process: Any
    means: jax.Array
    error: int = eqx.field(static=True)

    def __call__(self, z, t, condition):
        mean = self.means[(condition + self.error) % 2]
        start, end = self.process.level(self.process.t_max), self.process.level(t)
        return px.Gaussian(mean, 0.1**2).transport(z, start, end)


@pytest.mark.slow
def test_labels_ride_through_teacher_student_and_samples():
    process, means = px.EDM(), jnp.array([[0.6, 0.0], [-0.6, 0.0]])
    teacher = px.GaussianMixture(means, 0.1, labels=jnp.array([0, 1]))
    flow = px.ProbabilityFlow(teacher, process)
    times = px.karras(2, process)
    options = {"count": COUNT, "times": times, "rtol": 1e-5, "solver": diffrax.Tsit5()}
    draw = lambda error, **some: compared(
        Labelled(process, means, error), flow, **options, **some
    )
    right, wrong = draw(0, classes=2), draw(1, classes=2)
    assert set(right.condition) == {0, 1}
    assert right.endpoint["max"] < 1e-4
    # The classes lie 1.2 apart; so do the samples, but for the noise that is left.
    assert_close(wrong.student.errors[:, -1], np.full(COUNT, 1.2), 2e-3)
    assert right.floor is not None
    nearest = (np.asarray(means)[right.condition] - right.floor.samples)[:, 0]
    assert (np.abs(nearest) < 0.6).all()
    one = draw(0, condition=1)
    assert one.endpoint["max"] < 1e-4
    assert (one.condition == 1).all()
    assert (one.reference.end[:, 0] < 0).all()
    assert one.settings["conditional"]


# --- laws ----------------------------------------------------------------------------


@pytest.mark.slow
def test_laws_are_compared_at_one_bandwidth_with_their_floor(report):
    floor = report.floor
    assert floor is not None
    assert floor.source == "exact samples"
    assert len(floor.samples) == COUNT
    h = floor.bandwidth
    assert_close(h, px.metrics.median_bandwidth(floor.samples), 1e-6)
    for solution in (*report.solutions.values(), report.reference):
        squared = px.metrics.mmd(solution.end, floor.samples, bandwidth=h)
        assert_close(solution.mmd, squared, 1e-6)
    # The student's law is exact: its distances are floors, too.
    assert 0 < report.student.sliced_wasserstein < 4 * floor.sliced_wasserstein
    assert abs(report.student.mmd) < 0.1
    assert abs(floor.mmd) < 0.1
    spread = np.cov(floor.samples.T)
    assert_close(spread, COVARIANCE, 0.5, 0.12)


def test_held_out_data_are_halved(scene, moved):
    flow, _, z, times = scene
    data = np.random.default_rng(0).normal(size=(2 * COUNT + 1, 2)).astype(z.dtype)
    sets = two_sets(flow.denoiser, data, None, 999, key=KEY)
    assert sets is not None
    assert sets.first.shape == sets.second.shape == (COUNT, 2)
    rows = {tuple(row) for row in data}
    halves = [{tuple(row) for row in np.asarray(some)} for some in sets[:2]]
    assert len(halves[0] | halves[1]) == 2 * COUNT
    assert halves[0] | halves[1] <= rows
    smaller = two_sets(flow.denoiser, data, None, 4, key=KEY)
    assert smaller is not None
    assert len(smaller.first) == 4
    student = Moved(scene[1], jnp.array([0.3, 0.4]), True)
    report = compared(student, flow, z=z, times=times, samples=data, **SAME)
    assert report.floor is not None
    assert report.floor.source == "held-out samples"
    assert "other held-out samples" in str(report)
    assert {tuple(row) for row in report.floor.samples} < rows
    assert report.endpoint == moved.endpoint
    assert report.student.mmd != moved.student.mmd


@pytest.mark.slow
def test_without_clean_samples_paths_alone_are_compared(scene, report):
    flow, *_ = scene
    wrapped = px.from_function(flow.denoiser, shape=(2,))
    assert two_sets(wrapped, None, None, 99, key=KEY) is None
    assert two_sets(flow.denoiser, None, None, 1, key=KEY) is None
    bare = dataclasses.replace(report, floor=None)
    assert "MMD" in str(report)
    assert "MMD" not in str(bare)
    assert bare.as_dict()["floor"] is None


# --- cost, text and files ------------------------------------------------------------


@pytest.mark.slow
def test_seconds_speed_up_and_samples_a_second(report, moved):
    ours = report.student.seconds
    assert ours is not None
    assert ours > 0
    assert report.settings["batch"] == 20
    for name, solution in report.solutions.items():
        assert report.speed_up(name) == solution.seconds / ours
        assert report.samples_per_second(name) == 20 / solution.seconds
    assert report.speed_up("student") == 1
    assert report.reference.seconds is None
    assert moved.speed_up("euler") is moved.samples_per_second("student") is None


def test_seconds_are_the_median_of_calls_after_the_first(moved, scene):
    """A way that takes its time: 400 ms to compile, then 50, 300 and 50 ms."""
    _, _, z, times = scene
    waits = iter([0.4, 0.05, 0.3, 0.05])

    def end(z, condition):
        time.sleep(next(waits))
        return z

    way = Way("slow", lambda z, times, condition: (z, 1.0), end)
    along = Along(z, times, None, 20, False, 0)
    solved = with_seconds({"slow": moved.euler}, {"slow": way}, along, 3)
    seconds = solved["slow"].seconds
    assert seconds is not None
    assert 0.05 <= seconds < 0.3


@pytest.mark.slow
def test_the_table_is_aligned_and_says_its_numbers(report, moved):
    text = str(report)
    lines = text.split("\n")
    assert max(map(len, lines)) <= 88
    assert f"{report.endpoint_rms:.1e}" in text
    row = next(line for line in lines if line.startswith("teacher, Heun, 5 steps"))
    numbers = [
        f"{report.heun.endpoint[n]:.1e}" for n in ("rms", "median", "p99", "max")
    ]
    assert row.split()[4:] == ["10", *numbers]
    assert f"{report.settings['options']['rtol']}" in text
    assert "samples/s" in text
    assert "samples/s" not in str(moved)
    starts = [f"{t:>10.4g}" for t in report.times]
    assert sum(line[:10] in starts and len(line) > 80 for line in lines) == NODES


@pytest.mark.slow
def test_long_paths_and_grids_of_steps_are_abbreviated(report):
    many = np.repeat(report.times, 3)
    options = {"steps": list(many)}
    long = dataclasses.replace(
        report,
        times=many,
        scale=np.repeat(report.scale, 3),
        student=dataclasses.replace(
            report.student, errors=np.repeat(report.student.errors, 3, axis=1)
        ),
        settings={**report.settings, "options": options},
        **{
            name: dataclasses.replace(some, errors=np.repeat(some.errors, 3, axis=1))
            for name, some in report.solutions.items()
            if name != "student"
        },
    )
    text = str(long)
    assert "(10 of 18 times)" in text
    assert "steps=18 times" in text
    assert max(map(len, text.split("\n"))) <= 88


def test_a_saved_report_is_plain_json_of_the_same_numbers(moved, tmp_path):
    path = tmp_path / "report.json"
    moved.save(path)
    found = json.loads(path.read_text())
    assert found == json.loads(json.dumps(moved.as_dict()))
    assert found["student"]["endpoint"] == moved.endpoint
    assert found["euler"]["along"]["rms"] == moved.euler.along["rms"].tolist()
    assert found["student_to_heun"]["max"][-1] == moved.student_to_heun[:, -1].max()
    assert found["settings"]["process"] == {
        "name": "EDM",
        "t_min": 0.002,
        "t_max": 80.0,
        "sigma_data": 0.5,
    }
    assert found["settings"]["dtype"] == str(moved.z.dtype)


def test_what_is_not_finite_is_saved_as_null(moved, tmp_path):
    student = dataclasses.replace(moved.student, mmd=float("nan"))
    path = tmp_path / "vast.json"
    dataclasses.replace(moved, student=student).save(path)
    saved = json.loads(path.read_text())
    assert saved["student"]["mmd"] is None
    assert saved["euler"]["mmd"] == moved.euler.mmd


def test_the_reference_is_accurate_unless_told_otherwise():
    single, double = np.dtype(np.float32), np.dtype(float)
    assert accurate({}, single) == {"rtol": 1e-5, "solver": diffrax.Dopri8()}
    assert accurate({"max_steps": 9}, double)["rtol"] == 1e-8
    assert accurate({"solver": diffrax.Tsit5()}, double)["solver"] == diffrax.Tsit5()
    for own in ({"rtol": 1e-3}, {"atol": 1e-3}, {"steps": 8}):
        assert accurate(own, double) == own


# --- what is refused -----------------------------------------------------------------


def test_a_student_that_returns_nan_is_named_with_time_and_samples(scene):
    flow, student, z, times = scene

    class Broken:
        process = flow.process

        def __call__(self, z, t, condition):
            return jnp.where((t < 1) & (z[0] > 0), jnp.nan, student(z, t, condition))

    first = np.asarray(z[:20, 0]) > 0
    t = float(times[np.asarray(times) < 1][0])
    message = (
        f"NaN or infinity at t={t:.6g} in {first.sum()} of 20 samples, the first at "
        f"index {first.argmax()}"
    )
    with pytest.raises(ValueError, match=message):
        compared(Broken(), flow, z=z, times=times)


def refused(name):
    """A bad call: options beside a good flow and student, or another student."""
    process = px.EDM()
    z = np.ones((4, 2))
    students = {
        "no student": Network(2),
        "other process": px.Student(Network(2), px.EDM(sigma_max=40.0)),
        "other shape": px.Student(Network(3), process),
        "no classes": px.Student(Network(2), process),
        "too few classes": px.Student(Network(2, classes=3), process),
        "wrong output": Slices(process),
    }
    grid = px.karras(5, process, final_zero=True)
    options = {
        "no classes": {"classes": 4},
        "too few classes": {"classes": 4},
        "labels twice": {"classes": 4, "condition": 1},
        "short condition": {"condition": np.zeros(3, int), "z": z},
        "wrong z": {"z": np.ones((4, 3))},
        "infinite z": {"z": np.full((4, 2), np.inf)},
        "final zero": {"times": grid},
        "bad grid": {"grid": grid[1:-1]},
        "few held-out": {"samples": np.ones((3, 2))},
        "infinite held-out": {"samples": np.full((9, 2), np.nan)},
        "no samples": {"count": 0},
        "no paths": {"paths": -1},
        "unknown option": {"tolerance": 1.0},
        "silent failure": {"throw": False},
    }
    good = px.Student(Network(2), process, shape=(2,))
    return students.get(name, good), options.get(name, {})


class Slices(eqx.Module):
    """Returns less than it was given."""

    process: Any

    def __call__(self, z, t, condition):
        return z[:1]


REFUSED = {
    "no student": r"expects a student, .* got Network.*pass result.model",
    "other process": r"must have the same process, got .*sigma_max=40,.*one object",
    "other shape": r"samples have the shape \(2,\), the student's \(3,\)",
    "no classes": "labels of 4 classes are drawn, but the student knows none",
    "too few classes": "the student knows 3. Pass classes=3, or make it with 4",
    "labels twice": "classes=4 draws labels, but condition= gives them already",
    "short condition": r"expected length 4, got shape \(3,\)",
    "wrong z": r"with samples of \(2,\), got \(4, 3\)",
    "infinite z": "z must be finite, got NaN or infinite entries in 8 of 8",
    "final zero": "(?s)times must be .* decrease from t_max to .*without a final zero",
    "bad grid": "grid must be .* decrease from t_max to t_min, here from 80.0",
    "few held-out": r"at least 4 samples of the shape \(2,\).* got \(3, 2\)",
    "infinite held-out": "samples must be finite, got NaN .* in 18 of 18",
    "no samples": "count must be a whole number of at least 1, got count=0",
    "no paths": "paths must be a whole number of at least 0, got paths=-1",
    "silent failure": "got throw=False. Leave throw= out",
    "wrong output": r"one state of the shape of z, \(2,\), got \(1,\)",
    "unknown option": r"unknown option \['tolerance'\]",
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_named_before_anything_is_solved(name, monkeypatch):
    """At once: the solves are replaced by a failure."""
    monkeypatch.setattr(sys.modules["pidax.evaluate._compare"], "follow", None)
    student, options = refused(name)
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), px.EDM())
    kind = TypeError if name == "unknown option" else ValueError
    with pytest.raises(kind, match=REFUSED[name]):
        px.compare(flow, student, key=KEY, **options)


def test_an_unknown_shape_is_asked_for():
    denoiser = px.from_function(lambda x, sigma, alpha: 0 * x)
    student = px.Student(lambda x, *_, **__: x, px.EDM())
    flow = px.ProbabilityFlow(denoiser, px.EDM(), extrapolate=True)
    with pytest.raises(ValueError, match=r"one sample is not known.* Pass z="):
        px.compare(flow, student, key=KEY)
