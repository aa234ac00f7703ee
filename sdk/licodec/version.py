"""The version of the distribution, declared once: pyproject.toml and `licodec.__version__` read it here."""

__version__ = "0.1.1.dev0"
