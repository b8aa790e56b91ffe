"""The whole trajectory x(z, t) as one network."""

from ._student import Student as Student
