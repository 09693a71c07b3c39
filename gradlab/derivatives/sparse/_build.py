"""`hessian` and `jacobian`: find the pattern, colour it, compile, and verify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import Array, Loss, Name, Params
from gradlab.derivatives._checks import in_callers_words
from gradlab.derivatives._leaves import check_params, check_scalar, flatten
from gradlab.derivatives.autodiff import flat_product, linearized
from gradlab.derivatives.sparse._operator import SparseDerivative
from gradlab.derivatives.sparse._plan import Plan, plan_hessian, plan_jacobian
from gradlab.derivatives.sparse._task import Task

__all__ = ["hessian", "jacobian"]

Linear = dict[str, Callable[[Array], Array]]


def hessian(
    f: Loss, x: Params, *args: Any, pattern: Any = None, format: Name = "bcoo"
) -> SparseDerivative:
    r"""Find the pattern of the Hessian of f and compile a function that computes it sparse.

    Found by probing: products H v at x and at a point nearby, with vectors on random buckets
    of columns, tell the entries of all rows at once, and products with fresh vectors, at a
    third point too, confirm them. About 3 to 10 times the longest row in products is usual,
    whatever n. A star colouring then gives columns that share a product: an evaluation takes
    as many products as there are colours, 3 for a tridiagonal matrix, 2 for an arrow, 5 for
    the five-point Laplacian in the plane.

    Entries that vanish at every point looked at are not found: an evaluation where they do
    not vanish raises (`SparseDerivative`). Where f runs through branches, build at a point
    on the branch that matters, or give the `pattern`.

    Args:
        f: Function (x, *args) to a real scalar.
        x: Where the pattern is looked for: any pytree of real floating leaves.
        *args: Further arguments of f.
        pattern: Known pattern, which saves the probing: a boolean matrix, a SciPy or JAX
            sparse matrix, or a pair of row and column numbers. One triangle is enough.
        format: "bcoo", a `jax.experimental.sparse.BCOO`, or "csr", a `scipy.sparse.csr_array`
            (outside `jax.jit` only).

    Returns:
        A `SparseDerivative`, the compiled function (x, *args) to H(x), shape (n, n).

    Raises:
        TypeError: If f does not return a real scalar or a leaf of x is not real floating.
        ValueError: If most of a large H is not zero, or it is not finite at x; if a given
            `pattern` misses entries.

    References:
        Coleman, T. F. and Moré, J. J. (1984). Estimation of sparse Hessian matrices and graph
        coloring problems.
        Gebremedhin, A. H., Manne, F. and Pothen, A. (2005). What color is your Jacobian?

    Examples:
        >>> f = lambda x: jnp.sum((x[1:] - x[:-1]) ** 4)
        >>> H = hessian(f, jnp.arange(100.0))
        >>> print(H.nnz, H.num_products)
        298 3
        >>> print(H(jnp.arange(100.0)).todense()[:2, :3])
        [[ 12. -12.   0.]
         [-12.  24. -12.]]
    """
    check_params(x, "x", holomorphic=False)
    with in_callers_words():
        check_scalar(jax.eval_shape(f, x, *args))

    def products(x: Params, args: tuple[Any, ...]) -> Linear:
        flat, layout = flatten(x)
        product = flat_product(lambda flat: f(layout.unflatten(flat), *args), flat)
        return {"forward": product, "reverse": product}

    n = _size(x)

    def plan(rows: np.ndarray, columns: np.ndarray) -> Plan:
        return plan_hessian(rows, columns, n)

    def certify() -> Any:
        import asdex

        return asdex.hessian_sparsity(lambda x: f(x, *args), x)

    task = Task(products, plan, certify, (n, n), ("forward", "reverse"), symmetric=True)
    return task.compiled(x, args, pattern, format)


def jacobian(
    f: Callable[..., Any], x: Params, *args: Any, pattern: Any = None, format: Name = "bcoo"
) -> SparseDerivative:
    r"""Find the pattern of the Jacobian of f and compile a function that computes it sparse.

    As `hessian`. Columns that share no row have a product J v in common, rows that share no
    column a product Jᵀ w; taken is what needs fewer, and a few rows that are much longer than
    the others have a product each of the other kind.

    Args:
        f: Function (x, *args) to a real floating array or a pytree of them, m entries.
        x: Where the pattern is looked for: any pytree of real floating leaves.
        *args: Further arguments of f.
        pattern: Known pattern, shape (m, n): a boolean matrix, a SciPy or JAX sparse matrix,
            or a pair of row and column numbers.
        format: "bcoo" or "csr", as for `hessian`.

    Returns:
        A `SparseDerivative`, the compiled function (x, *args) to J(x), shape (m, n).

    Raises:
        TypeError: If a leaf of x or of f(x) is not real floating.
        ValueError: If most of a large J is not zero, or it is not finite at x; if a given
            `pattern` misses entries.

    References:
        Curtis, A. R., Powell, M. J. D. and Reid, J. K. (1974). On the estimation of sparse
        Jacobian matrices.

    Examples:
        >>> J = jacobian(lambda x: x[1:] * x[:-1], jnp.arange(4.0))
        >>> print(J(jnp.arange(4.0)).todense(), J.num_products)
        [[1. 0. 0. 0.]
         [0. 2. 1. 0.]
         [0. 0. 3. 2.]] 2
    """
    check_params(x, "x", holomorphic=False)
    with in_callers_words():
        outputs = jax.eval_shape(f, x, *args)
    _check_outputs(outputs)
    kinds = _kinds(f, x, args)

    def products(x: Params, args: tuple[Any, ...]) -> Linear:
        flat, of_flat = _flattened(f, x, args)
        made: Linear = {}
        if "forward" in kinds:
            made["forward"] = jax.linearize(of_flat, flat)[1]
        if "reverse" in kinds:
            pull = jax.vjp(of_flat, flat)[1]
            made["reverse"] = lambda w: pull(w)[0]
        return made

    shape = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(outputs)), _size(x)

    def plan(rows: np.ndarray, columns: np.ndarray) -> Plan:
        allowed = {kind: kind in kinds for kind in ("forward", "reverse")}
        return plan_jacobian(rows, columns, shape, **allowed)

    def certify() -> Any:
        import asdex

        flat, of_flat = _flattened(f, x, args)
        return asdex.jacobian_sparsity(of_flat, flat)

    task = Task(products, plan, certify, shape, kinds, symmetric=False)
    return task.compiled(x, args, pattern, format)


def _check_outputs(outputs: Any) -> None:
    """Raise unless all that f returns can be differentiated."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(outputs):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"`{leaf_name('f(x)', path)}` must be real floating, got {leaf.dtype}. Leave "
                "it out of what `f` returns."
            )
    if not jax.tree.leaves(outputs):
        raise TypeError(f"`f` must return an array, but returned {outputs!r}.")


def _flattened(
    f: Callable[..., Any], x: Params, args: tuple[Any, ...]
) -> tuple[Array, Callable[[Array], Array]]:
    """Return x as one vector, and f from such a vector to all outputs as one."""
    flat, layout = flatten(x)

    def of_flat(flat: Array) -> Array:
        outputs = jax.tree.leaves(f(layout.unflatten(flat), *args))
        return jnp.concatenate([jnp.ravel(leaf).astype(flat.dtype) for leaf in outputs])

    return flat, of_flat


def _kinds(f: Callable[..., Any], x: Params, args: tuple[Any, ...]) -> tuple[str, ...]:
    """Tell which products there are: a `custom_vjp` has no J v, a `while_loop` no Jᵀ w."""
    flat, of_flat = _flattened(f, x, args)
    kinds = ["forward", "reverse"]
    if linearized(of_flat, flat) is None:
        kinds.remove("forward")
    try:
        jax.eval_shape(lambda flat: jax.vjp(of_flat, flat)[1](of_flat(flat)), flat)
    except (ValueError, NotImplementedError):
        if "forward" not in kinds:
            raise
        kinds.remove("reverse")
    return tuple(kinds)


def _size(x: Params) -> int:
    """Count the entries of all leaves."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(x))
