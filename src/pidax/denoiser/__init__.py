"""The posterior mean E[x0 | x]: exact ones, wrapped ones, guided ones."""

from ._base import AbstractDenoiser as AbstractDenoiser
from ._base import AbstractExactDenoiser as AbstractExactDenoiser
from ._circle import Circle as Circle
from ._covariance import Covariance as Covariance
from ._gaussian import Gaussian as Gaussian
from ._guided import Guided as Guided
from ._mixture import GaussianMixture as GaussianMixture
from ._posterior import posterior as posterior
from ._wrap import Wrapped as Wrapped
from ._wrap import from_function as from_function
from ._wrap import from_noise as from_noise
from ._wrap import from_score as from_score
from ._wrap import from_velocity as from_velocity
