import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.special import eval_hermite
from support import assert_close, load

from gradlab.derivatives._checks import checked_count, checked_index
from gradlab.derivatives._propagate import interpret, series_carry
from gradlab.derivatives.laplacian import laplacian
from gradlab.derivatives.taylor import mixed_partial, nth_derivative, taylor

DTYPES = [jnp.float32, jnp.float64]


everyday = load("benchmarks", "everyday_functions")


def nested_jvp(f, x, v, order):
    """Directional derivatives one inside the other: the exponential way."""
    functions = [lambda t: f(jax.tree.map(lambda a, b: a + t.astype(a.dtype) * b, x, v))]
    for _ in range(order):
        g = functions[-1]
        functions.append(lambda t, g=g: jax.jvp(g, (t,), (jnp.ones_like(t),))[1])
    zero = jnp.zeros(())
    terms = [
        jax.tree.map(lambda c, k=k: c / math.factorial(k), h(zero))
        for k, h in enumerate(functions)
    ]
    return jax.tree.map(lambda *c: jnp.stack(c), *terms)


def num_equations(f, *args):
    return str(jax.make_jaxpr(f)(*args)).count(" = ")


def test_outputs_nobody_wants_come_back_as_empty_lists():
    program = jax.make_jaxpr(lambda x: (jnp.sin(x) * 2.0, x * x))(1.5)
    line = list(jnp.array([1.5, 1.0]))
    unused, square = interpret(program, [line], series_carry(2), wanted=[False, True])
    assert unused == []
    assert [float(c) for c in square] == [2.25, 3.0, 1.0]


# --- taylor: against mpmath


@pytest.mark.parametrize("function", everyday.FUNCTIONS, ids=lambda f: f.name)
def test_taylor_agrees_with_mpmath_to_order_four(function):
    found = everyday.by_taylor(function)
    assert everyday.digits(found, everyday.truth(function)) > 12


@pytest.mark.parametrize(
    "name", ["exp", "x**2.5", "tanh", "sinc at 0", "logaddexp", "gelu", "erf", "softmax", "inv"]
)
def test_taylor_keeps_float32_and_its_digits(name):
    (function,) = [f for f in everyday.FUNCTIONS if f.name == name]
    found = taylor(function.in_jax, jnp.float32(function.x), jnp.float32(1), 4)
    assert found.dtype == jnp.float32
    assert everyday.digits(found, everyday.truth(function)) > 5.5


def test_taylor_of_the_exponential_is_one_over_factorials_to_order_twenty():
    expected = [1 / math.factorial(k) for k in range(21)]
    assert_close(taylor(jnp.exp, 0.0, 1.0, 20), np.array(expected), factor=4)


def test_taylor_of_tangent_has_the_bernoulli_coefficients():
    expected = [0, 1, 0, 1 / 3, 0, 2 / 15, 0, 17 / 315, 0, 62 / 2835]
    assert_close(taylor(jnp.tan, 0.0, 1.0, 9), np.array(expected), factor=4)


def test_coefficients_of_a_polynomial_end_at_its_degree():
    found = taylor(lambda x: (1 + x) ** 5 - x, 0.0, 1.0, 9)
    np.testing.assert_array_equal(found, [1, 4, 10, 10, 5, 1, 0, 0, 0, 0])


# --- taylor: laws


@pytest.mark.parametrize("dtype", DTYPES)
def test_taylor_equals_nested_jvp_on_pytrees(dtype):
    x, v = (
        {"w": jax.random.normal(k, (3, 2), dtype), "b": jax.random.normal(k, (2,), dtype)}
        for k in jax.random.split(jax.random.key(0))
    )

    def f(p):
        h = jnp.tanh(jnp.ones((4, 3), dtype) @ p["w"] + p["b"][None])
        return {"loss": jnp.sum(h**2 / (1 + h**4)), "hidden": (h, jnp.sort(h, axis=0))}

    found = jax.jit(lambda x, v: taylor(f, x, v, 3))(x, v)
    expected = jax.jit(lambda x, v: nested_jvp(f, x, v, 3))(x, v)
    assert jax.tree.structure(found) == jax.tree.structure(f(x))
    assert found["hidden"][0].shape == (4, 4, 2)
    assert_close(found, expected)


