"""The documentation says what the code does, and its numbers are the benchmark's."""

import contextlib
import io
import re
import sys
from pathlib import Path

import jax
import jaxtyping
import pytest

ROOT = Path(__file__).parent.parent
X64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
PAGES = [
    "README.md",
    "docs/index.md",
    pytest.param("CONTRIBUTING.md", marks=pytest.mark.slow),
    pytest.param("docs/solvers.md", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch, x32):
    """A text block after a Python block is its output, or the error it raises."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.S | re.M)
    space = {"__name__": "docs"}
    try:
        with jax.numpy_dtype_promotion("standard"):  # as a reader runs them
            for (kind, body), following in zip(blocks, [*blocks[1:], ("", "")]):  # noqa: B905
                if kind == "python":
                    shown = following[1] if following[0] == "text" else None
                    run(body, shown, space)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
        jax.config.update("jax_enable_x64", X64)


def run(body, shown, space):
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            exec(compile(body, "docs", "exec"), space)
    except Exception as error:
        if shown is None:
            raise
        output.write(str(error))
    if shown is not None:
        assert squash(shown) in squash(output.getvalue())


def squash(text):
    return " ".join(text.split())


def test_the_tables_are_those_of_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import reference_figure

    for page, text in reference_figure.pages(reference_figure.load()).items():
        assert text in page.read_text(), f"run reference_solve.py --figure for {page}"
    sys.modules.pop("reference_figure")


def test_the_benchmark_says_where_it_comes_from():
    import json

    results = json.loads((ROOT / "benchmarks/results/reference_solve.json").read_text())
    for name in ("command", "machine", "versions", "commit", "dtype", "seeds"):
        assert results[name]
    assert not results["uncommitted_changes_to_src"]
    assert all(row["rms"] is not None for row in results["rows"])
