"""Denoisers, E[x0 | x]: exact, trained, wrapped and guided."""

from ._circle import Circle as Circle
from ._clean_posterior import WeightedSamples as WeightedSamples
from ._clean_posterior import clean_posterior as clean_posterior
from ._clean_posterior import latent_posterior as latent_posterior
from ._denoiser import AbstractDenoiser as AbstractDenoiser
from ._denoiser import AbstractExactDenoiser as AbstractExactDenoiser
from ._gaussian import Covariance as Covariance
from ._gaussian import Gaussian as Gaussian
from ._guided import Guided as Guided
from ._mixture import GaussianMixture as GaussianMixture
from ._preconditioned import AbstractCoefficients as AbstractCoefficients
from ._preconditioned import ConsistencyCoefficients as ConsistencyCoefficients
from ._preconditioned import EDMCoefficients as EDMCoefficients
from ._preconditioned import FlowCoefficients as FlowCoefficients
from ._preconditioned import IDDPMCoefficients as IDDPMCoefficients
from ._preconditioned import Preconditioned as Preconditioned
from ._preconditioned import VECoefficients as VECoefficients
from ._preconditioned import VelocityCoefficients as VelocityCoefficients
from ._preconditioned import VPCoefficients as VPCoefficients
from ._preconditioned import iddpm_levels as iddpm_levels
from ._preconditioned import log_ratio as log_ratio
from ._wrapped import Wrapped as Wrapped
from ._wrapped import from_function as from_function
from ._wrapped import from_noise as from_noise
from ._wrapped import from_score as from_score
from ._wrapped import from_velocity as from_velocity