def test_remainder_falls_with_the_power_after_the_last_coefficient():
    def f(x):
        return jnp.exp(-jnp.sum(x**2)) * jnp.cos(x[0] - 2 * x[1])

    x, v = jnp.array([0.3, -0.4]), jnp.array([1.0, 0.5])
    for order in (1, 2, 3):
        steps = np.array([0.02, 0.01])
        coefficients = taylor(f, x, v, order)
        remainder = [abs(f(x + t * v) - jnp.polyval(coefficients[::-1], t)) for t in steps]
        slope = np.log2(remainder[0] / remainder[1])
        assert abs(slope - (order + 1)) < 0.15


def test_order_zero_is_the_value():
    assert_close(taylor(jnp.sin, 0.5, 1.0, 0), np.sin([0.5]), factor=2)


def test_taylor_scales_with_powers_of_the_direction():
    once, twice = (taylor(jnp.arctan, 0.5, v, 6) for v in (1.0, 2.0))
    np.testing.assert_array_equal(twice, once * 2.0 ** np.arange(7))


def test_taylor_works_under_jit_vmap_and_grad():
    def f(x):
        return jnp.sum(jnp.sin(x) * jnp.cumprod(x))

    x = jax.random.normal(jax.random.key(1), (5, 3))
    v = jnp.ones(3)

    def series(x):
        return taylor(f, x, v, 3)

    assert_close(jax.jit(jax.vmap(series))(x)[0], series(x[0]))
    # The gradient of the second directional derivative, from forward mode alone.
    by_reverse = jax.jit(jax.grad(lambda x: series(x)[2]))(x[0])
    by_forward = jax.jit(jax.jacfwd(lambda x: nested_jvp(f, x, v, 2)[2]))(x[0])
    assert_close(by_reverse, by_forward)


def test_taylor_of_a_complex_function_along_the_real_line():
    found = taylor(lambda t: jnp.exp(1j * t), jnp.asarray(0.0), 1.0, 4)
    assert_close(found, np.array([1, 1j, -1 / 2, -1j / 6, 1 / 24]), factor=2)
    holomorphic = taylor(jnp.log, jnp.asarray(1j), jnp.asarray(1j), 3)
    assert_close(holomorphic, np.array([1j * np.pi / 2, 1, -1 / 2, 1 / 3]), factor=2)


# --- taylor: programs


def test_loops_and_branches_equal_their_unrolled_selves():
    def step(y, c):
        return jnp.sin(y * c) + y, y * c

    def looped(x):
        y, ys = lax.scan(step, x, jnp.arange(1.0, 4.0))
        n, y = lax.while_loop(
            lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * jnp.exp(-x * s[1])), (0, y)
        )
        branches = [lambda x, y: x, lambda x, y: 1.0 + 0 * x, lambda x, y: y / x]
        return lax.switch(n - 1, branches, x, y), jnp.sum(ys), n * y

    def unrolled(x):
        y, total = x, 0.0
        for c in (1.0, 2.0, 3.0):
            y, out = step(y, c)
            total = total + out
        for _ in range(3):
            y = y * jnp.exp(-x * y)
        return y / x, total, 3 * y

    x, v = jnp.asarray(0.7), jnp.asarray(1.0)
    found = jax.jit(lambda x: taylor(looped, x, v, 3))(x)
    assert_close(found, jax.jit(lambda x: nested_jvp(unrolled, x, v, 3))(x))


def test_reversed_scan_keeps_its_order():
    def f(x):
        return lax.scan(lambda y, c: (y * x + c, y), x, jnp.arange(3.0), reverse=True)[1]

    # y is x, then x² + 2, then x³ + 2x + 1; each output sits at the place of its c.
    found = taylor(f, jnp.asarray(0.0), 1.0, 3)
    np.testing.assert_array_equal(found.T, [[1, 2, 0, 1], [2, 0, 1, 0], [0, 1, 0, 0]])


def test_user_rules_decide_the_derivatives():
    @jax.custom_jvp
    def doubled_jvp(x):
        return x**3

    doubled_jvp.defjvp(lambda x, v: (doubled_jvp(*x), 6 * x[0] ** 2 * v[0]))

    @jax.custom_vjp
    def doubled_vjp(x):
        return x**3

    doubled_vjp.defvjp(lambda x: (x**3, x), lambda x, g: (6 * x**2 * g,))

    for f in (doubled_jvp, doubled_vjp, jax.jit(doubled_vjp), jax.checkpoint(doubled_jvp)):
        np.testing.assert_array_equal(taylor(f, 1.0, 1.0, 4), [1, 6, 6, 2, 0])


