"""What must not pass in silence: numbers that are not finite, runs that are not one."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ._checkpoint import to_arrays
from ._parallel import Place
from ._result import NonFiniteError, Result
from ._state import TrainState
from ._step import LOSS_FAILED, RESERVED, UPDATE_FAILED


def failed_term(code: int, terms: Mapping[str, np.ndarray], trained: PyTree) -> str:
    """In words, what was not finite."""
    if code == UPDATE_FAILED:
        return "an update of the objective's state that is not finite"
    if code == LOSS_FAILED:
        bad = [n for n, value in terms.items() if not np.isfinite(value).all()]
        bad = [n for n in bad if n not in ("loss", "gradient_norm")]
        which = f", with {', '.join(bad)} not finite" if bad else ""
        return f"a loss of {float(terms['loss'])}{which}"
    paths = [path for path, _ in jax.tree.leaves_with_path(trained)]
    leaf = code - LOSS_FAILED - 1
    where = "the objective's own network"
    if leaf < len(paths):
        where = f"model{jax.tree_util.keystr(paths[leaf])}"
    return f"a gradient that is not finite in {where}"


def require_finite_state(
    state: TrainState, step: int, last: Path | None, result: Callable[..., Result]
) -> None:
    """Weights that an optimiser has spoilt by itself are not saved, nor returned."""
    for name, array in to_arrays((state.model, state.averages)).items():
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            what = f"weights that are not finite ({name})"
            raise NonFiniteError(step - 1, what, last, result(state), intact=False)


def same_everywhere(place: Place, configuration: Any) -> None:
    """Every process was started with the same configuration."""
    if place.processes == 1:
        return
    from jax.experimental import multihost_utils

    text = repr(configuration).encode()
    mark = np.frombuffer(hashlib.sha256(text).digest()[:8], np.int32)
    marks: Any = np.asarray(multihost_utils.process_allgather(mark))
    other = [i for i, m in enumerate(marks) if (m != marks[0]).any()]
    if other:
        raise ValueError(
            "every process must call fit with the same arguments, got others on "
            f"processes {other} than on process 0."
        )


def check_terms(terms: Any) -> dict[str, float]:
    """What a callback returned: numbers by names that are free."""
    if not isinstance(terms, Mapping) or RESERVED & set(terms):
        raise ValueError(
            "callback must return None or a dict of numbers, under none of the names "
            f"{sorted(RESERVED)}, got {terms!r}."
        )
    return {name: float(value) for name, value in terms.items()}
