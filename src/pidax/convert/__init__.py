"""Other people's checkpoints, read as data: nothing in a file is
executed or imported.
"""

from .._files import CheckpointError as CheckpointError
from ._edm import from_state as from_state
from ._edm import load_edm as load_edm
from ._edm import load_pid as load_pid
from ._edm import network_from as network_from
from ._edm import teacher_from as teacher_from
from ._edm import to_state as to_state
from ._lpips import load_lpips as load_lpips
from ._lpips import lpips_from as lpips_from
from ._objects import PersistentObject as PersistentObject
from ._objects import state_dict as state_dict
from ._openai import load_consistency as load_consistency
from ._openai import load_openai as load_openai
from ._openai import openai_network as openai_network
from ._reader import Checkpoint as Checkpoint
from ._reader import read_checkpoint as read_checkpoint
from ._safetensors import write_safetensors as write_safetensors
from ._state_dict import KeyReport as KeyReport
from ._state_dict import match as match