def test_stopped_gradients_integers_keys_and_prints_are_constants():
    noise, seen = jax.random.normal(jax.random.key(0)), []

    def f(x):
        jax.debug.callback(lambda v: seen.append(float(v)), x[1])
        k = jnp.argmax(x) + jnp.floor(x[0]).astype(int)
        return x[k] ** 2 * lax.stop_gradient(x[0]) + jax.random.normal(jax.random.key(0))

    found = taylor(f, jnp.array([0.5, 3.0]), jnp.ones(2), 3)
    assert_close(found, np.array([4.5 + noise, 3.0, 0.5, 0.0]))
    jax.effects_barrier()
    assert seen == [3.0]


def test_filled_out_of_range_entries_are_constants():
    def f(x):
        return x.at[jnp.array([0, 7])].get(mode="fill", fill_value=5.0) ** 2

    found = taylor(f, jnp.array([3.0, 1.0]), jnp.ones(2), 2)
    np.testing.assert_array_equal(found, [[9, 25], [6, 0], [1, 0]])


@pytest.mark.parametrize("left_side", [True, False])
@pytest.mark.parametrize("transpose_a", [True, False])
@pytest.mark.parametrize("unit_diagonal", [True, False])
@pytest.mark.parametrize("lower", [True, False])
def test_triangular_solve_equals_nested_jvp(left_side, lower, transpose_a, unit_diagonal):
    def f(p):
        return lax.linalg.triangular_solve(
            p[0],
            p[1],
            left_side=left_side,
            lower=lower,
            transpose_a=transpose_a,
            unit_diagonal=unit_diagonal,
        )

    keys = jax.random.split(jax.random.key(2), 2)
    x, v = (jax.random.normal(key, (2, 3, 3)) + 3 * jnp.eye(3)[None] for key in keys)
    found = jax.jit(lambda x, v: taylor(f, x, v, 2))(x, v)
    assert_close(found, jax.jit(lambda x, v: nested_jvp(f, x, v, 2))(x, v), factor=1000)


@pytest.mark.parametrize(
    "f",
    [
        jnp.tanh,
        jnp.tan,
        jnp.sinc,
        jax.nn.softplus,
        lambda x: jnp.linalg.cholesky(jnp.eye(2) + x * jnp.ones((2, 2))),
        lambda x: jnp.linalg.solve(jnp.eye(2) + x * jnp.ones((2, 2)), jnp.ones(2)),
        lambda x: lax.fori_loop(0, 9, lambda i, y: jnp.sin(y) * x, x),
    ],
)
def test_cost_is_a_power_of_the_order_not_exponential_in_it(f):
    def cost(order):
        return num_equations(lambda x: taylor(f, x, jnp.ones_like(x), order), 0.3)

    assert cost(8) < 10 * cost(4)  # order 4 costs 16 times in nested jvp


# --- taylor: mistakes


def test_taylor_says_what_is_wrong_with_its_arguments():
    with pytest.raises(TypeError, match=r"`x\['a'\]` must be floating .* got int"):
        taylor(lambda x: x["a"], {"a": jnp.arange(3)}, {"a": jnp.arange(3)}, 1)
    with pytest.raises(TypeError, match="`v` must have the structure of `x`"):
        taylor(lambda x: x["a"], {"a": 1.0}, [1.0], 1)
    with pytest.raises(ValueError, match=r"`v\['a'\]` must have shape \(3,\).* got \(2,\)"):
        taylor(lambda x: x["a"], {"a": jnp.ones(3)}, {"a": jnp.ones(2)}, 1)
    with pytest.raises(TypeError, match="`v` must be real"):
        taylor(jnp.sin, 1.0, 1j, 1)
    with pytest.raises(ValueError, match="`order` must be 0 or more, got -1"):
        taylor(jnp.sin, 1.0, 1.0, -1)
    with pytest.raises(TypeError, match="`f` must return an array, but returned None"):
        taylor(lambda x: None, 1.0, 1.0, 1)
    with pytest.raises(TypeError, match=r"`f\(x\)\['n'\]` must be floating .* Leave it out"):
        taylor(lambda x: {"n": jnp.argmax(x)}, jnp.ones(3), jnp.ones(3), 1)
    with pytest.raises(TypeError, match=r"hands a traced value to NumPy.*gradlab\.finite"):
        taylor(np.sin, 1.0, 1.0, 1)
    with pytest.raises(TypeError, match=r"branches in Python.*jnp\.where"):
        taylor(lambda x: x if x > 0 else -x, 1.0, 1.0, 1)


