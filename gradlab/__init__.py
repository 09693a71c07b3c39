"""gradlab: a numerical differentiation laboratory on JAX."""

__version__ = "0.1.0"
