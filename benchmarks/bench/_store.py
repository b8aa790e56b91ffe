"""Artefacts under the hash of the configuration that made them, never under a name.

The hash covers the recipe (network, data, optimiser, steps, seed: whatever the function
that makes the artefact is given), the source of that function, of what it names and of
the recipe's classes, the source of pidax, and the versions of the libraries. A changed
recipe is another file; an old file can only be read by the recipe that wrote it.
"""

import ast
import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import pidax as px

from ._configuration import code_of, describe, digest, without_docstrings

_ROOT = [Path(__file__).parents[2] / "outputs/bench"]
# What a trained network does not depend on.
BYSTANDERS = ("plot", "convert", "evaluate", "metrics", "inference")
LIBRARIES = ("jax", "equinox", "optax", "diffrax")


@contextlib.contextmanager
def store_at(folder: Path) -> Iterator[Path]:
    """Keep artefacts in this folder meanwhile."""
    _ROOT.append(folder)
    try:
        yield folder
    finally:
        _ROOT.pop()


def kept(kind: str, make: Callable[..., Any], *recipe: Any) -> tuple[Any, dict]:
    """`make(*recipe)`, made now or read from an earlier run, and a note about it.

    **Arguments:**

    - `kind`: the name of a folder, for people: "teacher", "student", "chart", "fields".
    - `make`: a named function of the recipe. It returns the artefact (what `px.save`
      takes, or a NumPy array), or the artefact and a dict for the note.
    - `recipe`: all that the artefact depends on, in values that `describe` takes.

    The note has `hash`, `seconds` and `configuration` beside what `make` noted.
    """
    configuration = {
        "made by": make.__qualname__,
        "recipe": describe(recipe),
        "source": code_of(make, recipe),
        "versions": versions(),
    }
    name = digest(configuration)
    file = _ROOT[-1] / kind / f"{name}.px"
    note = file.with_suffix(".json")
    if note.exists():
        return _load(file), json.loads(note.read_text())
    start = time.perf_counter()
    made = make(*recipe)
    artefact, more = made if isinstance(made, tuple) else (made, {})
    spent = time.perf_counter() - start
    found = {"hash": name, "seconds": spent, **more, "configuration": configuration}
    file.parent.mkdir(parents=True, exist_ok=True)
    _save(file, artefact)
    note.write_text(json.dumps(found, indent=1) + "\n")  # last: it says "complete"
    return artefact, found


def _save(file: Path, artefact: Any) -> None:
    if isinstance(artefact, np.ndarray):
        np.save(file.with_suffix(".npy"), artefact)
    else:
        px.save(file, artefact)


def _load(file: Path) -> Any:
    array = file.with_suffix(".npy")
    return np.load(array) if array.exists() else px.load(file)


@functools.cache
def versions() -> dict[str, str]:
    """Of the libraries, and the source of pidax without comments and docstrings."""
    source, texts = Path(px.__file__).parent, []
    for file in sorted(source.rglob("*.py")):
        if file.relative_to(source).parts[0] not in BYSTANDERS:
            tree = ast.parse(file.read_text())
            texts.append(
                f"{file.relative_to(source)}\n{ast.dump(without_docstrings(tree))}"
            )
    return {"pidax": digest(texts), **{name: version(name) for name in LIBRARIES}}
