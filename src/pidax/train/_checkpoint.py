"""Checkpoints: written atomically, checked when read; the last few and the best are
kept.

A run's directory holds

    checkpoints/step_000001000.pidax    a file of `pidax.store`: atomic, hashed, no code
    metrics.jsonl                       one line of JSON for each interval of the log

A checkpoint holds every array of the run's `TrainState` by its path, and in its header
(`pidax.store.header`) the configuration, the step and the score. It is read into the
state that the same call of `fit` builds, so that nothing in a file decides what is
constructed.
"""

import dataclasses
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._files import lock_directory
from ..store import differences, header, load, save
from ._state import M, is_key

_NAME = re.compile(r"step_(\d{9,})\.pidax")


class Snapshot(eqx.Module):
    """The contents of a checkpoint: arrays by path, and its header."""

    arrays: dict[str, Any]
    about: dict[str, Any]


class _Different(ValueError):
    """An intact checkpoint of another configuration."""


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of one run, in one directory.

    `keep` is the number of last ones that are kept; the one with the lowest score is
    kept too.
    """

    directory: Path
    config: Mapping[str, str]
    keep: int
    decays: tuple[float, ...]
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    last_good: Path | None = None
    lock: IO[str] | None = None  # this run's, until it is released

    def prepare(self) -> None:
        """Make the directory, and check that it can be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = lock_directory(self.folder)
            probe = self.folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"directory must be one that can be written, got {self.directory} "
                f"({error.strerror}). Choose another, or change its permissions."
            ) from error

    def release(self) -> None:
        """Allow another run to use the directory."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None

    @property
    def folder(self) -> Path:
        return self.directory / "checkpoints"

    def files(self) -> dict[int, Path]:
        """The existing checkpoints, by step."""
        return checkpoint_files(self.folder)

    def write(self, tree: PyTree, step: int, score: float | None) -> Path:
        """Write this state, then remove the checkpoints that are not kept."""
        path = self.folder / f"step_{step:09d}.pidax"
        about = {"step": step, "score": score, "config": dict(self.config)}
        about["decays"] = list(self.decays)
        save(path, Snapshot(arrays=to_arrays(tree), about=about))
        self.last_good = path
        if score is not None:
            self.scores[step] = score
        past = [old for old in sorted(self.files()) if old <= step]
        kept = set(past[-self.keep :])
        if self.scores:
            kept.add(min(self.scores, key=lambda s: (self.scores[s], s)))
        for old in past:  # later ones were refused, and belong to another run
            if old not in kept:
                self.files()[old].unlink()
                self.scores.pop(old, None)
        return path

    @property
    def last_step(self) -> int | None:
        """The step of the last intact checkpoint."""
        return None if self.last_good is None else step_of(self.last_good)

    def write_or_warn(self, tree: PyTree, step: int, score: float | None) -> None:
        """Write; if the disk refuses, warn and let training continue."""
        try:
            self.write(tree, step, score)
        except OSError as error:
            last = self.last_good or "nothing yet"
            warnings.warn(
                f"the checkpoint of step {step} was not written: {error}. Training "
                f"goes on and will try again; saved so far: {last}.",
                stacklevel=5,
            )

    def read_last(self, like: PyTree) -> tuple[PyTree, int] | None:
        """The newest intact checkpoint, or None if there is no checkpoint."""
        files = self.files()
        found: tuple[PyTree, int] | None = None
        for step in sorted(files, reverse=True):
            try:
                about = read_about(files[step])
                if found is None:
                    snapshot = load(files[step])
                    self._same_run(snapshot.about, files[step])
                    found = from_arrays(snapshot.arrays, like, files[step]), step
                    self.last_good = files[step]
                if about["score"] is not None:
                    self.scores[step] = about["score"]
            except _Different:
                raise
            except (ValueError, OSError) as error:
                warnings.warn(
                    f"checkpoint refused, trying the one before: {error}", stacklevel=5
                )
        if files and found is None:
            raise ValueError(
                f"none of the {len(files)} checkpoints in {self.folder} can be read. "
                "Move them away to start anew."
            )
        return found

    def _same_run(self, about: Mapping[str, Any], path: Path) -> None:
        found = differences(about["config"], self.config, "the checkpoint")
        if found:
            more = f"\n  and {len(found) - 8} more" if len(found) > 8 else ""
            if any(line.startswith("optimiser") for line in found):
                more += (
                    "\nA schedule is part of the optimiser: a run whose steps are to "
                    "grow keeps the length that its schedule was made with."
                )
            raise _Different(
                f"{path} is a checkpoint of another run:\n  "
                + "\n  ".join(found[:8])
                + more
                + "\nChange the arguments back; or choose another directory, and start "
                "from these weights with fit(px.restore(directory, model), ...)."
            )


def checkpoint_files(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by step."""
    steps = ((step_of(path), path) for path in sorted(folder.glob("step_*.pidax")))
    return {step: path for step, path in steps if step is not None}


def step_of(path: Path) -> int | None:
    """The step in a checkpoint's name; None for another file."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def read_about(path: Path) -> dict[str, Any]:
    """A checkpoint's description, from its header alone."""
    about = header(path)["tree"]["fields"]["about"]["dict"]
    config = about["config"]["dict"]
    return {**about, "config": config}


def to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Every array by its path, on the host; random keys as their data."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        if is_key(leaf):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def from_arrays(arrays: Mapping[str, np.ndarray], like: PyTree, source: Path) -> PyTree:
    """`like` with the values of `arrays`, which must have its names and shapes."""
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(like)]
    missing = [n for n in names if n not in arrays]
    unexpected = [n for n in arrays if n not in set(names)]
    if missing or unexpected:
        raise _Different(
            f"{source} must hold the arrays of this model: missing {missing[:5]}, "
            f"unexpected {unexpected[:5]}. It is a checkpoint of another model."
        )

    def fill(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        saved = arrays[name]
        key = is_key(leaf)
        now = jax.random.key_data(leaf) if key else leaf
        if saved.shape != now.shape or saved.dtype != now.dtype:
            raise _Different(
                f"{source} must hold {name} as {now.dtype}{list(now.shape)}, got "
                f"{saved.dtype}{list(saved.shape)}. It is a checkpoint of another "
                "model."
            )
        if key:
            impl = jax.random.key_impl(leaf)
            return jax.random.wrap_key_data(jax.numpy.array(saved), impl=impl)
        return jax.numpy.array(saved)

    return jax.tree_util.tree_map_with_path(fill, like)


def restore(
    directory: str | Path,
    model: M,
    *,
    step: int | Literal["last", "best"] = "last",
    ema: float | None = None,
) -> M:
    """The model that a run in `directory` has trained, without continuing the run.

    `model` has the same structure, with any weights. `step` chooses the checkpoint: the
    last one, the one of the lowest score, or a number. `ema` chooses an average instead
    of the last weights. `pidax.save` then writes the model to a file of its own, which
    needs no model to be read.
    """
    files = checkpoint_files(Path(directory) / "checkpoints")
    if not files:
        raise ValueError(
            f"directory must belong to a run with checkpoints, got {directory}, which "
            "has none. Pass the directory of fit(directory=...)."
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
        return files[step]
    raise ValueError(
        f"step must be 'last', 'best' or one of {sorted(files)}, whose checkpoints are "
        f"kept, got {step!r}."
    )
