"""Aligned text: tables of reports, and a screen that describes a model."""

from typing import Any

import equinox as eqx
import jax


def row(name: str, *cells: str, widths: tuple[int, ...], label: int) -> str:
    """A line: the name in `label` columns, each cell to the right of its own."""
    text = "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
    return f"{name:<{label}}{text}".rstrip()


def number(value: float) -> str:
    """Two digits and an exponent; zero as itself."""
    return "0" if value == 0 else f"{value:.1e}"


def screen(title: str, **lines: Any) -> str:
    """A title, and below it a name and a value a line."""
    width = max(map(len, lines)) + 2
    return "\n".join([title, *(f"  {n:<{width}}{v}" for n, v in lines.items())])


def network_title(kind: str, network: Any) -> str:
    """What a model is made of: its network, the number of its weights, their dtype."""
    leaves = [leaf for leaf in jax.tree.leaves(network) if eqx.is_inexact_array(leaf)]
    count = sum(leaf.size for leaf in leaves)
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves})) or "no arrays"
    return f"{kind} {type(network).__name__}: {count:,} parameters, {dtypes}"


def samples_line(shape: Any, classes: Any) -> str:
    """The shape of a model's samples, and how many classes it knows."""
    known = "without classes" if classes is None else f"{classes} classes"
    return f"of any shape, {known}" if shape is None else f"of shape {shape}, {known}"
