"""Other people's checkpoints, read as data: nothing in a file is run or imported."""

from ._checkpoint import Checkpoint as Checkpoint
from ._checkpoint import read_checkpoint as read_checkpoint
from ._error import CheckpointError as CheckpointError
from ._match import KeyReport as KeyReport
from ._match import match as match
from ._module import PersistentObject as PersistentObject
from ._module import state_dict as state_dict
from ._safetensors import write_safetensors as write_safetensors
