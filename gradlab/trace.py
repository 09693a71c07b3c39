"""What a run leaves behind: one row a step, arrays only.

A `Trace` is a pytree, so it comes out of `jax.jit` and `jax.vmap` as everything else
does. Row k describes the point after k accepted steps; row 0 is the start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gradlab._typing import AnyArray, Array

__all__ = ["Trace"]


class Trace(NamedTuple):
    r"""History of one run (or, under `vmap`, of a batch: a leading axis on every field).

    Rows beyond `num_rows` exist only when the run was traced inside `jit` or `vmap`, where
    shapes are fixed; there they hold NaN (floats) or the last count (integers). Called from
    Python, `minimize` trims them.

    Attributes:
        loss: Loss at each point, shape (k + 1,).
        grad_norm: Largest absolute gradient entry $\|g\|_\infty$, shape (k + 1,).
        step_norm: Euclidean length of the step that led here, shape (k + 1,); 0 at the start.
        nfev: Losses evaluated so far, shape (k + 1,).
        ngev: Gradients so far.
        nhvp: Hessian-vector products so far.
        nhev: Dense Hessians so far.
        seconds: Wall time so far without compilation, shape (k + 1,); NaN inside `jit`.
        num_rows: How many rows are filled, shape ().
        num_params: Number n of variables, shape ().
        compile_seconds: Time spent tracing and compiling, shape (); NaN inside `jit`.
        params: The iterates, each leaf with a leading axis (k + 1), or None.
    """

    loss: Array
    grad_norm: Array
    step_norm: Array
    nfev: Array
    ngev: Array
    nhvp: Array
    nhev: Array
    seconds: Array
    num_rows: AnyArray
    num_params: AnyArray
    compile_seconds: Array
    params: Any = None

    @property
    def cost(self) -> Any:
        """Cost so far in gradient equivalents, from the counted evaluations.

        One loss = 1/3, one gradient = 1, one Hessian-vector product = 2, one dense Hessian
        of n variables = 2n. A gradient taken by differences is counted as the losses it
        evaluates.
        """
        n = self.num_params[..., None] if np.ndim(self.num_params) else self.num_params
        return self.nfev / 3 + self.ngev + 2.0 * self.nhvp + 2.0 * n * self.nhev

    @property
    def steps(self) -> Any:
        """Step numbers 0, 1, …, k."""
        return np.arange(np.shape(self.loss)[-1])
