"""The HTTP service and the worker around r3core: FastAPI, Redis, images, and the `r3` command."""

__version__ = "0.1.0"
