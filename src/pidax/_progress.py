"""A progress bar on stderr, which says "compiling" at first."""

from typing import Any


def progress_bar(total: int, what: str, unit: str, shown: bool, done: int = 0) -> Any:
    """A bar of tqdm that says "compiling" until it moves; a context manager."""
    from tqdm.auto import tqdm

    bar = tqdm(total=total, initial=done, desc=what, unit=unit, disable=not shown)
    bar.set_postfix_str("compiling")
    return bar


def advance(bar: Any, count: int, doing: str = "") -> None:
    """Move the bar by `count`, with a text for the next part, if any."""
    bar.set_postfix_str(doing, refresh=False)
    bar.update(count)
