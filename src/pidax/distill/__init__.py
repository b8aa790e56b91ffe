"""What is minimised: objectives, one idea in each file."""

from ._base import AbstractObjective as AbstractObjective
from ._base import AbstractStatelessObjective as AbstractStatelessObjective
from ._denoising import DenoisingScoreMatching as DenoisingScoreMatching
from ._flow_matching import FlowMatching as FlowMatching
from ._knowledge import KnowledgeDistillation as KnowledgeDistillation
from ._knowledge import Pairs as Pairs
from ._laws import AbstractTimeLaw as AbstractTimeLaw
from ._laws import LogitNormal as LogitNormal
from ._laws import LogNormal as LogNormal
from ._laws import UniformAngle as UniformAngle
from ._laws import UniformTime as UniformTime
