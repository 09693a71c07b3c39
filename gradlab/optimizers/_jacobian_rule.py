"""Jacobians by an operator shaped like `jax.grad`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from gradlab._typing import Array, Params
from gradlab.derivatives import finite

__all__ = ["jacobian_rule"]


@dataclass(frozen=True)
class jacobian_rule:  # noqa: N801  # called like a function
    """An operator that takes Jacobians, made of one shaped like `jax.grad`."""

    operator: Callable[..., Any]

    def __call__(self, residuals: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """Build the Jacobian of a function of a vector to a vector."""
        return self._jacobian()(lambda x: residuals(x))

    def num_evaluations(self, params: Params) -> int:
        """Residual vectors evaluated for one Jacobian; 0 where the operator does not say."""
        built = self._jacobian()(lambda x: x)
        count = getattr(built, "num_evaluations", None)
        return 0 if count is None else int(count(params))

    def relative_noise(self, dtype: Any) -> float:
        """Relative error of the Jacobian; rounding where the operator does not say."""
        built = self._jacobian()(lambda x: x)
        noise = getattr(built, "relative_noise", None)
        return float(jnp.finfo(dtype).eps) if noise is None else float(noise(dtype))

    def _jacobian(self) -> Callable[..., Any]:
        """The operator for vectors that belongs to one for scalars."""
        inner = getattr(self.operator, "func", self.operator)
        kept = getattr(self.operator, "args", ()), getattr(self.operator, "keywords", {})
        if inner is finite.grad:
            return functools.partial(finite.jacobian, *kept[0], **kept[1])
        return self.operator
