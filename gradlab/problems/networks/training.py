"""Minibatch training as one compiled loop, for as many seeds at once as one asks for.

`minimize` takes the whole data at every step and keeps the history of it. Networks are
usually trained on a few rows at a time, and judged on rows they never see: this is that
loop, a scan over random batches, to be mapped over keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._typing import Array, Params, PRNGKeyArray
from gradlab.problems.registry import Problem, check_size

__all__ = ["Training", "train"]


class Training(NamedTuple):
    """What came of a training.

    Attributes:
        params: The parameters at its end.
        history: By name, what was measured before the first step and after each of `records`
            equal parts of the training, shape (records + 1,).
    """

    params: Params
    history: dict[str, Array]


def train(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    *,
    steps: int,
    batch: int = 64,
    records: int = 10,
    loss: Callable[..., Any] | None = None,
    vary: Callable[[PRNGKeyArray, tuple[Any, ...]], tuple[Any, ...]] | None = None,
    measure: Callable[[Params], dict[str, Array]] | None = None,
) -> Training:
    """Train on batches of rows drawn at random, with replacement.

    Args:
        problem: A problem whose data are rows; its start is drawn with the key too.
        optimizer: Any optax transformation that needs no more than the gradient.
        key: Random key of start and batches.
        steps: Number of steps, rounded down to a multiple of `records`.
        batch: Rows in a batch.
        records: How often to measure.
        loss: What to minimise, a function of the parameters and of what `vary` returns; by
            default the problem's loss.
        vary: Function of a key and a batch's arguments to those of the loss: fresh noise,
            moved pictures. By default they stay as they are.
        measure: Function of the parameters to scalars by name; by default the problem's loss
            on all of its data.

    Returns:
        The parameters and the history.

    Raises:
        ValueError: If the problem has no rows, or a number is not positive.

    Examples:
        >>> import optax
        >>> problem = gl.problems.get("logistic", held_out=0.2)
        >>> def run(key):
        ...     return train(problem, optax.adam(0.05), key, steps=100)
        >>> end = jax.vmap(run)(jax.random.split(jax.random.key(0), 3))
        >>> print(end.history["loss"].shape, bool(jnp.all(end.history["loss"][:, -1] < 0.15)))
        (3, 11) True
    """
    problem.rows(slice(0, 1))  # a problem without rows is refused by its name
    total = len(problem.args[0])
    records = check_size("records", records, at_least=1)
    each = check_size("steps", steps, at_least=records) // records
    batch = check_size("batch", batch, at_least=1)
    loss = problem.loss if loss is None else loss
    if measure is None:

        def measure(params: Params) -> dict[str, Array]:
            return {"loss": problem.loss(params, *problem.args)}

    def step(carry: tuple[Params, Any], key: PRNGKeyArray) -> tuple[tuple[Params, Any], None]:
        params, state = carry
        drawn, varied = jax.random.split(key)
        args = problem.rows(jax.random.randint(drawn, (batch,), 0, total))
        args = args if vary is None else vary(varied, args)
        updates, state = optimizer.update(jax.grad(loss)(params, *args), state, params)
        return (optax.apply_updates(params, updates), state), None

    def part(carry: tuple[Params, Any], key: PRNGKeyArray) -> tuple[Any, dict[str, Array]]:
        carry, _ = jax.lax.scan(step, carry, jax.random.split(key, each))
        return carry, measure(carry[0])

    started, batches = jax.random.split(key)
    params = problem.init(started)
    first = measure(params)
    carry = params, optimizer.init(params)
    (params, _), rest = jax.lax.scan(part, carry, jax.random.split(batches, records))
    history = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
    return Training(params, history)
