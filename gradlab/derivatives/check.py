r"""Check derivatives against the function itself, and say which entry is wrong.

Forward mode and reverse mode are held against differences with error bars
(`gradlab.adaptive`'s ladders), Hessian products against differences of gradients. There is
no step and no tolerance to choose: a derivative is wrong where it lies outside the bar,
right where the bar is short enough to mean something, and otherwise the report says that it
cannot tell.

    >>> print(check_derivatives(lambda x: jnp.sum(jnp.sin(x)), jnp.arange(3.0)).verdict)
    right

References:
    Griewank, A. and Walther, A. (2008). Evaluating Derivatives, chapter 3: the Taylor
    remainder and the dot-product tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gradlab._typing import Params
from gradlab.derivatives._check_consistency import under_jit, under_vmap
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import check_first
from gradlab.derivatives._check_problem import Problem, build, canonical, widened
from gradlab.derivatives._check_program import evaluated_twice, frozen
from gradlab.derivatives._check_report import CheckReport, Finding, LeafVerdict, Remainder
from gradlab.derivatives._check_second import check_second
from gradlab.derivatives._check_verdict import make_report
from gradlab.derivatives._numpy import needs_numbers

__all__ = [
    "CheckReport",
    "Finding",
    "LeafVerdict",
    "Remainder",
    "assert_derivatives",
    "check_derivatives",
]


def check_derivatives(
    f: Callable[..., Any],
    *args: Params,
    order: int = 2,
    argnums: int | tuple[int, ...] | None = None,
    seed: int = 0,
) -> CheckReport:
    r"""Check the derivatives of f at a point, and name the entries that are wrong.

    Along a few random directions within each leaf, $g \cdot d$ by forward and by reverse mode
    is compared with differences of f, and $H d$ with differences of the gradient; where one
    disagrees, the direction is cut in four again and again until the entry is found, in
    O(log n) directions. Leaves of low precision are widened to float64 where f accepts it.
    It sees the derivatives at this point only: a branch that is not taken is not checked.

    Args:
        f: From any pytrees to a scalar, an array, or a pytree of arrays, made of JAX
            operations. Real and complex floating leaves are checked, others held fixed.
        *args: The point.
        order: 1 for first derivatives only, 2 for second derivatives as well, where JAX
            has them.
        argnums: Which arguments to check; all of them by default.
        seed: Seed of the random directions.

    Returns:
        The report; `str()` of it is a table, `.ok` whether all is right. It costs about
        200 evaluations of f a leaf (of at most 24 groups of leaves), a hundred gradients a
        leaf for order 2, and about 300 evaluations more for each factor of four on the way
        to the entry of a fault.

    Raises:
        TypeError: If f cannot be traced by JAX, returns no floating array, or no argument
            can be differentiated.
        ValueError: If `order` is not 1 or 2, or `argnums` names no argument.

    References:
        Griewank, A. and Walther, A. (2008). Evaluating Derivatives, 2nd ed.

    Examples:
        >>> @jax.custom_jvp
        ... def cube(x):
        ...     return x**3
        >>> cube.defjvp(lambda primals, tangents: (cube(*primals), primals[0] * tangents[0]))
        ... # doctest: +ELLIPSIS
        <function ...>
        >>> report = check_derivatives(lambda p: cube(p["a"]), {"a": jnp.asarray(2.0)})
        >>> report.verdict, report.findings[0].leaf, round(report.findings[0].autodiff, 6)
        ('wrong', "p['a']", 2.0)
    """
    if order not in (1, 2):
        raise ValueError(f"`order` must be 1 or 2, got {order!r}.")
    args = canonical(args)
    given = _traced(f, args, argnums)
    eager, random = evaluated_twice(f, args)
    problem = widened(f, args, argnums) or given
    if random:
        problem = dataclasses.replace(problem, call=frozen(problem))
    with np.errstate(all="ignore"):  # infinities are answers here, not accidents
        return _checked(f, args, given, problem, eager, random, order, seed)


def _checked(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    given: Problem,
    problem: Problem,
    eager: list[Any],
    random: str,
    order: int,
    seed: int,
) -> CheckReport:
    """Look at the derivatives from all sides."""
    ev = Evaluator(problem)
    rng = np.random.default_rng(seed)
    first = check_first(ev, rng, order)
    usable = ev.reverse is None or ev.forward is None
    notes = [random]
    if order == 2 and usable and (lacking := ev.lacks_second()):
        notes.append(f"second derivatives are not available, the first were checked: {lacking}")
        order = 1
    second = check_second(ev, first, rng) if order == 2 and usable else None
    elsewhere, word = under_vmap(ev, first) if usable else ([], "")
    if not random:
        elsewhere += under_jit(given, f, eager, args)
    notes = [note for note in (*notes, word) if note]
    return make_report(ev, given, first, second, elsewhere, notes, order)


def assert_derivatives(
    f: Callable[..., Any],
    *args: Params,
    order: int = 2,
    argnums: int | tuple[int, ...] | None = None,
    seed: int = 0,
) -> CheckReport:
    """Raise `AssertionError` with the table of `check_derivatives` unless all is right.

    Args:
        f: As in `check_derivatives`.
        *args: The point.
        order: 1 or 2.
        argnums: Which arguments to check; all of them by default.
        seed: Seed of the random directions.

    Returns:
        The report.

    Raises:
        AssertionError: If a derivative is wrong, or it cannot be told.

    Examples:
        >>> assert_derivatives(jnp.tanh, jnp.asarray(0.3)).ok
        True
    """
    report = check_derivatives(f, *args, order=order, argnums=argnums, seed=seed)
    if not report.ok:
        raise AssertionError(str(report))
    return report


def _traced(f: Callable[..., Any], args: tuple[Any, ...], argnums: Any) -> Any:
    """State the problem as given; what JAX cannot trace has no automatic derivative."""
    try:
        return build(f, args, argnums, wide=False)
    except Exception as error:
        if not needs_numbers(error):
            raise
        raise TypeError(
            "`f` needs the numbers themselves (NumPy, float(), a Python `if` on an argument): "
            "it has no automatic derivative to check. Write it with jax.numpy, jnp.where or "
            "jax.lax.cond; its derivatives by differences are gradlab.adaptive's."
        ) from error
