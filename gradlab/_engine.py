"""The compiled loop under `minimize`: one iteration, one `while_loop`, one history.

Everything here is traced. The carry is a pytree of arrays; what shapes the program (loss,
method, options) is a hashable `Program`, so that equal programs share compiled code and
data never recompile. Small as it is, an iteration of a small problem is a few microseconds
of kernel launches, so numbers travel packed in two vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab import _stopping as stopping
from gradlab._checks import scalar_loss
from gradlab._errors import leaf_name
from gradlab._numbers import Counts, Numbers, Precision, Problem, row
from gradlab._tree import any_lane, inner, max_abs, norm, select, where, working_dtype
from gradlab._typing import AnyArray, Array, Params
from gradlab.derivatives._leaves import eps_of
from gradlab.derivatives.autodiff import value_grad_hvp
from gradlab.derivatives.with_derivative import with_derivative
from gradlab.optimizers._protocol import (
    calls_made,
    follows_curvature,
    heeds_idleness,
    looks_at_rest,
    takes_args,
    value_and_grad_in,
)
from gradlab.result import Status

__all__ = [
    "Carry",
    "Program",
    "advance",
    "auxiliary",
    "begin",
    "rewind",
    "stopped",
]


@dataclass(frozen=True)
class Program:
    """What shapes the compiled code of a run."""

    loss: Callable[..., Any]
    method: Any
    grad: Callable[..., Any] | None
    has_aux: bool
    rows: int
    record_params: bool

    @property
    def of_loss(self) -> tuple[Any, ...]:
        """What of it says which function is minimised."""
        return (self.loss, self.grad, self.has_aux)

    def region(self, problem: Problem) -> Any:
        """Lowest and highest parameters; None where all space is allowed."""
        del problem

    def value_fn(self, args: tuple[Any, ...]) -> Callable[[Params], Array]:
        """Build the scalar function of the parameters that is minimised."""
        value = self._value()
        return lambda params: value(params, *args)

    def loss_of(self, params: Params, *args: Any) -> Array:
        """Evaluate the loss as it is differentiated."""
        return self._value()(params, *args)

    def difference_costs(self, params: Params) -> tuple[int, int] | None:
        """Losses per gradient and per Hessian-vector product; None for autodiff."""
        if self.grad is None or self.grad is jax.grad:
            return None
        value = self._value()
        per_gradient = value.gradient_evaluations(params)
        return (per_gradient, value.hvp_evaluations(params)) if per_gradient else None

    def has_second_derivatives(self, args: tuple[Any, ...], params: Params) -> bool:
        """Whether JAX differentiates the loss twice, by itself and at a usual cost."""
        if self.difference_costs(params) is not None:
            return False
        try:
            jax.eval_shape(lambda x: value_grad_hvp(self.value_fn(args), x)[2](x), params)
        except Exception:  # JAX raises errors of many types here, and the loss its own
            return False
        return True

    def precision(self, params: Params, loss_dtype: Any) -> Precision:
        """Relative rounding errors of the loss and of its gradient."""
        loss = max(eps_of(loss_dtype), eps_of(working_dtype(params)))
        coarsest = max((leaf.dtype for leaf in jax.tree.leaves(params)), key=eps_of)
        grad = rounding = eps_of(coarsest)
        if self.difference_costs(params) is not None:
            grad = max(grad, self._value().gradient_noise(coarsest))
        return Precision(loss, grad, rounding)

    def _value(self) -> Any:
        """The loss without its auxiliary output, its derivative rule installed."""
        checked = scalar_loss(self.loss, self.has_aux)

        def value(params: Params, *args: Any) -> Array:
            return checked(params, *args)[0]

        if self.grad is None or self.grad is jax.grad:
            return value
        return with_derivative(value, grad=self.grad)


class Rows(NamedTuple):
    """History rows not yet fetched; row i is step `first + i`, and the last one is scratch."""

    first: Array
    numbers: Array
    counts: Array
    params: Params | None


class Carry(NamedTuple):
    """State of the loop.

    `params` is the last point evaluated. Where its loss is not finite, `anchor` is the
    point before, from which a shorter step is tried next; methods that search along their
    step themselves need none. `loss_dtype` is an empty array that carries the loss's dtype.
    """

    params: Params
    grad: Params
    state: Any
    anchor: Params | None
    best_params: Params
    numbers: Array
    counts: Array
    rows: Rows
    loss_dtype: Array

    @property
    def status(self) -> Any:
        """Why the run stopped, or RUNNING."""
        return self.counts[Counts._fields.index("status")]

    @property
    def step(self) -> Any:
        """Accepted steps so far."""
        return self.counts[Counts._fields.index("step")]


def begin(program: Program, problem: Problem, x0: Params, state: Any = None) -> Carry:
    """Evaluate the start and build the first carry. `state` resumes an optimizer."""
    value, grad = jax.value_and_grad(program.value_fn(problem.args))(x0)
    if state is None:
        state = program.method.build(problem.hyperparams).init(x0)
    state = jax.tree.map(_strongly_typed, state)
    dtype = jnp.promote_types(value.dtype, working_dtype(x0))
    size = norm(x0).astype(dtype)
    numbers, counts = stopping.start(
        problem, value.astype(dtype), max_abs(grad).astype(dtype), size,
        settled_by_gradient=not follows_curvature(state),
    )  # fmt: skip
    first = row(numbers, jnp.zeros((), dtype))
    rows = Rows(
        jnp.zeros((), jnp.int32),
        jnp.full((program.rows + 1, 3), jnp.nan, dtype).at[0].set(first),
        jnp.zeros((program.rows + 1, 4), jnp.int32).at[0].set(counts.calls),
        jax.tree.map(
            lambda x: jnp.zeros((program.rows + 1, *x.shape), x.dtype).at[0].set(x), x0
        )
        if program.record_params
        else None,
    )
    anchor = None if value_and_grad_in(state) is not None else x0
    empty = jnp.zeros((0,), value.dtype)
    return Carry(x0, grad, state, anchor, x0, numbers.pack(), counts.pack(), rows, empty)


def _strongly_typed(leaf: Any) -> Array:
    """Make a leaf what the loop hands back, so that its second call compiles nothing."""
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.number):
        return leaf
    return jax.lax.convert_element_type(leaf, leaf.dtype)


def advance(program: Program, problem: Problem, carry: Carry, until: AnyArray) -> Carry:
    """Take steps until `until`, or until a test stops the run.

    The predicate is made common to a whole `vmap` batch, and each lane freezes itself;
    left to itself, batching would copy every lane's history at every step.
    """

    def running(carry: Carry) -> Array:
        return any_lane((carry.status == Status.RUNNING) & (carry.step < until))

    def body(carry: Carry) -> Carry:
        active = _this_lane((carry.status == Status.RUNNING) & (carry.step < until))
        return _iterate(program, problem, carry, active)

    return jax.lax.while_loop(running, body, carry)


def stopped(carry: Carry, status: Status) -> Carry:
    """End a running carry from outside, with this status."""
    counts = Counts.of(carry.counts)._replace(status=jnp.asarray(status, jnp.int32))
    return carry._replace(counts=counts.pack())


def rewind(carry: Carry) -> Carry:
    """Free the history rows that have been fetched."""
    return carry._replace(rows=carry.rows._replace(first=carry.step + 1))


@jax.custom_batching.custom_vmap
def _this_lane(flag: Array) -> Array:
    """Return True, which the loop's predicate has checked; under `vmap`, the lane's flag.

    As a constant it lets the compiler drop every freezing `where` of an unbatched run.
    """
    return jnp.ones_like(flag)


@_this_lane.def_vmap
def _this_lane_batched(axis_size: int, in_batched: list[bool], flag: Array):
    return (flag, True) if in_batched[0] else (_this_lane(flag), False)


def _iterate(program: Program, problem: Problem, carry: Carry, active: Array) -> Carry:
    """Take one step and judge it. Lanes that are not active keep everything."""
    value_fn = program.value_fn(problem.args)
    method = program.method.build(problem.hyperparams)
    numbers = Numbers.of(carry.numbers)
    value = numbers.value.astype(carry.loss_dtype.dtype)
    keywords: dict[str, Any] = {"value": value, "grad": carry.grad, "value_fn": value_fn}
    if problem.noise is not None and follows_curvature(carry.state):
        keywords["noise"] = problem.noise
    if looks_at_rest(carry.state):
        keywords["at_rest"] = Counts.of(carry.counts).pending != -1
    if heeds_idleness(carry.state):
        keywords["active"] = active
    if takes_args(method):
        keywords["args"] = problem.args
    updates, state = method.update(carry.grad, carry.state, carry.params, **keywords)
    state = jax.tree.map(lambda n, o: jnp.asarray(n, o.dtype), state, carry.state)
    if value_and_grad_in(state) is not None:
        return _follow(program, problem, carry, updates, state, active)
    return _evaluate(program, value_fn, problem, carry, updates, state, active)


def _follow(
    program: Program, problem: Problem, carry: Carry, updates: Params, state: Any, active: Array
) -> Carry:
    """Go where a method's own search leads; it has the value and gradient there."""
    value, grad = value_and_grad_in(state)  # type: ignore[misc]  # the caller made sure
    params = optax.apply_updates(carry.params, updates)
    made = calls_made(carry.state, state)
    return _settle(
        program, problem, carry, params, value, grad, state, None, updates, made, active
    )