@pytest.mark.parametrize("order", [1.5, "2", True, None])
def test_an_order_that_is_not_an_integer_is_refused(order):
    with pytest.raises(TypeError, match="`order` must be an integer, got"):
        checked_count("order", order)


# --- nth_derivative


@pytest.mark.parametrize("dtype", DTYPES)
def test_nth_derivatives_of_a_gaussian_are_hermite_polynomials(dtype):
    x = jnp.linspace(-1.5, 2.0, 8, dtype=dtype).reshape(2, 4)
    for n in (0, 1, 2, 5, 8):
        exact = (-1) ** n * eval_hermite(n, np.asarray(x)) * np.exp(-(np.asarray(x) ** 2))
        found = nth_derivative(lambda x: jnp.exp(-(x**2)), n)(x)
        assert found.dtype == dtype
        assert_close(found, exact.astype(dtype), factor=50)


def test_nth_derivative_keeps_the_functions_own_shape():
    found = nth_derivative(lambda x: {"a": jnp.stack([x**2, x**3])}, 2)(jnp.ones((4, 5)))
    assert found["a"].shape == (4, 5, 2)
    np.testing.assert_array_equal(found["a"][0, 0], [2, 6])


def test_nth_derivative_refuses_a_factorial_beyond_float64():
    with pytest.raises(ValueError, match="`n` must be at most 170, got 171"):
        nth_derivative(jnp.sin, 171)


# --- mixed_partial


def test_mixed_partials_equal_their_closed_form_in_any_order():
    def f(x):
        return jnp.exp(2 * x[0] + 3 * x[1]) * x[2] ** 4

    x = jnp.array([0.1, -0.2, 1.5])
    expected = 4 * 3 * jnp.exp(2 * x[0] + 3 * x[1]) * 12 * x[2] ** 2
    for indices in [(0, 0, 1, 2, 2), (2, 1, 0, 2, 0), (-1, -1, 1, 0, -3)]:
        assert_close(mixed_partial(f, x, indices), expected)


def test_mixed_partials_of_matrices_and_of_nothing():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    assert_close(mixed_partial(jnp.linalg.det, x, [(0, 0), (1, 1)]), jnp.asarray(1.0))
    assert_close(mixed_partial(jnp.linalg.det, x, [(0, 1), (1, 0)]), jnp.asarray(-1.0))
    assert_close(mixed_partial(jnp.linalg.det, x, []), jnp.asarray(-2.0))


def test_second_mixed_partials_are_the_hessian():
    def f(x):
        return jnp.sum(jnp.tanh(jnp.outer(x, x) + x[:, None]) ** 2)

    x = jax.random.normal(jax.random.key(3), (3,))

    @jax.jit
    def by_partials(x):
        return jnp.array([[mixed_partial(f, x, (i, j)) for j in range(3)] for i in range(3)])

    assert_close(by_partials(x), jax.jit(jax.hessian(f))(x))


def test_mixed_partial_says_what_is_wrong_with_its_indices():
    x = jnp.ones(3)
    with pytest.raises(IndexError, match=r"holds 3, which lies outside `x` of shape \(3,\)"):
        mixed_partial(jnp.sum, x, (0, 3))
    with pytest.raises(ValueError, match="must hold 2 integers an entry"):
        mixed_partial(jnp.sum, jnp.ones((2, 2)), (0, 0))
    with pytest.raises(TypeError, match=r"must hold integers, or tuples of integers, got 0\.5"):
        checked_index(0.5, x.shape)


# --- laplacian


