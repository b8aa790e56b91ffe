"""Functions of arrays that say how far apart two things are."""

from ._errors import rms_error as rms_error
