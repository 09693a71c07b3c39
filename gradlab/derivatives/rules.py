"""The elementary rules of differentiation, as a table that is checked, not believed.

`elementary_rules` holds one example of each rule: the formula as a textbook writes it, the
function, and the derivative the formula gives for it. The rules that combine functions use
u(x) = x² and v(x) = sin x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from gradlab._typing import Array

__all__ = ["Rule", "elementary_rules"]


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule of differentiation, with an example.

    Attributes:
        name: What the rule is called.
        formula: The rule, with the example's functions where it needs some.
        function: The example, elementwise on an array.
        derivative: Its derivative by the rule, elementwise on an array.
    """

    name: str
    formula: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


def _u(x: Array) -> Array:
    return x**2


def _du(x: Array) -> Array:
    return 2 * x


def _v(x: Array) -> Array:
    return jnp.sin(x)


def _dv(x: Array) -> Array:
    return jnp.cos(x)


elementary_rules: tuple[Rule, ...] = (
    Rule(
        "constant",
        "c' = 0, with c = 3",
        lambda x: jnp.full_like(x, 3.0),
        lambda x: jnp.zeros_like(x),
    ),
    Rule("power", "(xⁿ)' = n xⁿ⁻¹, with n = 5", lambda x: x**5, lambda x: 5 * x**4),
    Rule("exponential", "(eˣ)' = eˣ", jnp.exp, jnp.exp),
    Rule("logarithm", "(ln x)' = 1/x", jnp.log, lambda x: 1 / x),
    Rule(
        "sum",
        "(a u + b v)' = a u' + b v', with a = 2, b = -3",
        lambda x: 2 * _u(x) - 3 * _v(x),
        lambda x: 2 * _du(x) - 3 * _dv(x),
    ),
    Rule(
        "product",
        "(u v)' = u' v + u v'",
        lambda x: _u(x) * _v(x),
        lambda x: _du(x) * _v(x) + _u(x) * _dv(x),
    ),
    Rule(
        "quotient",
        "(v / u)' = (v' u - v u') / u²",
        lambda x: _v(x) / _u(x),
        lambda x: (_dv(x) * _u(x) - _v(x) * _du(x)) / _u(x) ** 2,
    ),
    Rule(
        "chain",
        "(v ∘ u)' = (v' ∘ u) · u'",
        lambda x: _v(_u(x)),
        lambda x: _dv(_u(x)) * _du(x),
    ),
)
