"""What is printed: one screen, the verdict first, with the right numbers in it."""

from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import fit, regression

import pidax as px

PICKLE = Path(__file__).parent / "data/edm_ddpmpp_uncond.pkl"


def test_a_run_shows_its_loss_steps_and_where_it_is(tmp_path):
    run = fit(directory=tmp_path, log_every=5, validation=regression(9, seed=1))
    loss, held = run.history["loss"], run.history["validation_loss"]
    lines = str(run).splitlines()
    assert repr(run) == str(run)
    assert lines[0].startswith("finished: 12 steps in ")
    assert lines[1].split() == (
        f"loss {loss[0]:.4g} at step 5, {loss[-1]:.4g} at step 12".split()
    )
    assert lines[2].split() == f"validation_loss {held[-1]:.4g} at step 12".split()
    assert lines[3].split() == ["model", "Line,", "averages:", "0.999"]
    assert lines[5].split() == ["saved", str(run.checkpoint)]
    assert len(lines) == 6
    assert run.seconds > 0
    # The hash is the configuration's: of another learning batch another.
    assert lines[4].split() == ["configuration", run.configuration]
    assert fit().configuration == fit(steps=9).configuration == run.configuration
    assert fit(batch_size=4).configuration != run.configuration


def test_a_run_that_was_stopped_says_so():
    def callback(step, terms, result):
        assert str(result).startswith("stopped: 4 of 12 steps")
        raise px.StopTraining

    run = fit(callback=callback, log_every=4)
    assert str(run).startswith("stopped: 4 of 12 steps in ")
    assert "no: pass directory= to fit" in str(run)


def test_a_teacher_and_a_student_take_a_screen(x32):
    """Of hundreds of arrays: their number, and what they are for."""
    teacher = px.convert.load_edm(PICKLE)
    leaves = jax.tree.leaves(teacher.network)
    count = sum(leaf.size for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact))
    for model in (teacher, px.Student.from_teacher(teacher, teacher.process)):
        lines = str(model).splitlines()
        name = f"{type(model).__name__} SongUNet: {count:,} parameters, float32"
        assert lines[0] == name
        assert lines[1].split(maxsplit=1) == ["process", repr(teacher.process)]
        assert lines[-1].endswith(f"of shape {teacher.shape}, without classes")
        assert len(lines) == 4
    network = px.nn.MLP(2, 2, width=4, depth=1, classes=7, key=jax.random.key(0))
    assert "of shape (2,), 7 classes" in str(px.Student(network, px.EDM()))


def test_an_integral_student_prints_its_nodes_in_a_few_lines():
    network = px.nn.MLP(2, 16, width=4, depth=1, key=jax.random.key(0))
    times = px.karras(8, px.EDM())
    student = px.IntegralStudent(network, px.EDM(), times, starts=2)
    shown = str(student).splitlines()
    assert len(shown) == 5
    assert shown[0].startswith("IntegralStudent MLP: ")
    assert shown[2].split() == ["nodes", "8", "from", "80", "to", "0.002,", "cubic"]
    assert shown[3].split() == ["starts", "80,", f"{times[4]:.3g}"]
    assert str(student.in_steps(2)) == f"in 2 steps: {student}"


@pytest.mark.slow
def test_a_log_density_shows_its_value(x64):
    """Of a Gaussian of the variance 1 + t_min^2 in two dimensions."""
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), jnp.ones(2)), px.EDM())
    solved = px.log_density(flow, jnp.ones(2), rtol=1e-5, solver=diffrax.Bosh3())
    exact = -np.log(2 * np.pi * (1 + 0.002**2)) - 1 / (1 + 0.002**2)
    text = str(solved)
    assert text.startswith("log-density ")
    assert abs(float(text.split()[1]) - exact) < 1e-3
    assert f", {int(solved.stats['evaluations'])} evaluations" in text
    seen = []
    jax.eval_shape(lambda x: seen.append(str(px.log_density(flow, x))), jnp.ones(2))
    assert "value=f64[]" in seen[0]


def test_coordinates_do_not_list_their_entries():
    grid = px.pde.Grid((12, 12))
    poisson = px.pde.Poisson(grid, px.pde.Matern(grid, modes=4))
    fields = px.pde.draw(poisson, 32, key=jax.random.key(0))
    stacked = jax.vmap(poisson.stack)(fields)
    chart = px.pde.Whitened.fit(stacked, given=poisson.given_mask)
    basis: Any = chart.basis
    assert len(basis.given) == grid.shape[0] ** 2
    assert len(str(chart).splitlines()) < 40
    assert max(map(len, str(chart).splitlines())) < 120


@pytest.mark.parametrize("kind", ["result", "directory", "file", "mapping"])
def test_one_history_is_drawn_whatever_it_is(kind, tmp_path):
    import matplotlib.pyplot as plt

    run = fit(directory=tmp_path, log_every=4, validation=regression(9), steps=8)
    given = {
        "result": run,
        "directory": tmp_path,
        "file": str(tmp_path / "metrics.jsonl"),
        "mapping": run.history,
    }[kind]
    _, ax = plt.subplots()
    px.plot.loss_curves(given, ax=ax)
    expected = np.stack([[4, 8], run.history["loss"]], axis=1)
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_xydata()), expected)
    if kind == "result":
        ax.clear()
        px.plot.loss_curves(run, term="validation_loss", ax=ax)
        last = [[8, run.history["validation_loss"][-1]]]
        np.testing.assert_allclose(np.asarray(ax.lines[0].get_xydata()), last)
    plt.close("all")
