"""Names and shapes found against those expected: all that is wrong, in one list."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._error import CheckpointError, quote

Shape = tuple[int, ...]
_SHOWN = 20  # lines of a kind


@dataclass(frozen=True)
class KeyReport:
    """What is missing, unexpected, and of another shape: (found, expected)."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: dict[str, tuple[Shape, Shape]]
    matched: int

    @property
    def exact(self) -> bool:
        """Whether every array is there, in its shape, and no other."""
        return not (self.missing or self.unexpected or self.misshaped)

    def raise_if_not_exact(self) -> None:
        """Raise `CheckpointError` with the list, unless the match is exact."""
        if not self.exact:
            raise CheckpointError(
                f"expected exactly the arrays of the network, got {self}\n"
                "Build the network with the checkpoint's own configuration."
            )

    def __str__(self) -> str:
        shapes = [
            f"{quote(name)}: found {found}, expected {expected}"
            for name, (found, expected) in self.misshaped.items()
        ]
        lines = [f"{self.matched} of {self._expected} arrays as expected"]
        for what, names in (
            ("missing", [quote(name) for name in self.missing]),
            ("unexpected", [quote(name) for name in self.unexpected]),
            ("of another shape", shapes),
        ):
            if names:
                lines.append(f"{len(names)} {what}:")
                lines += [f"    {name}" for name in names[:_SHOWN]]
                more = len(names) - _SHOWN
                lines += [f"    ... and {more} more"] if more > 0 else []
        return "\n".join(lines)

    @property
    def _expected(self) -> int:
        return self.matched + len(self.missing) + len(self.misshaped)


def match(found: Mapping[str, Any], expected: Mapping[str, Shape]) -> KeyReport:
    """Compare arrays by name, `found`, with the shapes that a network expects."""
    shapes = {name: tuple(np.shape(array)) for name, array in found.items()}
    both = [name for name in expected if name in shapes]
    misshaped = {
        name: (shapes[name], tuple(expected[name]))
        for name in both
        if shapes[name] != tuple(expected[name])
    }
    return KeyReport(
        missing=tuple(name for name in expected if name not in shapes),
        unexpected=tuple(name for name in shapes if name not in expected),
        misshaped=misshaped,
        matched=len(both) - len(misshaped),
    )
