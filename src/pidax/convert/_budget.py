"""What a file may cost: limits far above any real checkpoint, and far below harm.

A byte of a pickle can ask for a set of two hundred bytes, and twenty bytes for a tree
of a billion branches. So words, text, levels and branches are counted. A
network of EDM's with 209 arrays needs 35,000 words, 10,000 branches and 30 levels.
"""

from dataclasses import dataclass

from ._error import bad

WORDS = 300_000  # of all pickles in one file together
TEXT = 4 << 20  # bytes of strings
LEVELS = 60  # of nesting
BRANCHES = 200_000  # of the tree written out, with what is shared counted each time
NAMES = 50_000  # of arrays, and of numbers beside them
NAME = 512  # characters of one name
HEADER = 2 << 20  # bytes of a safetensors header, or of a zip file's directory
SURPLUS = 4  # arrays by name may add up to so many times the file: shared weights


@dataclass
class Budget:
    """What is left to one file."""

    words: int = WORDS
    text: int = TEXT

    def word(self) -> None:
        self.words -= 1
        if self.words < 0:
            raise bad(f"at most {WORDS} pickle words", "more")

    def string(self, length: int) -> None:
        self.text -= length
        if self.text < 0:
            raise bad(f"at most {TEXT} bytes of strings", "more")
