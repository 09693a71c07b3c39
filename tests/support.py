"""What the tests share: one comparison whose tolerance follows the dtype."""

import jax
import jax.numpy as jnp
import numpy as np


def assert_close(actual, expected, *, factor=100.0, scale=None):
    """Assert that two pytrees agree to `factor` roundings of their coarsest dtype.

    The error is relative to the largest entry of each leaf of `expected`, or to `scale`.
    """
    actual_leaves, actual_tree = jax.tree.flatten(actual)
    expected_leaves, expected_tree = jax.tree.flatten(expected)
    assert actual_tree == expected_tree, f"{actual_tree} != {expected_tree}"
    for a, e in zip(actual_leaves, expected_leaves, strict=True):
        eps = max(_eps(a), _eps(e))
        a, e = np.asarray(a), np.asarray(e)
        assert a.shape == e.shape, f"shape {a.shape} != {e.shape}"
        magnitude = scale if scale is not None else np.max(np.abs(e), initial=0.0)
        error = np.max(np.abs(a.astype(e.dtype) - e), initial=0.0)
        assert error <= factor * eps * magnitude, (
            f"error {error:.3e} > {factor:g} eps × {magnitude:.3e}\n{a}\n{e}"
        )


def _eps(x):
    dtype = jnp.asarray(x).dtype
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0
