"""What is minimised: objectives, one idea in each file."""

from ._attention import AbstractSampling as AbstractSampling
from ._attention import AbstractWeighting as AbstractWeighting
from ._attention import ByLoss as ByLoss
from ._attention import Causal as Causal
from ._attention import Even as Even
from ._attention import Opening as Opening
from ._attention import Towards as Towards
from ._attention import Unweighted as Unweighted
from ._base import AbstractObjective as AbstractObjective
from ._base import AbstractStatelessObjective as AbstractStatelessObjective
from ._denoising import DenoisingScoreMatching as DenoisingScoreMatching
from ._distances import L1 as L1
from ._distances import L2 as L2
from ._distances import AbstractDistance as AbstractDistance
from ._distances import PseudoHuber as PseudoHuber
from ._flow_matching import FlowMatching as FlowMatching
from ._knowledge import KnowledgeDistillation as KnowledgeDistillation
from ._knowledge import Pairs as Pairs
from ._laws import AbstractTimeLaw as AbstractTimeLaw
from ._laws import LogitNormal as LogitNormal
from ._laws import LogNormal as LogNormal
from ._laws import UniformAngle as UniformAngle
from ._laws import UniformTime as UniformTime
from ._pid import PID as PID
from ._pid import PIDState as PIDState
