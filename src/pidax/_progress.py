"""A bar on stderr: how much is done, and that the first part of it is compiled."""

from typing import Any


def progress_bar(total: int, what: str, unit: str, shown: bool, done: int = 0) -> Any:
    """A bar of tqdm that says "compiling" until it moves; a context manager."""
    from tqdm.auto import tqdm

    bar = tqdm(total=total, initial=done, desc=what, unit=unit, disable=not shown)
    bar.set_postfix_str("compiling")
    return bar


def advance(bar: Any, count: int, doing: str = "") -> None:
    """Move the bar by `count`, and say what comes next, if there is more to say."""
    bar.set_postfix_str(doing, refresh=False)
    bar.update(count)