def _evaluate(
    program: Program,
    value_fn: Callable[[Params], Array],
    problem: Problem,
    carry: Carry,
    updates: Params,
    state: Any,
    active: Array,
) -> Carry:
    """Go where the updates lead and evaluate; from a non-finite point, go a quarter as far.

    The choice is made before anything is evaluated, so the loss stands once in the program.
    """
    sound = Numbers.of(carry.numbers).finite
    made = calls_made(carry.state, state) + jnp.array([1, 1, 0, 0], jnp.int32)
    state = select(sound, state, carry.state)
    base = select(sound, carry.params, carry.anchor)
    step = jax.tree.map(
        lambda u, p, a: where(sound, u, 0.25 * (p - a)), updates, carry.params, carry.anchor
    )
    params = optax.apply_updates(base, step)
    value, grad = jax.value_and_grad(value_fn)(params)
    return _settle(
        program, problem, carry, params, value, grad, state, base, step, made, active
    )


def _settle(
    program: Program,
    problem: Problem,
    carry: Carry,
    params: Params,
    value: Array,
    grad: Params,
    state: Any,
    anchor: Params | None,
    step: Params,
    made: Array,
    active: Array,
) -> Carry:
    """Judge the point reached, keep the best one, and record the step."""
    dtype = carry.numbers.dtype
    grad_norm = max_abs(grad).astype(dtype)
    length = jnp.sqrt(inner(step, step)).astype(dtype)
    precision = program.precision(params, carry.loss_dtype.dtype)
    old = Numbers.of(carry.numbers), Counts.of(carry.counts)
    numbers, counts, better = stopping.judge(
        problem, precision, *old, value.astype(dtype), grad_norm, length, params, made, state
    )
    new = Carry(
        params,
        grad,
        state,
        anchor,
        select(better, params, carry.best_params),
        numbers.pack(),
        counts.pack(),
        carry.rows,
        carry.loss_dtype,
    )
    none: Any = None  # rows freeze themselves
    frozen = select(active, new._replace(rows=none), carry._replace(rows=none))
    moved_on = active & (counts.step > old[1].step)
    return frozen._replace(rows=_record(carry.rows, params, numbers, counts, length, moved_on))


def _record(
    rows: Rows, params: Params, numbers: Numbers, counts: Counts, length: Array, moved_on: Array
) -> Rows:
    """Write the row of a new point; where there is none, write the scratch row."""
    last = rows.numbers.shape[0] - 1
    index = where(moved_on, jnp.minimum(counts.step - rows.first, last), last)

    def write(buffer: Array, entry: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(buffer, entry, index, 0)

    return Rows(
        rows.first,
        write(rows.numbers, row(numbers, length)),
        write(rows.counts, counts.calls),
        None if rows.params is None else jax.tree.map(write, rows.params, params),
    )


def auxiliary(program: Program, args: tuple[Any, ...], x: Params) -> Any:
    """Evaluate the loss's auxiliary output at x."""
    aux = scalar_loss(program.loss, program.has_aux)(x, *args)[1]
    for path, leaf in jax.tree_util.tree_flatten_with_path(aux)[0]:
        if isinstance(leaf, str | bytes) or callable(leaf):
            raise TypeError(
                f"`{leaf_name('aux', path)}` must be an array or a number, for the loss is "
                f"compiled, got {type(leaf).__name__} {leaf!r:.60}. Keep it out of the loss."
            )
    return aux
