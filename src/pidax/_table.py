"""Aligned tables, for printed reports."""


def row(name: str, *cells: str, widths: tuple[int, ...], label: int) -> str:
    """A line: the name in `label` columns, each cell to the right of its own."""
    text = "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
    return f"{name:<{label}}{text}".rstrip()


def number(value: float) -> str:
    """Two digits and an exponent; zero as itself."""
    return "0" if value == 0 else f"{value:.1e}"
