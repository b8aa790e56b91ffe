"""The posterior mean E[x0 | x]: exact, trained, wrapped and guided ones."""

from ._base import AbstractDenoiser as AbstractDenoiser
from ._base import AbstractExactDenoiser as AbstractExactDenoiser
from ._circle import Circle as Circle
from ._classes import classes_of as classes_of
from ._classes import is_known as is_known
from ._covariance import Covariance as Covariance
from ._gaussian import Gaussian as Gaussian
from ._guided import Guided as Guided
from ._mixture import GaussianMixture as GaussianMixture
from ._network import check_network as check_network
from ._posterior import posterior as posterior
from ._preconditioned import AbstractCoefficients as AbstractCoefficients
from ._preconditioned import EDMCoefficients as EDMCoefficients
from ._preconditioned import FlowCoefficients as FlowCoefficients
from ._preconditioned import Preconditioned as Preconditioned
from ._preconditioned import VelocityCoefficients as VelocityCoefficients
from ._preconditioned import log_ratio as log_ratio
from ._wrap import Wrapped as Wrapped
from ._wrap import from_function as from_function
from ._wrap import from_noise as from_noise
from ._wrap import from_score as from_score
from ._wrap import from_velocity as from_velocity
from ._wrap import one_sample as one_sample
