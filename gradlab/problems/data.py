"""Small data sets that scikit-learn carries with it; nothing is ever downloaded.

Arrays are NumPy, float64 (labels int32) and read-only, because the cache hands every caller
the same ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gradlab._typing import Float, Int

__all__ = ["breast_cancer", "diabetes", "digits"]


@functools.cache
def diabetes() -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " N"]]:
    """Return 442 patients × 10 features and the progression of their disease, standardised.

    Returns:
        Features, shape (442, 10), and targets, shape (442,), all of mean 0 and variance 1.

    Raises:
        ImportError: If scikit-learn is not installed.

    References:
        Efron, B. et al. (2004). Least angle regression. Annals of Statistics 32:407-499.
    """
    features, targets = _load("load_diabetes", scaled=False)
    return _read_only(_standardize(features)), _read_only(_standardize(targets))


@functools.cache
def breast_cancer() -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " N"]]:
    """Return 569 tumours × 30 features, standardised, and +1 (benign) or -1 (malignant).

    Returns:
        Features, shape (569, 30), and signs, shape (569,).

    Raises:
        ImportError: If scikit-learn is not installed.

    References:
        Wolberg, W. et al. (1993). Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning
        Repository, CC BY 4.0.
    """
    features, labels = _load("load_breast_cancer")
    return _read_only(_standardize(features)), _read_only(2.0 * labels - 1.0)


@functools.cache
def digits() -> tuple[Float[np.ndarray, "N d"], Int[np.ndarray, " N"]]:
    """Return 1797 pictures of 8 × 8 pixels in [0, 1] and the digit that each shows.

    Returns:
        Features, shape (1797, 64), and classes 0 to 9, shape (1797,), int32.

    Raises:
        ImportError: If scikit-learn is not installed.

    References:
        Alpaydin, E. & Kaynak, C. (1998). Optical Recognition of Handwritten Digits, UCI
        Machine Learning Repository, CC BY 4.0.
    """
    features, labels = _load("load_digits")
    return _read_only(features / 16.0), _read_only(labels.astype(np.int32))


def _load(loader: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Call one of scikit-learn's loaders of bundled data."""
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            "this data set comes with scikit-learn, which is not installed: "
            'pip install "gradlab-jax[experiments]".'
        ) from error
    load: Callable[..., Any] = getattr(sklearn.datasets, loader)
    features, targets = load(return_X_y=True, **options)
    return np.asarray(features, np.float64), np.asarray(targets)


def _standardize(columns: np.ndarray) -> np.ndarray:
    """Shift and scale each column to mean 0 and variance 1."""
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


def _read_only(array: np.ndarray) -> np.ndarray:
    """Protect a cached array from its users."""
    array.setflags(write=False)
    return array
