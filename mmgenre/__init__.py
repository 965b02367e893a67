"""Movie genres from plots and posters, for whole catalogues, on Ray."""

__version__ = "0.1.0"
