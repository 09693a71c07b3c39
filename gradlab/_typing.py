"""The types of the public signatures, with shapes for whoever checks them.

Shapes use the same letters everywhere: n variables, m residuals, N samples,
d features, k steps. The tests import jaxtyping before gradlab and check the shapes at every
call; users need not have it, and those who have it do not wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Complex, Float, Inexact, Int, PRNGKeyArray, Shaped
else:
    if "jaxtyping" in sys.modules:
        from jaxtyping import Bool, Complex, Float, Inexact, Int, PRNGKeyArray, Shaped
    else:  # shapes are documentation only

        class _Plain:
            """Stands in for a jaxtyping dtype: `Float[Array, "n"]` is just `Array`."""

            def __getitem__(self, item):
                return item[0]

        Bool = Complex = Float = Inexact = Int = Shaped = _Plain()
        PRNGKeyArray = jax.Array

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
AnyArray = jax.Array | np.ndarray
Params = Any  # any pytree of floating leaves
PyTree = Any
Scalar = Float[Array, ""]
Vector = Float[Array, " n"]
Matrix = Float[Array, "n n"]
if TYPE_CHECKING:
    Loss = Callable[..., Any]  # (params, *args) -> scalar
    GradientOperator = Callable[..., Callable[..., Any]]  # shaped like jax.grad
    Number = float  # checked where it comes in
    Count = int
    Name = str
else:  # what the public functions check themselves, in the caller's words
    Loss = GradientOperator = Number = Count = Name = Any

__all__ = [
    "AnyArray",
    "Array",
    "ArrayLike",
    "Bool",
    "Complex",
    "Count",
    "Float",
    "GradientOperator",
    "Inexact",
    "Int",
    "Loss",
    "Matrix",
    "Name",
    "Number",
    "PRNGKeyArray",
    "Params",
    "PyTree",
    "Scalar",
    "Shaped",
    "Vector",
]
