"""The digits certified are those that are right, as mpmath and closed forms tell."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from gradlab.derivatives._check_rounding import rounding_spread
from gradlab.derivatives.digits import certify_digits

mp.mp.dps = 60


def _power(m):
    return lambda x: x**6 - 6 * x**5 + 15 * x**4 - 20 * x**3 + 15 * x**2 - 6 * x + 1


FORMULAS = {
    "cosine": (lambda m: lambda x: (1 - m.cos(x)) / x**2, [1e-1, 1e-2, 1e-3, 3e-3, 2.7e-4]),
    "exponential": (lambda m: lambda x: (m.exp(x) - 1) / x, [1e-2, 1.3e-4, 1e-6]),
    "root": (lambda m: lambda x: m.sqrt(x**2 + 1) - x, [10.3, 1e3 + 0.1, 1e5 + 0.7]),
    "power": (_power, [1.01, 1.2, 1.3, 2.1]),
    "benign": (lambda m: lambda x: m.sin(x) * m.cos(x) + x**3, [0.3, 1.7, 10.1]),
    "tangent": (lambda m: m.tan, [0.3, 1.5, 1.57]),
    "logarithm": (lambda m: lambda x: m.log(1 + m.exp(x)), [0.3, -20.2]),
}


def right_digits(formula, x, value, most):
    """How many digits of `value` are those of the derivative of the formula at x."""
    truth = mp.diff(formula(mp), mp.mpf(float(x)))
    error = abs((mp.mpf(float(value)) - truth) / truth)
    return float(min(max(0, -mp.log10(error + mp.mpf(10) ** -most)), most))


@pytest.mark.parametrize(
    ("name", "x"), [(name, x) for name, (_, points) in FORMULAS.items() for x in points]
)
def test_digits_are_right_to_within_one_in_float64(name, x):
    formula = FORMULAS[name][0]
    f, x = formula(jnp), jnp.asarray(x)
    digits = certify_digits(f, x)
    actual = right_digits(formula, x, jax.jit(jax.grad(f))(x), digits.most)
    assert abs(digits.worst - actual) <= 1
    assert digits.method == "random rounding"


@pytest.mark.parametrize(("name", "x"), [("cosine", 0.02), ("root", 30.3), ("benign", 1.7)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_digits_are_exact_in_low_precision(name, x, dtype):
    formula = FORMULAS[name][0]
    f, x = formula(jnp), jnp.asarray(x, dtype)
    digits = certify_digits(f, x)
    actual = right_digits(formula, x, jax.jit(jax.grad(f))(x), digits.most)
    assert abs(digits.worst - actual) <= 0.3
    assert digits.method == "float64"


def test_entries_are_certified_one_by_one():
    digits = certify_digits(
        lambda p: (1 - jnp.cos(p["a"])) / p["a"] ** 2 + jnp.sum(jnp.exp(p["b"])),
        {"a": jnp.asarray(1e-3), "b": jnp.arange(3.0)},
    )
    assert 2 < digits.grad["a"] < 6
    assert np.all(digits.grad["b"] > 14)
    assert digits.grad["b"].shape == (3,)
    assert digits.hessian is None


def test_the_hessian_loses_more_digits_than_the_gradient():
    digits = certify_digits(lambda x: (1 - jnp.cos(x)) / x**2, jnp.asarray(1e-2), order=2)
    value = jax.hessian(lambda x: (1 - jnp.cos(x)) / x**2)(1e-2)
    truth = mp.diff(lambda x: (1 - mp.cos(x)) / x**2, mp.mpf(0.01), 2)
    actual = float(-mp.log10(abs((mp.mpf(float(value)) - truth) / truth)))
    assert abs(float(digits.hessian) - actual) <= 1.2
    assert digits.hessian < digits.grad


def test_the_hessian_has_the_structure_of_jax_hessian():
    x = {"a": jnp.ones(2), "b": jnp.ones((1, 3))}

    def f(p):
        return jnp.sum(p["a"] ** 3) * jnp.sum(p["b"] ** 2)

    digits = certify_digits(f, x, order=2)
    shapes = jax.tree.map(jnp.shape, jax.hessian(f)(x))
    assert jax.tree.map(jnp.shape, digits.hessian) == shapes


def test_a_loop_is_run_through():
    def f(x):
        y = jax.lax.fori_loop(0, 3, lambda i, y: y + 1e8, x)
        return jax.lax.cond(x > 0, lambda y: jnp.sin(y - 3e8), lambda y: y, y)

    digits = certify_digits(f, jnp.asarray(0.3))
    # The sum keeps 3e8 × 1.1e-16 of x, and so does cos of it.
    assert 6.5 < digits.worst < 9.5


def test_exact_operations_lose_nothing():
    spread = rounding_spread(lambda x: 3.0 * (x + 1.0) - x / 4.0, jnp.array([1.0, 6.0]))[1]
    assert np.all(spread == 0)


def test_bad_arguments_are_answered():
    with pytest.raises(ValueError, match="`order` must be 1 or 2, got 0"):
        certify_digits(jnp.sin, 1.0, order=0)
    with pytest.raises(TypeError, match="must return a scalar"):
        certify_digits(jnp.sin, jnp.ones(2))
    with pytest.raises(TypeError, match="`x` must be floating"):
        certify_digits(lambda n: 2.0 * n, jnp.arange(3))
    with pytest.raises(TypeError, match="NumPy"):
        certify_digits(lambda x: np.sin(np.asarray(x)), jnp.asarray(1.0))
    with pytest.raises(ValueError, match="at most 1024 variables, got 2000"):
        certify_digits(jnp.sum, jnp.ones(2000), order=2)
