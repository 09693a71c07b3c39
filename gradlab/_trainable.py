"""Parameters of which a part is held fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import Params
from gradlab.result import Result

__all__ = ["Part"]


@dataclass(frozen=True)
class Part:
    """Which leaves of a tree are trained."""

    structure: Any
    trained: tuple[bool, ...]

    @classmethod
    def of(cls, params: Params, mask: Any) -> Part:
        """Read a mask: a tree of booleans or a prefix of one, or a function that makes it."""
        mask = mask(params) if callable(mask) else mask
        for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
            if not isinstance(leaf, bool | np.bool_):
                raise TypeError(
                    f"{leaf_name('trainable', path)} is {type(leaf).__name__}; expected True "
                    "to train the leaves below it, or False to hold them fixed."
                )
        try:
            broadcast = jax.tree.broadcast(mask, params)
        except ValueError as error:
            raise ValueError(
                "`trainable` must be shaped like `x0`, or like its upper part: "
                f"{jax.tree.structure(mask)} does not begin {jax.tree.structure(params)}."
            ) from error
        trained = tuple(bool(leaf) for leaf in jax.tree.leaves(broadcast))
        if not any(trained):
            raise ValueError("`trainable` holds every leaf fixed; at least one must be True.")
        return cls(jax.tree.structure(params), trained)

    def split(self, params: Params) -> tuple[list[Any], list[Any]]:
        """Separate the leaves trained from those held fixed."""
        leaves = list(zip(jax.tree.leaves(params), self.trained, strict=True))
        return [x for x, mine in leaves if mine], [x for x, mine in leaves if not mine]

    def merge(self, trained: list[Any], fixed: list[Any]) -> Params:
        """Put the tree together again."""
        parts = {True: iter(trained), False: iter(fixed)}
        return self.structure.unflatten([next(parts[mine]) for mine in self.trained])

    def wrap(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """Make a loss of the leaves trained; equal losses stay equal."""
        return _OfPart(loss, self)

    def complete(self, result: Result, fixed: list[Any]) -> Result:
        """Give a result of the leaves trained the shape of the whole tree."""
        still = [jnp.zeros_like(leaf) for leaf in fixed]
        trace = result.trace
        if trace is not None and trace.params is not None:
            rows = trace.loss.shape[0]
            kept = [np.broadcast_to(leaf, (rows, *np.shape(leaf))) for leaf in fixed]
            trace = trace._replace(params=self.merge(trace.params, kept))
        return result._replace(
            x=self.merge(result.x, fixed), grad=self.merge(result.grad, still), trace=trace
        )


@dataclass(frozen=True)
class _OfPart:
    """A loss of a tree, called with the leaves trained, then those held fixed."""

    loss: Callable[..., Any]
    part: Part

    def __call__(self, trained: list[Any], fixed: list[Any], *args: Any) -> Any:
        return self.loss(self.part.merge(trained, fixed), *args)
