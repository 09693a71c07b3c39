"""Second derivatives by automatic differentiation, in bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab._equal_programs import computed
from gradlab._errors import check_choice, leaf_name
from gradlab._typing import Array, Loss, Number, Params, PyTree, Scalar
from gradlab.derivatives._jaxpr import primitive_names
from gradlab.derivatives._leaves import (
    check_params,
    check_scalar,
    eps_of,
    flatten,
    same_structure,
    select_arguments,
)
from gradlab.derivatives._memory import (
    checked_bytes,
    columns_together,
    peak_bytes,
    room_for_hessian,
)
from gradlab.derivatives._numpy import inside_a_transformation, needs_numbers
from gradlab.derivatives._stencils import relative_length, relative_step

__all__ = [
    "flat_hessian",
    "flat_product",
    "hessian",
    "hvp",
    "linearized",
    "value_grad_hvp",
]

MODES = ("forward_over_reverse", "reverse_over_forward", "reverse_over_reverse", "finite")


def value_grad_hvp(
    f: Loss, x: Params, *args: Any
) -> tuple[Scalar, Params, Callable[[Params], Params]]:
    r"""Value, gradient and Hessian-vector products of f at x, from one linearisation.

    The gradient is linearised once (forward-over-reverse), so each product
    $H(x) v$ repeats only the linear part, about two gradients. A function with a
    `custom_vjp` has no forward mode: its products are reverse-over-reverse.

    Args:
        f: Function (x, *args) to a real scalar.
        x: Any pytree of real floating leaves.
        *args: Further arguments of f.

    Returns:
        The value, the gradient shaped like x, and a function of v, shaped like x, to H v.

    Raises:
        TypeError: If f does not return a real scalar or a leaf of x is not real floating.

    References:
        Pearlmutter, B. A. (1994). Fast exact multiplication by the Hessian.

    Examples:
        >>> value, gradient, product = value_grad_hvp(lambda x: jnp.sum(x**3), jnp.arange(3.0))
        >>> print(value, gradient, product(jnp.ones(3)))
        9.0 [ 0.  3. 12.] [ 0.  6. 12.]
    """
    x, _ = _checked(f, x, args)

    def value_and_grad(x: Params) -> tuple[Any, Params]:
        return jax.value_and_grad(f)(x, *args)

    linear = linearized(value_and_grad, x)
    if linear is None:
        gradient, pull, value = jax.vjp(lambda x: value_and_grad(x)[::-1], x, has_aux=True)
        return value, gradient, lambda v: pull(_as_tangent(v, x))[0]
    (value, gradient), push = linear
    return value, gradient, lambda v: push(_as_tangent(v, x))[1]


def hvp(
    f: Loss, x: Params, v: Params, *args: Any, mode: str = "forward_over_reverse"
) -> Params:
    r"""Hessian-vector product $H(x) v$, without forming the Hessian.

    The modes differ less in time than in memory. Measured on two cores, in evaluations of f
    (`experiments/curvature_cost.py`; a gradient takes 2.5 by count, 3.0 by time):

    =====================  ==================  =========  ==========================
    ..                     network, n = 93,095            recurrent, 100 steps
    mode                   operations, time    memory     time, memory
    =====================  ==================  =========  ==========================
    forward_over_reverse   5.5, 6.7            3.4 MB     10.7, 16 MB
    reverse_over_forward   5.6, 7.0            4.7 MB      8.8, 18 MB
    reverse_over_reverse   5.6, 7.0            4.7 MB     12.5, 31 MB
    finite                 5.1, 8.8            3.8 MB      9.2, 18 MB
    =====================  ==================  =========  ==========================

    So "forward_over_reverse" is the cheapest as a rule, and the default;
    "reverse_over_forward" may be faster through long loops; "reverse_over_reverse" is for
    functions without forward mode; "finite", two gradients, for those without second
    derivatives: $(\nabla f(x + t v) - \nabla f(x - t v)) / 2t$ with t v of eps^(1/3) of the
    size of x, hence about two thirds of the digits. Of many products at one x each takes 5.3
    by `value_grad_hvp`.

    Args:
        f: Function (x, *args) to a real scalar.
        x: Any pytree of real floating leaves.
        v: Direction, shaped like x.
        *args: Further arguments of f.
        mode: "forward_over_reverse", "reverse_over_forward", "reverse_over_reverse" or
            "finite". Where f has no forward mode (a `custom_vjp`) the first two are
            "reverse_over_reverse".

    Returns:
        H(x) v, shaped like x.

    Raises:
        TypeError: If f does not return a real scalar or a leaf of x is not real floating.
        ValueError: If `mode` is unknown or v is not shaped like x.

    References:
        Pearlmutter, B. A. (1994). Fast exact multiplication by the Hessian.

    Examples:
        >>> print(hvp(lambda x: x[0] ** 2 * x[1], jnp.ones(2), jnp.array([1.0, 0.0])))
        [2. 2.]
    """
    check_choice("mode", mode, MODES)
    x, names = _checked(f, x, args)
    v = _as_tangent(v, x)
    if any(name.startswith("custom_vjp") for name in names):
        mode = _mode_for_custom_vjp(mode, lambda x: f(x, *args), x, v)
    return _MODES[mode](lambda x: f(x, *args), x, v)


def hessian(
    f: Loss,
    *,
    chunk_size: int | None = None,
    max_bytes: Number | None = None,
    mesh: jax.sharding.Mesh | None = None,
    argnums: int | tuple[int, ...] = 0,
) -> Callable[..., PyTree]:
    r"""Build the dense Hessian of a scalar function, like `jax.hessian`, in bounded memory.

    The gradient is linearised once and pushed along `chunk_size` unit vectors at a time, so
    that memory beyond the result is that of `chunk_size` products, not n: at n = 3,080 it
    was measured at 1.2 times the result, where `jax.hessian` takes 20 times. The result is
    symmetric to the last bit, (H + Hᵀ) / 2.

    Args:
        f: Function (x, *args) to a real scalar.
        chunk_size: Columns computed together, 1 or more. By default as many as take a
            quarter of the memory of the result, at least 8 and at most 32.
        max_bytes: Most bytes that the result and the memory beside it may take; by default
            all that the machine has (the device, where it tells).
        mesh: Devices over which the rows are spread; `chunk_size` is then that of each.
        argnums: Which argument(s) to differentiate, as in `jax.hessian`.

    Returns:
        A function of the arguments of f to the Hessian: for an array x of shape x.shape +
        x.shape; for a pytree, a pytree of pytrees of such blocks. It costs n products, about
        2n gradients at the most.

    Raises:
        TypeError: If f does not return a real scalar or a leaf is not real floating.
        ValueError: If the n × n result does not fit: the message says how many gigabytes it
            takes. An option is out of range.

    References:
        Griewank, A. and Walther, A. (2008). Evaluating Derivatives, chapter 3.

    Examples:
        >>> print(hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 2.0])))
        [[4. 2.]
         [2. 0.]]
    """
    _check_chunk(chunk_size)
    most = checked_bytes(max_bytes)

    def dense(*args: Any) -> PyTree:
        params, replace = select_arguments(args, argnums)
        params, _ = _checked(lambda params: f(*replace(params)), params, ())
        point, layout = flatten(params)

        def of_flat(flat: Array) -> Any:
            return f(*replace(layout.unflatten(flat)))

        matrix = flat_hessian(of_flat, point, chunk_size, max_bytes=most, mesh=mesh)
        return layout.blocks(matrix)

    return dense


def flat_hessian(
    f: Callable[[Array], Any],
    x: Array,
    chunk_size: int | None = None,
    *,
    max_bytes: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Array:
    """Return the symmetric dense Hessian, shape (n, n), of f at the flat x, shape (n,)."""
    n, itemsize = x.size, x.dtype.itemsize
    room = room_for_hessian(n, itemsize, max_bytes, 1 if mesh is None else mesh.size)
    product = flat_product(f, x)

    def column(i: Array) -> Array:
        return product(jnp.zeros_like(x).at[i].set(1))

    if chunk_size is None:
        each = peak_bytes(jax.make_jaxpr(column)(0).jaxpr)
        chunk_size = columns_together(n, itemsize, each, room)
    if mesh is not None:
        columns = _spread_columns(product, x, chunk_size, mesh)
    else:
        loop = functools.partial(jax.lax.map, column, batch_size=min(n, chunk_size))
        columns = computed(loop, jnp.arange(n))
    return (columns + columns.T) / 2


def flat_product(f: Callable[[Array], Any], x: Array) -> Callable[[Array], Array]:
    """Return v ↦ H v for the flat x, linearised once; reverse where forward is missing."""
    gradient = jax.grad(f)
    linear = linearized(gradient, x)
    if linear is not None:
        return linear[1]
    pull = jax.vjp(gradient, x)[1]
    return lambda v: pull(v)[0]


def _spread_columns(
    product: Callable[[Array], Array], x: Array, chunk_size: int, mesh: jax.sharding.Mesh
) -> Array:
    """Compute the columns with each device of a mesh taking an equal share of them."""
    n, devices = x.size, mesh.size
    chunk = max(1, min(chunk_size, -(-n // devices)))
    rounds = -(-n // (devices * chunk))
    # Axes that the compiler may use as it likes, whatever kind the mesh came with.
    axes = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    spread = jax.sharding.NamedSharding(axes, jax.sharding.PartitionSpec(mesh.axis_names))

    @jax.jit
    def compute() -> Array:
        # Device d takes the entries d·rounds·chunk and on, `chunk` of them a round.
        entries = jnp.arange(devices * rounds * chunk).reshape(devices, rounds, chunk)

        def together(numbers: Array) -> Array:
            units = jax.nn.one_hot(numbers, n, dtype=x.dtype)  # a zero row beyond n
            units = jax.lax.with_sharding_constraint(units, spread)
            images = jax.vmap(jax.vmap(product))(units)
            return jax.lax.with_sharding_constraint(images, spread)

        columns = jax.lax.map(together, jnp.moveaxis(entries, 1, 0))
        return jnp.moveaxis(columns, 0, 1).reshape(-1, n)[:n]

    return compute()


def _forward_over_reverse(f: Loss, x: Params, v: Params) -> Params:
    """Differentiate the gradient along v."""
    return jax.jvp(jax.grad(f), (x,), (v,))[1]


def _reverse_over_forward(f: Loss, x: Params, v: Params) -> Params:
    """Take the gradient of the derivative along v."""
    return jax.grad(lambda x: jax.jvp(f, (x,), (v,))[1])(x)


def _reverse_over_reverse(f: Loss, x: Params, v: Params) -> Params:
    """Pull v back through the gradient: H is its own transpose."""
    return jax.vjp(jax.grad(f), x)[1](v)[0]


def _finite(f: Loss, x: Params, v: Params) -> Params:
    """Difference the gradient along v, on a step that follows the sizes of x and v."""
    point, layout = flatten(x)
    direction = flatten(v)[0].astype(point.dtype)
    length = relative_length(layout, point, direction, 2)
    reach = relative_step(max(eps_of(d) for d in layout.dtypes), 1, 2)
    unit = jnp.where(length > 0, direction / length, 0.0) * reach

    def gradient(flat: Array) -> Array:
        return flatten(jax.grad(f)(layout.unflatten(flat)))[0]

    change = (gradient(point + unit) - gradient(point - unit)) / (2 * reach)
    return layout.unflatten(change * length)


_MODES = {
    "forward_over_reverse": _forward_over_reverse,
    "reverse_over_forward": _reverse_over_forward,
    "reverse_over_reverse": _reverse_over_reverse,
    "finite": _finite,
}


def _checked(f: Loss, x: Params, args: tuple[Any, ...]) -> tuple[Params, set[str]]:
    """Return x with array leaves, and the primitives of f, after checking both."""
    check_params(x, "x", holomorphic=False)
    x = jax.tree.map(jnp.asarray, x)
    try:
        traced, out = jax.make_jaxpr(lambda x: f(x, *args), return_shape=True)(x)
    except Exception as error:
        if not needs_numbers(error):
            raise
        raise TypeError(inside_a_transformation(error)) from error
    check_scalar(out)
    return x, primitive_names(traced.jaxpr)


def _mode_for_custom_vjp(mode: str, f: Loss, x: Params, v: Params) -> str:
    """Return `mode`, or "reverse_over_reverse" where it needs a missing forward mode."""
    if mode in ("reverse_over_reverse", "finite"):
        return mode
    try:
        works = _has_forward_mode(lambda x, v: _MODES[mode](f, x, v), x, v)
    except (TypeError, NotImplementedError) as error:
        if not _lacks_forward_mode(error):
            raise
        works = False
    return mode if works else "reverse_over_reverse"


def _as_tangent(v: Params, x: Params) -> Params:
    """Return v in the shapes and dtypes of x."""
    if not same_structure(v, x):
        raise ValueError(
            f"`v` must have the structure of `x`, {jax.tree.structure(x)}, got "
            f"{jax.tree.structure(v)}."
        )

    def leaf(path: Any, v: Any, x: Array) -> Array:
        if jnp.shape(v) != x.shape:
            raise ValueError(
                f"`{leaf_name('v', path)}` must have the shape of `{leaf_name('x', path)}`, "
                f"{x.shape}, got {jnp.shape(v)}."
            )
        return jnp.asarray(v, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, v, x)


def linearized(function: Callable[[Any], Any], x: Any) -> Any:
    """Linearise at x; None where a custom_vjp has no forward mode."""
    try:
        out, push = jax.linearize(function, x)
        return (out, push) if _has_forward_mode(push, x) else None
    except (TypeError, NotImplementedError) as error:
        if not _lacks_forward_mode(error):
            raise
        return None


def _has_forward_mode(function: Callable[..., Any], *operands: Any) -> bool:
    """Whether a traced derivative is free of what JAX refuses only when it is compiled."""
    return "custom_lin" not in primitive_names(jax.make_jaxpr(function)(*operands).jaxpr)


def _lacks_forward_mode(error: Exception) -> bool:
    """Whether JAX says that a custom_vjp has no forward mode."""
    said = str(error)
    return ("forward-mode" in said and "custom_vjp" in said) or "'custom_lin'" in said


def _check_chunk(chunk_size: Any) -> None:
    """Raise unless `chunk_size` is None or a positive integer."""
    if chunk_size is None:
        return
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise ValueError(f"`chunk_size` must be a positive integer, got {chunk_size!r}.")
