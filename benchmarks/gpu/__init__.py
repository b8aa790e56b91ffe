"""The GPU suite: see README.md beside this file."""

NO_GPU = 3  # exit status of a part that finds no GPU