def test_laplacian_of_harmonic_functions_is_zero():
    x = jnp.array([0.7, -1.2, 0.4])
    for f in (lambda x: 1 / jnp.sqrt(jnp.sum(x**2)), lambda x: jnp.exp(x[0]) * jnp.sin(x[1])):
        assert abs(laplacian(f)(x)) < 20 * jnp.finfo(x.dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
def test_laplacian_of_a_gaussian_in_chunks_of_any_size(dtype, chunk_size):
    x = jax.random.normal(jax.random.key(4), (7,), dtype)
    found = laplacian(lambda x: jnp.exp(-jnp.sum(x**2) / 2), chunk_size=chunk_size)(x)
    square = jnp.sum(x**2)
    assert found.dtype == dtype
    assert_close(found, (square - 7) * jnp.exp(-square / 2))


def test_laplacian_is_the_trace_of_the_hessian_for_pytrees_and_further_arguments():
    keys = jax.random.split(jax.random.key(5), 3)
    params = {"w": jax.random.normal(keys[0], (4, 3)), "b": [jax.random.normal(keys[1], (3,))]}
    data = jax.random.normal(keys[2], (5, 4))

    def f(p, x, *, power):
        h = jax.nn.gelu(x @ p["w"] + p["b"][0][None])
        y = lax.fori_loop(0, 3, lambda i, y: jnp.sin(y) + h[0], h[0])
        return jnp.max(h, axis=1) ** power, jax.nn.logsumexp(y)

    def flat(x):
        return f({"w": x[:12].reshape(4, 3), "b": [x[12:]]}, data, power=3)

    x = jnp.concatenate([params["w"].ravel(), params["b"][0]])
    hessians = jax.jit(jax.hessian(flat))(x)
    expected = jax.tree.map(lambda h: jnp.trace(h, axis1=-2, axis2=-1), hessians)
    for chunk_size in (None, 4):
        found = jax.jit(partial(laplacian(f, chunk_size=chunk_size), power=3))(params, data)
        assert_close(found, expected)


def test_laplacian_goes_through_while_loops_and_custom_vjp_rules():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))

    def f(x):
        _, y = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, cube(s[1])), (0, x))
        return jnp.sum(y)  # x⁹

    x = jnp.array([0.5, -1.1])
    assert_close(laplacian(f)(x), jnp.sum(72 * x**7))


def test_laplacian_works_under_jit_and_vmap():
    def f(x):
        return jnp.sum(jnp.sin(x)) * x[0]

    x = jax.random.normal(jax.random.key(6), (4, 3))
    expected = jax.vmap(lambda x: jnp.trace(jax.hessian(f)(x)))(x)
    assert_close(jax.jit(jax.vmap(laplacian(f)))(x), expected)


def _network(n):
    keys = jax.random.split(jax.random.key(7), 3)
    weights = [
        jax.random.normal(key, shape) / math.sqrt(shape[0])
        for key, shape in zip(keys, [(n, 64), (64, 64), (64, 1)], strict=True)
    ]

    def f(x):
        h = x
        for w in weights[:-1]:
            h = jnp.tanh(h @ w)
        return (h @ weights[-1])[0]

    return f


def test_laplacian_of_a_network_costs_under_two_thirds_of_the_hessian():
    f, x = _network(40), jnp.ones(40)

    def flops(g):
        return jax.jit(g).lower(x).compile().cost_analysis()["flops"]

    hessian = flops(lambda x: jnp.trace(jax.hessian(f)(x)))
    assert flops(laplacian(f)) < 0.66 * hessian


def test_a_smaller_chunk_needs_less_memory():
    f, x = _network(128), jnp.ones(128)

    def memory(chunk_size):
        compiled = jax.jit(laplacian(f, chunk_size=chunk_size)).lower(x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(8) < memory(128) / 4


def test_laplacian_says_what_is_wrong_with_its_arguments():
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1, got 0"):
        laplacian(jnp.sum, chunk_size=0)
    with pytest.raises(TypeError, match="`x` must be real, got complex128"):
        laplacian(jnp.sum)(jnp.ones(2) * 1j)
    with pytest.raises(TypeError, match="`x` must be floating"):
        laplacian(jnp.sum)(jnp.arange(3))
    with pytest.raises(TypeError, match="must be floating to be differentiated, got int"):
        laplacian(jnp.argmax)(jnp.ones(3))
