"""The training engine: any objective, every device, resumable."""

from ._checkpoint import restore as restore
from ._fit import fit as fit
from ._interrupt import StopTraining as StopTraining
from ._schedule import half_life as half_life
from ._schedule import ramp as ramp
from ._schedule import warmup_cosine as warmup_cosine
from ._state import NonFiniteError as NonFiniteError
from ._state import Result as Result
from ._state import TrainState as TrainState
