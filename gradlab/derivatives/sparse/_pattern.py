"""Patterns that the caller knows, in any of the forms they come in."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["given_pattern"]


def given_pattern(pattern: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of a pattern of the given shape, or raise."""
    if isinstance(pattern, tuple) and len(pattern) == 2:
        rows, columns = (np.asarray(part) for part in pattern)
    else:
        rows, columns = _entries(pattern, shape)
    for part, length in ((rows, shape[0]), (columns, shape[1])):
        whole = np.issubdtype(part.dtype, np.integer) or part.size == 0
        if not whole or part.ndim != 1 or rows.shape != columns.shape:
            raise ValueError(
                "`pattern` must be a pair of integer arrays of equal length, rows and columns, "
                f"got {rows.dtype} of shape {rows.shape} and {columns.dtype} of shape "
                f"{columns.shape}."
            )
        if part.size and not 0 <= part.min() <= part.max() < length:
            raise ValueError(
                f"`pattern` must lie within shape {shape}, got numbers from {part.min()} to "
                f"{part.max()}."
            )
    return rows.astype(np.int64), columns.astype(np.int64)


def _entries(pattern: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the nonzero entries of a matrix, sparse or dense."""
    if getattr(pattern, "shape", None) != shape:
        raise ValueError(
            f"`pattern` must be a matrix of shape {shape}, or a pair of row and column "
            f"numbers, got {type(pattern).__name__} of shape "
            f"{getattr(pattern, 'shape', 'none')}."
        )
    if hasattr(pattern, "tocoo"):  # SciPy
        entries = pattern.tocoo()
        return np.asarray(entries.row), np.asarray(entries.col)
    if hasattr(pattern, "indices") and hasattr(pattern, "todense"):  # BCOO
        indices = np.asarray(pattern.indices)
        inside = np.all(indices < np.asarray(shape), axis=1)  # padding is out of bounds
        return indices[inside, 0], indices[inside, 1]
    rows, columns = np.nonzero(np.asarray(pattern))
    return rows, columns
