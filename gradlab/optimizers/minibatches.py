"""Any method on minibatches: steps on a few rows of the data at a time, as one update."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._checks import check_count
from gradlab._typing import Array, Count, Params
from gradlab.optimizers._protocol import calls_made, takes_args

__all__ = ["MinibatchState", "Minibatches", "OnMinibatches", "minibatches"]

# A step of the host's kind evaluates a loss and its gradient.
_BOTH = (1, 1, 0, 0)


@dataclass(frozen=True, eq=False)
class Minibatches:
    """How data are cut into minibatches; made by `minibatches`."""

    size: int
    key: Any
    steps: int | None

    def rows(self, args: tuple[Any, ...]) -> int:
        """Number of rows N of the data, checked."""
        lengths = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(args) if jnp.ndim(leaf)}
        if len(lengths) != 1:
            raise ValueError(
                "With `batches` every array in `args` must have one row for each sample, but "
                f"their first axes have lengths {sorted(lengths)}. Close over what is not "
                "data, or pass numbers, which every batch gets."
            )
        (rows,) = lengths
        if self.size > rows:
            raise ValueError(
                f"`size` must be at most the number of rows {rows}, got {self.size}."
            )
        return rows


def minibatches(size: Count, *, key: Any, steps: Count | None = None) -> Minibatches:
    r"""Say how `minimize` cuts the rows of `args` into minibatches.

    With `minimize(loss, x0, method, args=(inputs, targets), batches=minibatches(64, key=key))`
    each step of the method sees the loss of 64 rows only: value, gradient, products and
    trial points all on the same batch. One recorded step of the run is one pass through the
    data, so loss and gradient in the history, the stopping tests and the answer are those
    of all rows.

    Pass e takes the rows in the order that `jax.random.fold_in(key, e)` draws, without
    those left over from whole batches. So runs repeat, and go on from their `state`.

    Args:
        size: Rows of a batch.
        key: Random key, as `jax.random.key(0)`.
        steps: Batches between two records; default one pass, N // size.

    Returns:
        `Minibatches`, to hand to `minimize`.

    Raises:
        ValueError: If `size` or `steps` is not a positive whole number.
        TypeError: If `key` is not a key of `jax.random`.

    Examples:
        >>> import gradlab as gl
        >>> inputs = jnp.linspace(-1, 1, 200)[:, None]
        >>> loss = lambda w, inputs, targets: jnp.mean((inputs @ w - targets) ** 2)
        >>> batches = minibatches(20, key=jax.random.key(0))
        >>> adam = gl.make("adam", learning_rate=0.05)
        >>> data = inputs, 3 * inputs[:, 0]
        >>> result = gl.minimize(loss, jnp.zeros(1), adam, args=data, batches=batches)
        >>> print(result.x.round(4))
        [3.]
    """
    size = check_count("size", size, smallest=1)
    steps = None if steps is None else check_count("steps", steps, smallest=1)
    return Minibatches(size, _checked_key(key), steps)


def _checked_key(key: Any) -> Array:
    """Return the key, or raise."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and not (dtype == jnp.uint32 and jnp.shape(key) == (2,)):
        raise TypeError(
            f"`key` must be a key of jax.random, as jax.random.key(0), got {key!r:.60}."
        )
    return key


class MinibatchState(NamedTuple):
    """State of a method on minibatches.

    Attributes:
        count: Batches seen.
        order: Order of the rows in this pass, shape (N,).
        inner: State of the method.
        calls: Evaluations made, in evaluations of all rows, rounded to whole ones.
        rows: What is left of them, in rows, and half of all rows.
    """

    count: Array  # type: ignore[assignment]  # the name optax's hosts look for
    order: Array
    inner: Any
    calls: Array
    rows: Array


@dataclass(frozen=True)
class OnMinibatches:
    """Builds the transformation whose one update is a pass of a method through the data.

    `program.loss_of(params, *args)` is the loss; equal programs share compiled code.
    """

    method: Any
    program: Any
    size: int
    steps: int | None

    def __call__(self, hyperparams: Any, args: Any, key: Any) -> Any:
        """Build it for these hyper-parameters and data."""
        method = self.method.build(hyperparams)
        return _transformation(method, self.program.loss_of, args, key, self)


def _transformation(
    method: Any, loss: Callable[..., Array], args: Any, key: Any, plan: OnMinibatches
) -> optax.GradientTransformationExtraArgs:
    """Build the transformation; see `OnMinibatches`."""
    total = next(jnp.shape(leaf)[0] for leaf in jax.tree.leaves(args) if jnp.ndim(leaf))
    each = total // plan.size
    pass_args = takes_args(method)

    def init(params: Params) -> MinibatchState:
        nothing = jnp.zeros(4, jnp.int32)
        half = jnp.full(4, total // 2, jnp.int32)  # so that whole evaluations are rounded ones
        return MinibatchState(
            jnp.zeros((), jnp.int32), jnp.arange(total), method.init(params), nothing, half
        )

    def drawn(count: Array, order: Array) -> Array:
        key_of_pass = jax.random.fold_in(key, count // each)
        return jax.random.permutation(key_of_pass, total).astype(order.dtype)

    def shuffled(count: Array, order: Array) -> Array:
        if plan.steps is None:  # drawn by `update`, since under `vmap` both cases are computed
            return order
        return jax.lax.cond(count % each == 0, drawn, lambda _, order: order, count, order)

    def step(carry: tuple[Params, MinibatchState], _: None) -> Any:
        params, state = carry
        order = shuffled(state.count, state.order)
        first = (state.count % each) * plan.size
        index = jax.lax.dynamic_slice_in_dim(order, first, plan.size)
        batch = jax.tree.map(lambda leaf: leaf[index] if jnp.ndim(leaf) else leaf, args)
        fun = functools.partial(_on_batch, loss, batch)
        value, grad = jax.value_and_grad(fun)(params)
        keywords = {"args": batch} if pass_args else {}
        updates, inner = method.update(
            grad, state.inner, params, value=value, grad=grad, value_fn=fun, **keywords
        )
        inner = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, state.inner)
        made = calls_made(state.inner, inner) + jnp.asarray(_BOTH, jnp.int32)
        rows = state.rows + made * plan.size
        calls, rows = state.calls + rows // total, rows % total
        following = MinibatchState(state.count + 1, order, inner, calls, rows)
        return (optax.apply_updates(params, updates), following), None

    def update(updates, state, params=None, **extra):
        del updates, extra  # every batch has its own
        if plan.steps is None:
            state = state._replace(order=drawn(state.count, state.order))
        (reached, following), _ = jax.lax.scan(
            step, (params, state), None, length=plan.steps or each
        )
        return jax.tree.map(lambda new, old: new - old, reached, params), following

    return optax.GradientTransformationExtraArgs(init, update)


def _on_batch(loss: Callable[..., Array], batch: tuple[Any, ...], params: Params) -> Array:
    """Evaluate the loss on a batch."""
    return loss(params, *batch)
