"""The documentation says what the code does; its numbers are compared by test_bench."""

import contextlib
import io
import re
from pathlib import Path

import jax
import jaxtyping
import pytest

ROOT = Path(__file__).parent.parent
X64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
PAGES = [  # they train and compile: all are slow
    "README.md",
    "CONTRIBUTING.md",
    "docs/index.md",
    "docs/first_steps.md",
    "docs/recipes.md",
    "docs/checkpoints.md",
    "docs/training.md",
    "docs/solvers.md",
    "docs/pid.md",
    "docs/pde.md",
    "docs/piddm.md",
    "docs/inference.md",
    "docs/constrained.md",
    "docs/distillation.md",
    "docs/tutorials/data_to_sampler.md",
    "docs/tutorials/pde_to_posterior.md",
]
TESTED = {*PAGES, "docs/gpu.md"}  # gpu.md has one setting of the session


@pytest.mark.slow  # minutes: the tutorials train three networks
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch, x32):
    """A text block after a Python block is its output, or the error it raises."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.pkl").symlink_to(ROOT / "tests/data/edm_ddpmpp_uncond.pkl")
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


def test_no_page_is_left_out():
    """A page with Python blocks is run; of the API only those outside docstrings."""
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
    ]
    pages += (ROOT / "docs/tutorials").glob("*.md")
    with_code = {
        str(page.relative_to(ROOT))
        for page in pages
        if "\n```python\n" in page.read_text()
    }
    assert with_code == TESTED


def test_the_readme_is_short():
    """Read in three minutes: under 200 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_the_site_loads_nothing_from_elsewhere():
    """No script, style or font by address; and no mark of a CDN."""
    site = ROOT / "docs/javascripts/mathjax.js", ROOT / "docs/stylesheets/site.css"
    config = (ROOT / "mkdocs.yml").read_text()
    assets = config[config.index("extra_javascript") : config.index("validation")]
    for text in (assets, *(path.read_text() for path in site)):
        assert "//cdn" not in text
        assert "https://" not in text


RIDDLES = r"\b(those of|that of the|what is given|whoever|the rooms?|ledgers?)\b"


def test_the_pages_name_their_nouns():
    """The phrases that CONTRIBUTING's list of words replaces; see "Words" there."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [
        f"{page.relative_to(ROOT)}: ... {text[max(m.start() - 30, 0) : m.end() + 20]}"
        for page in pages
        for text in [page.read_text()]
        for m in re.finditer(RIDDLES, text)
    ]
    assert not found


def test_no_table_has_an_empty_header():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [
        f"{page.relative_to(ROOT)}: {head}"
        for page in pages
        for head in re.findall(r"^(\|.*\|)\n\|[-|: ]+\|$", page.read_text(), re.M)
        if re.search(r"\|\s*\|", head.replace("\\|", ""))
    ]
    assert not found


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
