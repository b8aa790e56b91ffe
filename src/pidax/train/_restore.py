"""A model alone, out of the checkpoints of a run."""

from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..store import load
from ._checkpoint import checkpoint_files, from_arrays, read_about


def restore(
    directory: str | Path,
    model: PyTree,
    *,
    step: int | Literal["last", "best"] = "last",
    ema: float | None = None,
) -> PyTree:
    """The model that a run in `directory` had trained, without going on with it.

    `model` is one like it, with any weights: it says what to build. `step` chooses the
    checkpoint, the last one or the one of the lowest score or that of a step; `ema` an
    average instead of the weights themselves. `pidax.save` then writes the model to a
    file of its own, which needs no model to be read.
    """
    files = checkpoint_files(Path(directory) / "checkpoints")
    if not files:
        raise ValueError(
            f"directory must be that of a run with checkpoints, got {directory}, which "
            "has none. It is what was given to fit(directory=...)."
        )
    chosen = _choose(files, step)
    snapshot = load(chosen)
    decays = snapshot.about["decays"]
    prefix = ".model"
    if ema is not None and ema not in decays:
        raise ValueError(f"ema must be one of {decays}, which were kept, got {ema}.")
    arrays = _under(snapshot.arrays, prefix)
    if ema is not None:
        arrays |= _under(snapshot.arrays, f".averages[{decays.index(ema)}]")
    mine, rest = eqx.partition(model, eqx.is_array)
    for path, leaf in jax.tree.leaves_with_path(mine):
        name = jax.tree_util.keystr(path)
        if ema is not None and name in arrays:  # averages are at least float32
            arrays[name] = arrays[name].astype(leaf.dtype)
    return eqx.combine(from_arrays(arrays, mine, chosen), rest)


def _under(arrays: dict, prefix: str) -> dict:
    return {n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)}


def _choose(files: dict[int, Path], step: int | str) -> Path:
    if step == "last":
        return files[max(files)]
    if step == "best":
        scores = {s: read_about(path)["score"] for s, path in files.items()}
        known = {s: score for s, score in scores.items() if score is not None}
        if known:
            return files[min(known, key=lambda s: (known[s], s))]
        raise ValueError("no checkpoint of this run has a score. Use step='last'.")
    if step in files:
        return files[step]  # type: ignore[index]
    raise ValueError(
        f"step must be 'last', 'best' or one of {sorted(files)}, whose checkpoints are "
        f"kept, got {step!r}."
    )
