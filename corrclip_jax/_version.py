"""Version of the package, alone in its module so that reading it imports nothing else."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("corrclip-jax")
except PackageNotFoundError:  # a plain checkout on PYTHONPATH
    __version__ = "0+checkout"
