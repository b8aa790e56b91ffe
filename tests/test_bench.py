"""The bench: what is run, kept and shown is what its configuration says."""

import dataclasses
import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import bench
from benchmarks.bench import (
    _configuration,
    _marks,
    _registry,
    _rows,
    _runner,
    _tables,
)
from helpers import assert_close

import pidax as px

ROOT = Path(__file__).parent.parent
RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Recipe:
    width: int = 4
    seed: int = 0
    distance: object = dataclasses.field(default_factory=px.distill.L2)


def helper(x):
    return RATE * x


def network(recipe):
    """Made from the recipe, by a helper with a constant of its own."""
    return helper(np.arange(recipe.width, dtype=float) + recipe.seed)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A suite of its own, with results and artefacts in a folder of its own."""
    suites = {"toy": _registry.Suite("toy")}
    monkeypatch.setattr(_registry, "SUITES", suites)
    monkeypatch.setattr(_rows, "RESULTS", tmp_path / "results")
    with bench.store_at(tmp_path / "store"):
        yield suites["toy"]


def register(answers, rate=1.0):
    """A problem and a method; each call of the method leaves a mark."""

    @bench.problem("toy", label="a line")
    def line(quick):
        return Recipe(width=2 if quick else 8)

    class Sum:
        def configuration_on(self, problem):
            return {"rate": rate}

        def __call__(self, problem, seed, quick):
            answers.append((problem.width, seed))
            return bench.Outcome({"error": rate * problem.width + seed})

    bench.method("toy", "sum", seeds=(0, 1))(Sum())


# --- the hash ------------------------------------------------------------------------


def test_another_recipe_is_never_served_an_old_artefact(tmp_path, monkeypatch):
    """The hazard: a changed recipe, or a changed constant or helper of its maker."""
    made = lambda *recipe: bench.kept("network", network, *recipe)
    with bench.store_at(tmp_path):
        first, note = made(Recipe())
        again, _ = made(Recipe())
        np.testing.assert_array_equal(first, again)
        assert len(list(tmp_path.rglob("*.json"))) == 1
        wider, _ = made(Recipe(width=5))
        assert wider.shape == (5,)
        other, _ = made(Recipe(seed=3))
        np.testing.assert_allclose(other, first + 0.3, rtol=1e-12)
        monkeypatch.setattr(sys.modules[__name__], "RATE", 0.2)
        np.testing.assert_allclose(made(Recipe())[0], 2 * first)
        monkeypatch.setattr(sys.modules[__name__], "helper", twice)
        np.testing.assert_allclose(made(Recipe())[0], 20 * first)
        assert len(list(tmp_path.rglob("*.json"))) == 5
    assert note["seconds"] >= 0


def twice(x):
    return 2 * x


def test_another_source_or_library_is_another_artefact(tmp_path, monkeypatch):
    from benchmarks.bench import _store

    with bench.store_at(tmp_path):
        first = bench.kept("network", network, Recipe())[1]["hash"]
        now = _store.versions()
        for name in ("pidax", "jax", "optax"):
            monkeypatch.setattr(_store, "versions", lambda n=name: {**now, n: "other"})
            assert bench.kept("network", network, Recipe())[1]["hash"] != first


def test_every_field_of_a_recipe_of_the_suites_changes_the_hash():
    """Network, data, optimiser, steps, times, distance: each by itself."""
    from benchmarks.pid.problems import (
        Network,
        Taught,
        Vectors,
        digits_data,
        digits_train,
    )
    from benchmarks.pid.students import Distilled, Grid

    bench.suite("pid")
    problem = bench.SUITES["pid"].problems["learned"].made(quick=True)
    assert isinstance(problem, Vectors)
    digest = lambda p: bench.digest(p)
    assert problem.taught is not None
    changed = {
        "network": Network(64, width=33, depth=2),
        "batch_size": 65,
        "steps": {**problem.steps, "kd": 21},
        "optimiser": "Muon",
        "ema": 0.98,
        "law": functools.partial(px.GaussianMixture.ring, 8, radius=0.7),
        "taught": dataclasses.replace(problem.taught, rate=1e-3),
        "held_out": digits_train,
        "sigma_data": 0.5,
        "count": 127,
        "truth_count": 127,
        "tolerance": 1e-4,
        "times": 8,
        "per_component": False,
    }
    assert set(changed) == {f.name for f in dataclasses.fields(problem)}
    hashes = {
        digest(dataclasses.replace(problem, **{k: v})) for k, v in changed.items()
    }
    assert len(hashes - {digest(problem)}) == len(changed)
    assert digest(Taught(digits_train)) != digest(Taught(digits_data))
    one = lambda how: bench.digest(how.configuration_on(problem))
    ways = [
        Distilled("ours"), Distilled("paper"), Distilled("kd"),
        Distilled("ours", choices={"times": Grid(18)}),
        Distilled("ours", choices={"times": Grid(18, "even angles")}),
        Distilled("ours", choices={"distance": px.distill.L1()}),
        Distilled("ours", choices={"distance": px.distill.PseudoHuber()}),
        Distilled("ours", choices={"slow": 0.9}),
        Distilled("ours", choices={"derivative": px.student.Central()}),
        Distilled("ours", choices={"derivative": px.student.Central("nodes")}),
        Distilled("ours", scale=2), Distilled("ours", random_start=True),
        Distilled("ours", steps=10), Distilled("ours", optimiser="Muon"),
    ]  # fmt: skip
    assert len({one(how) for how in ways}) == len(ways)
    # The words of a table are no part of what is run.
    assert one(Distilled("ours", "said otherwise")) == one(Distilled("ours"))


def test_what_the_recipe_calls_ours_is_what_pidax_does(monkeypatch):
    from benchmarks.pid.students import CHOICES

    bench.suite("pid")
    problem = bench.SUITES["pid"].problems["ring"].made(quick=True)
    # Its weights are no choice, and dear to compute.
    monkeypatch.setattr(px.student.SolverStep, "stencil", lambda *_: None)
    plain = px.PID(problem.flow)
    ours = CHOICES["ours"]
    assert set(ours) == {"times", "derivative"}
    np.testing.assert_array_equal(plain.times, ours["times"].times(problem.process))
    same = _configuration.describe
    assert same(plain.derivative) == same(ours["derivative"])
    integral = CHOICES["integral"]
    assert set(integral) == {"weighting", "reach", "distance"}
    assert plain.reach == integral["reach"]
    network = lambda x, c_noise: jnp.tile(x, 20)
    student = px.IntegralStudent(
        network, problem.process, px.karras(20, problem.process), shape=(2,)
    )
    assert same(plain._weighting(student)) == same(integral["weighting"])
    assert same(plain._distance(student)) == same(integral["distance"])


def test_comments_and_docstrings_change_no_hash(tmp_path):
    def source(text):
        file = tmp_path / "recipe_of_a_test.py"
        file.write_text(text)
        space = {"__name__": "recipe_of_a_test", "__file__": str(file)}
        sys.modules["recipe_of_a_test"] = type(sys)("recipe_of_a_test")
        vars(sys.modules["recipe_of_a_test"]).update(space)
        exec(compile(text, str(file), "exec"), vars(sys.modules["recipe_of_a_test"]))
        import linecache

        linecache.checkcache()
        found = bench.digest(sys.modules["recipe_of_a_test"].make)
        del sys.modules["recipe_of_a_test"]
        return found

    plain = source("def make():\n    return 1\n")
    assert source('def make():\n    """Says."""\n    # more\n    return  1\n') == plain
    assert source("def make():\n    return 2\n") != plain


def test_values_that_are_equal_are_described_alike():
    same = _configuration.describe
    assert same(np.float64(0.5)) == same(0.5) == 0.5
    assert same((1, 2)) == same([1, 2])
    single = np.arange(3, dtype=np.float32)
    assert same(single) == same(jax.numpy.asarray(single))
    assert bench.digest({"a": 1, "b": 2}) == bench.digest({"b": 2, "a": 1})
    assert bench.digest(1) != bench.digest(1.5)
    assert bench.digest(np.zeros(2)) != bench.digest(np.zeros(3))
    assert bench.digest(np.zeros(2)) != bench.digest(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: x, r"expected a named function .* got a lambda .*write it with def"),
        (object(), r"expected a configuration of numbers.*got .*give it a method"),
    ],
)
def test_what_cannot_be_described_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        bench.digest({"recipe": value})


# --- rows ----------------------------------------------------------------------------


def test_a_row_written_is_a_row_read_and_is_not_made_again(toy):
    answers = []
    register(answers)
    made, failed = bench.run(["toy"])
    assert not failed
    assert answers == [(8, 0), (8, 1)]
    assert [row["error"] for row in made] == [8.0, 9.0]
    assert bench.read("toy") == made
    first = made[0]
    assert first.key == ("toy", "line", "sum", 0)
    assert _rows.consistent(first)
    assert first.cost["seconds"] >= 0
    for name in ("command", "commit", "versions", "dtype", "date", "machine"):
        assert name in first.provenance
    assert "--problem line --method 'sum' --seed 0" in first.provenance["command"]
    assert bench.run(["toy"]) == ((), [])
    assert len(answers) == 2
    again, _ = bench.run(["toy"], seed=1, again=True)
    assert [row.seed for row in again] == [1]
    assert len(bench.read("toy")) == 2


def test_a_changed_recipe_is_run_and_takes_the_old_rows_place(toy):
    answers = []
    register(answers)
    bench.run(["toy"], seed=0)
    toy.problems.clear()
    toy.methods.clear()
    register(answers, rate=3.0)
    (row,), _ = bench.run(["toy"], seed=0)
    assert row["error"] == 24.0
    assert bench.read("toy") == (row,)


def test_quick_leaves_the_results_alone(toy, tmp_path):
    answers = []
    register(answers)
    bench.run(["toy"], seed=0)
    before = (tmp_path / "results/toy.json").read_text()
    made, _ = bench.run(["toy"], quick=True)
    assert [row["error"] for row in made] == [2.0]  # small, and one seed
    assert (tmp_path / "results/toy.json").read_text() == before


def test_a_row_that_fails_is_named_and_the_others_are_made(toy, capsys):
    answers = []
    register(answers)

    @bench.method("toy")
    def broken(problem, seed, quick):
        raise RuntimeError("no such thing")

    made, failed = bench.run(["toy"], seed=0)
    assert failed == ["toy: line x broken, seed 0"]
    assert len(made) == 1
    assert "no such thing" in capsys.readouterr().err


def test_quick_runs_each_problem_and_each_method(toy):
    for name in ("a", "b", "c"):
        bench.problem("toy", name, quick=name != "c")(lambda quick: 0)
    bench.problem("toy", "other", kind="other")(lambda quick: 0)
    for name, on in {"first": ("",), "second": ("",), "third": ("other",)}.items():
        bench.method("toy", name, on=on)(lambda problem, seed, quick: None)
    bench.method("toy", "slow", quick=False)(lambda problem, seed, quick: None)
    names = [(p.name, m.name) for p, m in bench.pairs(toy, quick=True)]
    # A method has a problem of its own as far as there is one; "c" is not quick.
    assert names == [("a", "first"), ("b", "second"), ("other", "third")]
    every = [(p.name, m.name) for p, m in bench.pairs(toy)]
    assert len(every) == 3 * 3 + 1
    some = [m.name for _, m in bench.pairs(toy, "a", "s*")]
    assert some == ["second", "slow"]


# --- names ---------------------------------------------------------------------------


def test_unknown_names_are_answered_with_those_there_are(toy):
    register([])
    line = r"expected a {} of the suite toy, one of {}; got '{}'; .*list"
    with pytest.raises(ValueError, match=line.format("problem", "line", "lime")):
        bench.run(["toy"], "lime")
    with pytest.raises(ValueError, match=line.format("method", "sum", "product")):
        bench.run(["toy"], "line", "product")
    with pytest.raises(ValueError, match=r"expected a suite, one of toy; got 'tie'"):
        bench.run(["tie"])
    with pytest.raises(
        ValueError, match=r"expected a new name .*'sum', which is taken"
    ):
        register_again()
    bench.problem("toy", "lonely", kind="alone")(lambda quick: 0)
    with pytest.raises(ValueError, match=r"--problem lonely .*do not go together"):
        bench.run(["toy"], "lonely", "sum")


def register_again():
    bench.method("toy", "sum")(lambda problem, seed, quick: None)


# --- tables --------------------------------------------------------------------------


def test_a_problem_and_a_method_added_to_a_suite_are_in_its_tables(toy, monkeypatch):
    """Two functions, and nothing else: the generic table shows both."""
    register([])

    @bench.problem("toy")
    def circle(quick):
        return Recipe(width=3)

    @bench.method("toy")
    def mean(problem, seed, quick):
        return bench.Outcome({"error": problem.width / 2})

    bench.run(["toy"])
    assert _tables.grid(bench.read("toy")) == (
        "| error | line | circle |\n"
        "|---|---|---|\n"
        "| sum | 8.5 (8 to 9) | 3.5 (3 to 4) |\n"
        "| mean | 4 | 1.5 |"
    )


def test_a_problem_added_to_pid_is_in_the_page(monkeypatch):
    """The suite's own tables, with rows of a problem and a method of a stranger."""
    from benchmarks.pid import tables

    suite = bench.suite("pid")
    grown = _registry.Suite("pid", dict(suite.problems), dict(suite.methods))
    monkeypatch.setitem(bench.SUITES, "pid", grown)
    bench.problem("pid", "spiral", label="A spiral")(lambda quick: 0)
    bench.method("pid", "guess", label="guessing")(lambda problem, seed, quick: 0)
    some = bench.read("pid").where(problem="ring", method="ours")
    rows = [dataclasses.replace(r, problem="spiral", method="guess") for r in some]
    text = tables.ablation(_rows.Rows([*bench.read("pid"), *rows]))
    part = text.split("### A spiral")[1].split("###")[0]
    assert "| guessing | 3 | 5,000 | 0.0073 (0.0072 to 0.0076) |" in part


