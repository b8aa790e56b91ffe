"""Models in files: every field by name, every array bit for bit, and no code."""

from ._describe import describe as describe
from ._describe import differences as differences
from ._file import header as header
from ._file import load as load
from ._file import save as save
