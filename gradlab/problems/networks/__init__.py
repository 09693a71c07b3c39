"""Neural networks as pure losses with real data, for every method of the laboratory.

Parameters are dictionaries and lists of arrays, with no framework; the data are arguments.
Each problem has held-out data and metrics (`Problem.evaluate`), and options for its sizes;
the defaults are small, so that a Newton method is no wait either.
"""

from gradlab.problems.networks import (
    attention,
    autoencoder,
    convolution,
    embeddings,
    factorization,
    language,
    layers,
    perceptron,
    physics,
    recurrent,
    training,
)

__all__ = [
    "attention",
    "autoencoder",
    "convolution",
    "embeddings",
    "factorization",
    "language",
    "layers",
    "perceptron",
    "physics",
    "recurrent",
    "training",
]