@pytest.fixture
def example(monkeypatch, tmp_path):
    """The file that the README of the bench adds to `pid`."""
    text = (ROOT / "benchmarks/README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.S | re.M)
    suite = bench.suite("pid")
    grown = _registry.Suite("pid", dict(suite.problems), dict(suite.methods))
    monkeypatch.setitem(bench.SUITES, "pid", grown)
    file = tmp_path / "ring12.py"
    file.write_text(block)
    name = "benchmarks.pid.ring12"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return grown


def test_the_readmes_example_is_a_problem_and_a_method(example):
    problem, method = example.problems["ring12"], example.methods["mean"]
    assert method.takes(problem)
    assert example.methods["ours"].takes(problem)
    small = problem.made(quick=True)
    assert small.law().means.shape == (12, 2)
    names = [_runner.row_of(problem, method, seed, quick=True)[0] for seed in (0, 1)]
    assert len(set(names)) == 2


@pytest.mark.slow
def test_the_readmes_example_is_seen_in_the_tables(example):
    """Compiles a solve for ten seconds."""
    from benchmarks.pid import tables

    made, failed = bench.run(["pid"], "ring12", "mean", quick=True)
    assert not failed
    # Modes lie on a circle of 0.9: the mean of all samples is in its middle.
    assert made[0]["rms"] == pytest.approx(0.9, rel=0.05)
    assert "| mean | 0.9" in bench.grid(made).replace("0.89", "0.9")
    text = tables.ablation(_rows.Rows([*bench.read("pid"), *made]))
    assert "| everyone at the mean | 1 |" in text.split("### ring of 12, d = 2")[1]


def test_a_mark_is_found_on_any_page_and_its_links_fit_the_page(tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    (docs / "results").mkdir(parents=True)
    (docs / "figures").mkdir()
    (docs / "figures/plot.svg").touch()
    block = "# Page\n<!-- here -->\nold\n<!-- end of here -->\n<!-- test command -->\n"
    readme, page = tmp_path / "README.md", docs / "results/page.md"
    for file in (readme, page):
        file.write_text(block)
    monkeypatch.setattr(_marks, "ROOT", tmp_path)
    monkeypatch.setattr(_marks, "DOCS", docs)
    texts = {"here": "![a](plot.svg) and [b](page.md#x), [c](https://x.org/a.md)"}
    assert _marks.stale(texts) == ["README.md", "docs/results/page.md"]
    _marks.write(texts)
    assert "![a](../figures/plot.svg) and [b](page.md#x), [c](https" in page.read_text()
    assert "![a](docs/figures/plot.svg) and [b](docs/results/page.md#x)" in (
        readme.read_text()
    )
    assert readme.read_text().endswith("\n<!-- test command -->\n")
    assert _marks.stale(texts) == []
    with pytest.raises(ValueError, match=r"expected a page .*'gone'.*found none; put"):
        _marks.write({"gone": "text"})


@pytest.mark.parametrize(("shift", "wide"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.3)])
def test_an_error_is_told_from_the_error_of_chance(shift, wide):
    """Of 400 independent samples: 1/20 for the mean, 1/sqrt(800) for the deviation."""
    from benchmarks.inference.sensors import compared, errors

    draw = np.random.default_rng(1).normal
    sure = np.zeros((2, 3, 2))
    reference = sure + 2.0, sure + 3.0, sure, sure
    moments = []
    for runs in (1, 2) * 20:
        e = draw(size=(runs, 400 // runs, 2, 3, 2))
        moments.append(compared(2.0 + 3.0 * (shift + wide * e), reference))
    found = errors(moments)
    assert_close(found["mean_mc"], wide / 20, 0.15, 0)
    assert_close(found["std_mc"], wide / np.sqrt(800), 0.15, 0)
    assert found["mean_within"] == (shift == 0)
    assert found["std_within"] == (wide == 1)
    assert_close(found["std_ratio"], wide, 0.02, 0)
    assert_close(found["mean_error"] ** 2, shift**2 + found["mean_mc"] ** 2, 0.2, 0)


# --- the results that are committed --------------------------------------------------


def committed():
    folder = ROOT / "benchmarks/results"
    return [path.stem for path in folder.glob("*.json") if path.stem in bench.SUITES]


@pytest.mark.parametrize("name", committed())
def test_committed_rows_say_what_they_are_and_where_they_come_from(name):
    rows = bench.read(name)
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        assert row.suite == name
        assert _rows.consistent(row)
        assert row.processor
        for part in ("command", "commit", "versions", "dtype", "date", "machine"):
            assert row.provenance[part], (row.key, part)
        assert row.provenance["uncommitted_changes_to_src"] is False


def test_the_pages_hold_what_the_rows_say():
    assert bench.check() == [], "run python -m benchmarks tables"


def test_the_recorded_runs_left_no_trace():
    """Twenty kills and a full disk: the bits of the run that was left alone."""
    (killed,) = bench.read("reliability").where(method="kills")
    (full,) = bench.read("reliability").where(method="full disk")
    assert killed["kills"] == 20
    assert killed["killed"] == killed["alone"]
    assert full["resumed_with_room"] == full["alone"]
    assert full["checkpoints_refused"] > 0


def test_every_solve_and_process_of_the_tables_ended_well():
    solved = [row for row in bench.read("solvers") if row.problem.startswith("mixture")]
    assert len(solved) == 350
    assert all(row["rms"] is not None for row in solved)
    for row in bench.read("train").where(method="parallel"):
        assert row["failures"] == 0


@pytest.mark.slow
def test_the_command_line(tmp_path):
    """Starts Python and JAX anew, three times."""
    ask = lambda *words: subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    listed = ask("list", "--suite", "pid")
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"ring: \d+ methods, \d+ rows", listed.stdout)
    wrong = ask("run", "--suite", "pid", "--problem", "rung")
    assert wrong.returncode == 2
    assert "got 'rung'" in wrong.stderr
    assert len(wrong.stderr.splitlines()) < 5
    assert ask("tables", "--check").returncode == 0


# --- what the suite of generators computes for itself ---------------------------------


@pytest.mark.slow  # compiles two solves
def test_banded_heads_are_those_of_darcy(x64):
    """On cells that are not square, so that no two axes may be exchanged."""
    from benchmarks.generators import chains
    from benchmarks.generators.problems_steady import heads_and_flow

    equation = px.pde.Darcy.channels((10, 20))
    fields = equation.sample(key=jax.random.key(4))
    assert fields.coefficient.std() > 0
    heads, flow = heads_and_flow(np.asarray(fields.coefficient))
    assert_close(heads, fields.solution, 1e-8)
    assert_close(flow, equation.flow(fields)[0], 1e-6)
    again, through = jax.jit(chains.heads_and_flow)(fields.coefficient)
    assert_close(again, heads, 1e-10)
    assert_close(through, flow, 1e-10)


def test_doubtful_materials_are_normal_observations():
    """The likelihood of wells that may be wrong, up to a constant."""
    from benchmarks.generators.chains import observed
    from benchmarks.generators.problems_steady import Channels

    problem, rng = Channels(), np.random.default_rng(0)
    half = problem.sensors // 2
    material, heads = rng.integers(0, 2, (3, half)), rng.random((3, half))
    rows = np.concatenate([material, heads, np.zeros((3, 2))], axis=1)
    said, seen = rows[0, : 2 * half], rows[:, : 2 * half + 1, None]
    noise = observed(problem, said).noise[: 2 * half]
    off = observed(problem, said).values[: 2 * half] - seen[:, : 2 * half]
    found = -0.5 * np.sum((off / noise) ** 2, axis=(1, 2))
    expected = problem.log_likelihood(rows, said)
    assert np.ptp(expected) > 10
    assert_close(found - found[0], expected - expected[0], 1e-4)


def test_the_weighted_score_counts_a_sample_as_often_as_its_weight():
    from benchmarks.generators.chains import covered
    from benchmarks.generators.problems_steady import weighted_crps

    rng = np.random.default_rng(0)
    samples, often = rng.normal(size=(4, 2)), np.array([1, 3, 2, 2])
    truth, every = np.array([0.3, -1.0]), np.repeat(samples, often, axis=0)
    pairs = np.abs(every[:, None] - every).mean((0, 1))
    expected = np.abs(every - truth).mean(0) - pairs / 2
    weights = often / often.sum()
    assert_close(weighted_crps(samples, weights, truth), expected, 1e-12)
    values, parts = np.arange(4.0), np.array([1, 3, 4, 2]) / 10
    for y, half, most in ((1.5, 1.0, 1.0), (0.5, 0.0, 1.0), (5.0, 0.0, 0.0)):
        assert covered(values, parts, y) == {"inside_50": half, "inside_90": most}


def test_tetrachoric_correlations_are_those_of_a_known_gaussian():
    from benchmarks.generators.learned import _correlations
    from scipy.stats import multivariate_normal, norm

    level, rho = np.array([-0.7, 0.2]), -0.3
    covariance: Any = [[1, rho], [rho, 1]]
    both = multivariate_normal([0, 0], covariance).cdf(level)
    alone = norm.cdf(level)
    found = _correlations(level, np.array([[alone[0], both], [both, alone[1]]]))
    assert_close(found, np.array(covariance), 1e-9)


def test_shares_of_branches_count_what_newton_leaves_where_it_is(x64):
    """Zero solves the equation without a source, too, but no flow comes to it."""
    from benchmarks.generators.bistable import Several, judged

    problem = Several(size=6)
    force = np.zeros((6, 6))
    high = problem.polished(np.full((1, 16), 0.9), force[1:-1, 1:-1].ravel())
    high = np.pad(high.reshape(4, 4), 1)
    assert high[2, 2] > 0.8
    known = np.stack([high, high, high, -high])
    fields = np.stack([high, 1.05 * high, -0.95 * high, 0.05 * high])
    found = judged(problem, fields, force, known)
    assert_close(found["none"], 0.25, 1e-12)
    assert_close(found["tv"], (0.25 + 0 + 0.25) / 2, 1e-12)
    assert (found["branches"], found["largest_share"]) == (2, 0.75)
    assert 0 < found["moved"] < 0.05


def test_states_are_patched_paired_and_imitated_as_they_should_be():
    """Patches come back, pairs of cells have their mean, y has a law of its own."""
    from benchmarks.generators.finer import coarse
    from benchmarks.generators.problems_evolution import Late, Window

    rng = np.random.default_rng(0)
    states, late = rng.normal(size=(3, 8, 8)).astype(np.float32), Late(points=8)
    patches = late.to_model(states)
    assert patches[1, 1, 0, 4 * 2 + 3] == states[1, 4 + 2, 3]
    assert np.array_equal(late.to_states(patches), states)
    found = coarse(np.arange(8.0).reshape(1, 2, 4), 2)
    assert np.array_equal(found, [[[2.5, 4.5]]])
    size, mean = np.arange(1, 9)[:, None], np.arange(8.0)[:, None]
    samples = mean + size * rng.normal(size=(400, 8, 8, 2))
    drawn = Window(points=8).gaussian_samples(samples, 4000, 0)
    assert_close(drawn.mean(axis=(0, 1)), samples.mean(axis=(0, 1)), 0.1)
    assert_close(drawn.std(axis=(0, 1)) / size, np.ones((8, 2)), 0.04)
