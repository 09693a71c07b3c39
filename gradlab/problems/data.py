"""Small data sets that scikit-learn and statsmodels carry with them; nothing is downloaded.

The text that ships with Python is in `text`. Arrays are NumPy, float64 (labels int32) and
read-only, because the cache hands every caller the same ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradlab._typing import Float, Int

# Where the data come from and what allows their use; `gradlab list problems` reads these.
DIABETES = "Efron et al. (2004), Annals of Statistics 32:407-499; through scikit-learn."
BREAST_CANCER = "Wolberg et al. (1993), UCI repository, CC BY 4.0; through scikit-learn."
DIGITS = "Alpaydin & Kaynak (1998), UCI repository, CC BY 4.0; through scikit-learn."
WINE = "Aeberhard & Forina (1992), UCI repository, CC BY 4.0; through scikit-learn."
SUNSPOTS = "National Geophysical Data Center, public domain; through statsmodels."
TEXT = "Python's language reference, in pydoc_data.topics; PSF licence; ships with Python."
EXACT = "An exact solution, by construction."

__all__ = [
    "breast_cancer",
    "check_share",
    "checked_penalty",
    "diabetes",
    "digits",
    "sample",
    "split",
    "sunspots",
    "wine",
]


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


@functools.cache
def wine() -> tuple[Float[np.ndarray, "N d"], Int[np.ndarray, " N"]]:
    """Return 178 wines × 13 measurements, standardised, and the grower of each.

    Returns:
        Features, shape (178, 13), and classes 0 to 2, shape (178,), int32.

    Raises:
        ImportError: If scikit-learn is not installed.

    References:
        Aeberhard, S. & Forina, M. (1992). Wine, UCI Machine Learning Repository, CC BY 4.0.
    """
    features, labels = _load("load_wine")
    return _read_only(_standardize(features)), _read_only(labels.astype(np.int32))


@functools.cache
def sunspots() -> Float[np.ndarray, " N"]:
    """Return the mean number of sunspots of each year from 1700 to 2008.

    Returns:
        Numbers, shape (309,).

    Raises:
        ImportError: If statsmodels is not installed.

    References:
        National Geophysical Data Center; in the public domain; through statsmodels.
    """
    try:
        import statsmodels.datasets.sunspots as package
    except ImportError as error:
        raise ImportError(
            "the sunspots come with statsmodels, which is not installed: "
            'pip install "gradlab-jax[experiments]".'
        ) from error
    return _read_only(np.array(package.load_pandas().endog, np.float64))


def split(
    arrays: tuple[np.ndarray, ...], held_out: float, *, rows: int | None = None
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Divide the rows at random, always in the same way, into training and held-out ones.

    Args:
        arrays: Arrays of N rows each.
        held_out: Share to hold out, from 0 to below 1; 0 leaves all rows in their order.
        rows: How many rows to train on; all that are left by default.

    Returns:
        The training arrays, and the held-out ones, an empty tuple where none are.

    Raises:
        ValueError: If the share or the number of rows is not a possible one.

    Examples:
        >>> train, test = split((np.arange(8),), 0.25)
        >>> print(train[0].shape, test[0].shape)
        (6,) (2,)
    """
    check_share(held_out)
    size = len(arrays[0])
    kept = size - round(held_out * size)
    if rows is not None and not 1 <= rows <= kept:
        raise ValueError(f"`rows` must be from 1 to {kept}, got {rows}.")
    if held_out == 0 and rows is None:
        return arrays, ()
    order = np.random.default_rng(0).permutation(size)
    train, test = np.sort(order[:kept][:rows]), np.sort(order[kept:])
    if not test.size:
        return tuple(a[train] for a in arrays), ()
    return tuple(a[train] for a in arrays), tuple(a[test] for a in arrays)


def sample(
    arrays: tuple[np.ndarray, ...], rows: int, held_out: float
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Draw rows without replacement, always the same, and divide them as `split` does.

    Args:
        arrays: Arrays of N rows each.
        rows: How many to train on.
        held_out: Share of the rows drawn that is held out beside them.

    Returns:
        The training arrays, of exactly `rows` rows, and the held-out ones.

    Raises:
        ValueError: If there are not so many rows, or the share is not a possible one.

    Examples:
        >>> train, test = sample((np.arange(100),), 8, 0.2)
        >>> print(train[0].shape, test[0].shape)
        (8,) (2,)
    """
    check_share(held_out)
    wanted = round(rows / (1 - held_out))
    wanted += wanted - round(held_out * wanted) < rows  # rounding may have taken one too many
    size = len(arrays[0])
    if rows < 1 or wanted > size:
        raise ValueError(f"`rows` must be from 1 to {int(size * (1 - held_out))}, got {rows}.")
    chosen = np.sort(np.random.default_rng(1).permutation(size)[:wanted])
    return split(tuple(array[chosen] for array in arrays), held_out, rows=rows)


def check_share(held_out: float) -> None:
    """Raise unless the share of rows to hold out is a possible one."""
    if not 0 <= held_out < 1:
        raise ValueError(f"`held_out` must be at least 0 and below 1, got {held_out}.")


def checked_penalty(l2: float) -> np.float64:
    """Return the factor of a penalty as data; raise unless it is a possible one."""
    if not 0 <= l2 < math.inf:
        raise ValueError(f"`l2` must be zero or positive and finite, got {l2}.")
    return np.float64(l2)


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
