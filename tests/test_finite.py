"""Fixed-step derivatives: weights, rates, counts, dtypes and what is refused."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.differentiate
import scipy.optimize
from support import assert_close

from gradlab.derivatives import finite

SCHEMES = [
    ("central", 2),
    ("central", 4),
    ("central", 6),
    ("forward", 1),
    ("forward", 2),
    ("forward", 3),
    ("backward", 1),
    ("backward", 2),
    ("complex", 2),
]


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_grad(x):
    g = np.zeros_like(x)
    g[:-1] = -400 * x[:-1] * (x[1:] - x[:-1] ** 2) - 2 * (1 - x[:-1])
    g[1:] += 200 * (x[1:] - x[:-1] ** 2)
    return g


def rosenbrock_hessian(x):
    diagonal = np.zeros_like(x)
    diagonal[:-1] = 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
    diagonal[1:] += 200
    off = np.diag(-400 * x[:-1], 1)
    return np.diag(diagonal) + off + off.T


START = np.array([-1.2, 1.0, 0.7, 1.3])


def relative_error(actual, expected):
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


def expected_error(eps, order, scheme, accuracy):
    return eps if scheme == "complex" else eps ** (accuracy / (order + accuracy))


# --- weights --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offsets", "order", "expected"),
    [  # Fornberg 1988, tables 1 and 3
        ([-1, 0, 1], 1, [-1 / 2, 0, 1 / 2]),
        ([-2, -1, 0, 1, 2], 1, [1 / 12, -2 / 3, 0, 2 / 3, -1 / 12]),
        ([-2, -1, 0, 1, 2], 2, [-1 / 12, 4 / 3, -5 / 2, 4 / 3, -1 / 12]),
        ([-2, -1, 0, 1, 2], 4, [1, -4, 6, -4, 1]),
        ([0, 1, 2], 1, [-3 / 2, 2, -1 / 2]),
        ([0, 1, 2, 3], 2, [2, -5, 4, -1]),
        ([-4, -3, -2, -1, 0], 4, [1, -4, 6, -4, 1]),
    ],
)
def test_weights_are_those_of_the_published_tables(offsets, order, expected):
    assert finite.weights(offsets, order).tolist() == expected


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
def test_weights_differentiate_polynomials_exactly_on_any_offsets(order):
    offsets = [-1.75, -0.3, 0.0, 0.1, 1.0, 2.5, 3.25]
    w = [Fraction(float(v)) for v in finite.weights(offsets, order)]
    for degree in range(len(offsets)):
        terms = [v * Fraction(o) ** degree for v, o in zip(w, offsets, strict=True)]
        expected = math.factorial(order) if degree == order else 0
        scale = sum(abs(t) for t in terms) + expected
        assert abs(float(sum(terms) - expected)) <= 1e-15 * float(scale)


@pytest.mark.parametrize(
    ("offsets", "order", "match"),
    [
        ([0, 0, 1], 1, "distinct"),
        ([0, math.nan], 1, "finite"),
        ([0, 1], 2, "more than `order`"),
        ([0, 1], -1, "integer, 0 or above"),
    ],
)
def test_weights_refuse_what_has_no_formula(offsets, order, match):
    with pytest.raises(ValueError, match=match):
        finite.weights(offsets, order)


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "accuracy"), SCHEMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_gradient_has_the_digits_its_accuracy_promises(scheme, accuracy, dtype):
    x = START.astype(dtype)
    g = finite.grad(rosenbrock, scheme=scheme, accuracy=accuracy)(jnp.asarray(x))
    assert g.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    bound = 20 * expected_error(eps, 1, scheme, accuracy)
    assert relative_error(g, rosenbrock_grad(x.astype(float))) <= bound


@pytest.mark.parametrize(("scheme", "accuracy"), SCHEMES[:-1])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_error_falls_with_the_power_of_the_step_that_is_stated(scheme, accuracy, order):
    # exp: all derivatives alike. Large steps, so that truncation stands clear of rounding.
    def error(step):
        f = finite.derivative(jnp.exp, order=order, scheme=scheme, accuracy=accuracy, step=step)
        return abs(float(f(jnp.asarray(0.5))) / math.exp(0.5) - 1)

    h = {2: 0.05, 4: 0.2, 6: 0.4}[accuracy] if scheme == "central" else 0.02
    slope = math.log2(error(h) / error(h / 2))
    assert slope == pytest.approx(accuracy, abs=0.3)


@pytest.mark.parametrize(("scheme", "accuracy"), SCHEMES[:-1])
def test_hessian_error_falls_with_the_power_of_the_step_that_is_stated(scheme, accuracy):
    x = jnp.array([0.3, -0.2])

    def f(x):
        return jnp.exp(x[0] + 2 * x[1])

    def error(step):
        H = finite.hessian(f, scheme=scheme, accuracy=accuracy, step=step)(x)
        return np.abs(np.asarray(H) / f(x) - np.array([[1.0, 2.0], [2.0, 4.0]]))

    h = 0.01 if accuracy < 4 else 0.05
    slopes = np.log2(error(h) / error(h / 2))
    np.testing.assert_allclose(slopes, accuracy, atol=0.25)


@pytest.mark.parametrize("exponent", [-6, 0, 6])
@pytest.mark.parametrize("f", [jnp.log, lambda x: x**3, jnp.sqrt], ids=["log", "cube", "sqrt"])
def test_step_follows_the_size_of_x(exponent, f):
    x = jnp.asarray(1.7 * 10.0**exponent)
    # log(1e-6) is 14 while x f' is 1: a factor for the rounding of f itself.
    assert relative_error(finite.grad(f)(x), jax.grad(f)(x)) <= 1e-9


def test_step_at_zero_is_that_of_its_neighbours_and_of_one_in_a_leaf_of_zeros():
    f = lambda p: jnp.sum(jnp.sin(p["a"])) + jnp.sum(jnp.exp(p["b"]))  # noqa: E731
    p = {"a": jnp.array([0.0, 1e-12, 2.0]), "b": jnp.zeros(2)}
    g, expected = finite.grad(f)(p), jax.grad(f)(p)
    assert relative_error(g["a"], expected["a"]) <= 1e-6
    assert relative_error(g["b"], expected["b"]) <= 1e-9


@pytest.mark.parametrize("ratio", [1e-2, 1e-4, 1e-6])
def test_small_entry_keeps_half_the_digits_whichever_scale_it_has(ratio):
    # Its own scale (log), or that of its neighbour (exp): the step cannot know.
    x = jnp.array([2.0, *(ratio * jnp.linspace(1.0, 3.0, 9))])
    for f in (lambda x: jnp.sum(jnp.log(x)), lambda x: jnp.sum(jnp.exp(1.3 * x))):
        error = jnp.abs(finite.grad(f)(x) / jax.grad(f)(x) - 1)
        assert error[0] <= 1e-9
        assert jnp.max(error) <= 1e-5


def test_points_of_an_elementwise_function_have_scales_of_their_own():
    x = jnp.logspace(-7, 7, 15)
    d = finite.derivative(jnp.log)(x)
    np.testing.assert_allclose(d, 1 / x, rtol=1e-8)
    x = jnp.array([-1.0, 1e-17, 0.0, 1.0])  # zero up to rounding, as in a linspace
    np.testing.assert_allclose(finite.derivative(jnp.exp)(x), jnp.exp(x), rtol=1e-9)


def test_smallest_numbers_still_have_a_step():
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.asarray(jnp.finfo(dtype).smallest_normal, dtype)
        assert finite.grad(lambda x: 2 * x)(x) == 2


def test_loss_in_float32_of_float64_parameters_is_differentiated_on_its_own_scale():
    def loss(x):
        return jnp.sum(x.astype(jnp.float32) ** 2)

    x = jnp.ones(3)
    naive = scipy.optimize.approx_fprime(np.ones(3), lambda x: float(loss(jnp.asarray(x))))
    assert np.all(naive == 0)  # the trap: a step below the spacing of float32
    assert relative_error(finite.grad(loss)(x), 2 * np.ones(3)) <= 1e-3
    assert relative_error(finite.hessian(loss)(x), 2 * np.eye(3)) <= 1e-1
    assert (
        relative_error(finite.derivative(lambda x: x.astype(jnp.float32) ** 2)(x), 2 * x)
        <= 1e-3
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_parameters_keep_their_dtype(dtype):
    x = jnp.array([1.0, 2.0], dtype)

    def f(x):
        assert x.dtype == dtype
        return jnp.sum(x.astype(jnp.float32) ** 2)

    g = finite.grad(f)(x)
    assert g.dtype == dtype
    assert relative_error(g, [2.0, 4.0]) <= 4 * float(jnp.finfo(dtype).eps)
    assert relative_error(finite.grad(lambda x: jnp.sum(x**2))(x), [2.0, 4.0]) <= 0.1


def test_constant_has_derivative_zero_and_a_line_its_slope_exactly():
    x = jnp.array([0.1, 1 / 3, 1e5 / 7])
    for scheme, accuracy in [("central", 4), ("forward", 1), ("backward", 3)]:
        options = {"scheme": scheme, "accuracy": accuracy}
        assert jnp.all(finite.grad(lambda x: 1e4 / 3 + 0 * x[0], **options)(x) == 0)
        assert jnp.all(finite.hessian(lambda x: 1e4 / 3 + 0 * x[0], **options)(x) == 0)
        assert_close(finite.grad(lambda x: 0.5 * x[2], **options)(x)[2], jnp.asarray(0.5))


def test_slope_of_a_line_is_exact_however_the_moved_point_is_rounded():
    # x + h of these is off by up to 1e-8 of h: the divisor is the distance really moved.
    x = jnp.array([0.1, 1 / 3, 1e5 / 7])
    for scheme, accuracy in [("central", 2), ("forward", 1), ("backward", 2)]:
        operator = finite.grad(lambda x: x[2], scheme=scheme, accuracy=accuracy, step=1e-3 / 3)
        assert_close(operator(x)[2], jnp.asarray(1.0), factor=10)


@pytest.mark.parametrize("factor", [2.0**-30, 2.0**30])
def test_scaled_loss_has_the_scaled_derivative_exactly(factor):
    x = jnp.asarray(START)
    for operator in (finite.grad, finite.hessian):
        plain, scaled = (operator(f)(x) for f in (rosenbrock, lambda x: factor * rosenbrock(x)))
        assert jnp.all(scaled == factor * plain)


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_scaled_loss_has_the_scaled_derivative_to_rounding(factor):
    x = jnp.asarray(START)
    g = finite.grad(lambda x: factor * rosenbrock(x))(x)
    assert relative_error(g / factor, rosenbrock_grad(START)) <= 1e-9


@pytest.mark.parametrize(("scheme", "accuracy"), SCHEMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_hessian_has_the_digits_its_accuracy_promises(scheme, accuracy, dtype):
    x = START.astype(dtype)
    H = finite.hessian(rosenbrock, scheme=scheme, accuracy=accuracy)(jnp.asarray(x))
    assert H.dtype == dtype
    assert jnp.all(H.T == H)
    eps = float(jnp.finfo(dtype).eps)
    power = 2 / 3 if scheme == "complex" else accuracy / (2 + accuracy)
    assert relative_error(H, rosenbrock_hessian(x.astype(float))) <= 20 * eps**power


# --- structure ------------------------------------------------------------------------------


def tree_loss(p, scale=1.0):
    return scale * jnp.sum(jnp.sin(p["w"]) * p["b"][0]) + jnp.sum(p["c"].astype(jnp.float32))


TREE = {
    "w": jnp.arange(6.0).reshape(2, 3),
    "b": (jnp.float32(2.0), None),
    "c": jnp.ones(2, jnp.bfloat16),
}


def assert_same_structure(actual, expected):
    shapes = lambda t: jax.tree.map(lambda a: (jnp.shape(a), jnp.asarray(a).dtype), t)  # noqa: E731
    assert shapes(actual) == shapes(expected)


def test_gradient_is_shaped_like_that_of_jax():
    g, expected = finite.grad(tree_loss)(TREE), jax.grad(tree_loss)(TREE)
    assert_same_structure(g, expected)
    assert relative_error(g["w"], expected["w"]) <= 1e-3  # float32: of the coarsest, b
    g = finite.grad(lambda x: x[0] * x[1])([2.0, 3.0])
    assert_same_structure(g, [jnp.asarray(1.0), jnp.asarray(1.0)])


def test_argnums_are_those_of_jax():
    f = lambda a, b, c: jnp.sum(a * b["k"] ** 2) * c  # noqa: E731
    args = (jnp.ones(2), {"k": jnp.arange(2.0)}, 3.0)
    for argnums in (0, 1, (0, 1), (2, 0), -1):
        g, expected = (grad(f, argnums=argnums)(*args) for grad in (finite.grad, jax.grad))
        assert_same_structure(g, expected)
        assert_close(g, expected, factor=1e7, scale=12.0)


def test_keyword_arguments_and_settings_reach_the_function():
    def f(x, flag, *, name, power):
        assert isinstance(flag, bool)
        assert name == "cube"
        return jnp.sum(x**power) if flag else 0.0 * x[0]

    g = finite.grad(f)(jnp.ones(2), True, name="cube", power=3.0)
    assert relative_error(g, [3.0, 3.0]) <= 1e-9


def test_jacobian_is_shaped_like_that_of_jax():
    def f(p):
        return {"o": p["w"] * p["b"][0] ** 2, "s": (jnp.sum(p["w"] ** 3), None)}

    p = {"w": jnp.arange(1.0, 7.0).reshape(2, 3), "b": [jnp.asarray(2.0)]}
    J, expected = finite.jacobian(f)(p), jax.jacobian(f)(p)
    assert_same_structure(J, expected)
    assert_close(J, expected, factor=1e7, scale=100.0)
    J = finite.jacobian(f, scheme="complex")(p)
    assert_close(J, expected)


@pytest.mark.slow
def test_hessian_is_shaped_like_that_of_jax():
    f = lambda p: jnp.sum(p["w"] ** 3) * p["b"][0] ** 2  # noqa: E731
    p = {"w": jnp.arange(1.0, 5.0).reshape(2, 2), "b": [jnp.asarray(2.0)]}
    H, expected = finite.hessian(f)(p), jax.hessian(f)(p)
    assert_same_structure(H, expected)
    assert_close(H, expected, factor=1e9, scale=200.0)
    f = lambda a, b: jnp.sum(a**2) * b  # noqa: E731
    args = (jnp.ones(2), 3.0)
    H, expected = (h(f, argnums=(0, 1))(*args) for h in (finite.hessian, jax.hessian))
    assert_same_structure(H, expected)


@pytest.mark.parametrize(("scheme", "accuracy"), SCHEMES)
def test_derivative_works_elementwise(scheme, accuracy):
    x = jnp.array([[0.3, 1.5, 0.0], [-2.0, 0.9, 2.5]])
    for f in (jnp.sin, lambda x: np.sin(np.asarray(x, copy=True))):
        d = finite.derivative(f, scheme=scheme, accuracy=accuracy)(x)
        bound = 20 * expected_error(2.2e-16, 1, scheme, accuracy)
        assert relative_error(d, np.cos(x)) <= bound


def test_derivative_matches_scipy_and_closed_forms():
    x = np.array([0.5, 1.0, 2.0])
    fourth = finite.derivative(jnp.sin, order=4, accuracy=4)(jnp.asarray(x))
    assert relative_error(fourth, np.sin(x)) <= 1e-6
    first = finite.derivative(jnp.arctan, accuracy=6)(jnp.asarray(x))
    assert relative_error(first, 1 / (1 + x**2)) <= 1e-12
    peer = scipy.differentiate.derivative(np.arctan, x)
    assert np.all(np.abs(first - peer.df) <= peer.error)


# --- transformations ------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["central", "forward", "complex"])
def test_jit_and_vmap_change_nothing(scheme):
    x = jnp.asarray(START)
    points = jnp.stack([x, 2 * x, x - 3])
    for operator in (finite.grad, finite.hessian):
        d = operator(rosenbrock, scheme=scheme)
        plain = jnp.stack([d(p) for p in points])
        assert_close(jax.jit(d)(points[1]), plain[1], factor=1e9)
        assert_close(jax.vmap(d)(points), plain, factor=1e9)
    d = finite.derivative(jnp.sin, scheme=scheme)
    assert_close(jax.jit(jax.vmap(d))(points), d(points), factor=1e9)


def test_two_calls_trace_once():
    traces = []

    def f(x, a):
        traces.append(1)
        return a * jnp.sum(x**2)

    for operator in (finite.grad, finite.hessian, finite.jacobian):
        d = operator(f)
        d(jnp.ones(3), 1.0)
        before = len(traces)
        d(jnp.zeros(3), 2.0)
        assert len(traces) == before


def test_derivative_can_itself_be_differentiated():
    g = jax.grad(lambda a: finite.grad(lambda x, a: a * x**3)(2.0, a))(5.0)
    assert_close(g, jnp.asarray(12.0), factor=1e7)


def test_gradient_of_many_variables_stays_in_bounded_memory():
    n = 5_000
    f = lambda x: jnp.sum(x**2)  # noqa: E731
    d = finite.grad(f, scheme="forward", accuracy=1)
    compiled = jax.jit(d).lower(jnp.ones(n)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * n * n / 10
    assert relative_error(compiled(jnp.ones(n)), 2 * np.ones(n)) <= 1e-3


def test_callback_that_cannot_be_batched_is_called_point_by_point():
    def f(x):
        square = lambda x: np.asarray(np.dot(x, x))  # noqa: E731
        return jax.pure_callback(square, jax.ShapeDtypeStruct((), x.dtype), x)

    x = jnp.array([1.0, 2.0])
    assert_close(jax.jit(finite.grad(f))(x), 2 * x, factor=1e7)
    assert_close(finite.hessian(f)(x), 2 * jnp.eye(2), factor=1e9)
    g = lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)  # noqa: E731
    assert_close(finite.derivative(g)(x), jnp.cos(x), factor=1e7)


# --- counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "accuracy"), SCHEMES[1::2] + SCHEMES[-1:])
@pytest.mark.parametrize("name", ["grad", "jacobian", "hessian", "derivative"])
def test_number_of_evaluations_is_that_of_actual_calls(name, scheme, accuracy):
    calls = []

    def f(x):
        jax.debug.callback(lambda _: calls.append(1), x)  # once for each lane of a batch
        return x**3 if name == "derivative" else jnp.sum(x**3)

    def g(x):
        calls.append(1)
        y = np.array(x)
        y[0] **= 3  # in place: not traceable
        return y if name == "derivative" else y.sum()

    x = jnp.array([1.0, 2.0, 3.0])
    for function in (f, g):
        d = getattr(finite, name)(function, scheme=scheme, accuracy=accuracy)
        d(x)  # for g, once more to learn that it is NumPy and what it returns
        jax.effects_barrier()
        calls.clear()
        d(x)
        jax.effects_barrier()
        assert len(calls) == d.num_evaluations(x)


def test_number_of_evaluations_follows_the_formulas():
    x = {"a": jnp.ones((2, 3)), "b": 1.0}  # n = 7
    count = lambda name, *o: getattr(finite, name)(  # noqa: E731
        rosenbrock, scheme=o[0], accuracy=o[1]
    ).num_evaluations(x)
    assert count("grad", "forward", 1) == 8
    assert count("grad", "forward", 2) == 15
    assert count("grad", "central", 2) == 14
    assert count("grad", "central", 4) == 28
    assert count("grad", "complex", 2) == 7
    assert count("hessian", "central", 2) == 57
    assert count("hessian", "complex", 2) == 56


def test_noise_of_the_gradient_follows_from_scheme_and_accuracy():
    eps = float(jnp.finfo(jnp.float32).eps)
    noise = lambda **o: finite.grad(rosenbrock, **o).relative_noise(jnp.float32)  # noqa: E731
    assert noise() == pytest.approx(eps ** (2 / 3))
    assert noise(scheme="forward", accuracy=1) == pytest.approx(eps**0.5)
    assert noise(scheme="complex") == eps


# --- NumPy functions ------------------------------------------------------------------------


def test_numpy_function_gives_the_same_bits_as_its_jax_twin():
    # Sums of squares and products of short numbers: every operation is exact, so that no
    # fused multiply-add can make a difference.
    x = jnp.array([1.0, 2.0, -0.5, 4.0])
    numpy_f = lambda x: np.dot(x, x) + x[0] * x[1]  # noqa: E731
    jax_f = lambda x: jnp.dot(x, x) + x[0] * x[1]  # noqa: E731
    for scheme, accuracy in [("central", 2), ("forward", 1)]:
        for operator in (finite.grad, finite.hessian):
            a, b = (operator(f, scheme=scheme, accuracy=accuracy)(x) for f in (numpy_f, jax_f))
            assert isinstance(a, jax.Array)
            assert jnp.all(a == b)


def test_numpy_function_receives_numpy_arrays_of_the_parameters_dtype():
    def f(p, data):
        if isinstance(p["w"], jax.core.Tracer):
            return float(p["w"][0])
        assert type(p["w"]) is np.ndarray
        assert p["w"].dtype == np.float32
        assert type(data) is np.ndarray
        return np.dot(p["w"], data)

    p = {"w": jnp.array([1.0, 2.0], jnp.float32)}
    data = jnp.array([3.0, 4.0], jnp.float32)
    assert relative_error(finite.grad(f)(p, data)["w"], data) <= 1e-4
    assert finite.jacobian(lambda p: np.asarray(p["w"]) * 2)(p)["w"].shape == (2, 2)


def test_numpy_function_with_a_float32_result_gets_the_step_of_float32():
    f = lambda x: np.float32(np.dot(x, x))  # noqa: E731
    assert relative_error(finite.grad(f)(jnp.ones(2)), [2.0, 2.0]) <= 1e-3


def test_without_x64_a_numpy_function_keeps_its_digits_and_a_jax_function_warns():
    x = np.array([1.0, 3.0])
    with jax.enable_x64(False):
        g = finite.grad(lambda x: np.dot(x, np.sin(x)))(x)
        assert g.dtype == np.float64
        with pytest.warns(UserWarning, match=r"`params` is float64, but JAX computes in"):
            assert finite.grad(lambda x: jnp.sum(jnp.sin(x)))(x).dtype == np.float32
        f = finite.grad(lambda x: np.float32(np.dot(x, x)))
        assert f(jnp.ones(2)).dtype == np.float32
        assert finite.grad(jnp.sin)(1.0).dtype == np.float32  # a Python float: no warning
    assert relative_error(g, np.sin(x) + x * np.cos(x)) <= 1e-9


def test_python_branches_are_taken_on_concrete_numbers():
    f = lambda x: x**2 if x > 0 else -(x**2)  # noqa: E731
    assert_close(finite.grad(f)(-2.0), jnp.asarray(4.0), factor=1e7)


@pytest.mark.parametrize(
    ("f", "match"),
    [
        (lambda x: np.dot(x, x), "calls NumPy on a traced value.*jax.numpy"),
        (lambda x: x[0] if x[0] > 0 else x[1], "decides in Python.*jnp.where"),
    ],
)
def test_numpy_function_inside_a_transformation_is_refused(f, match):
    with pytest.raises(TypeError, match=match):
        jax.jit(finite.grad(f))(jnp.ones(2))
    with pytest.raises(TypeError, match=match):
        jax.vmap(finite.grad(f))(jnp.ones((2, 2)))
    closed_over = lambda a: finite.grad(lambda x: f(a * x))(np.ones(2))  # noqa: E731
    with pytest.raises(TypeError, match=match):
        jax.jit(closed_over)(2.0)


# --- the complex step -----------------------------------------------------------------------


def test_complex_step_gives_every_digit():
    f = lambda x: jnp.exp(x[0]) / jnp.sqrt(jnp.sin(x[0]) ** 3 + jnp.cos(x[1]) ** 3)  # noqa: E731
    x = jnp.array([1.5, 0.2])  # Squire and Trapp's function, of two variables
    assert_close(finite.grad(f, scheme="complex")(x), jax.grad(f)(x), factor=10)
    g = lambda x: np.exp(x[0]) / np.sqrt(np.sin(x[0]) ** 3 + np.cos(x[1]) ** 3)  # noqa: E731
    assert_close(finite.grad(g, scheme="complex")(x), jax.grad(f)(x), factor=10)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jax.nn.logsumexp(x),
        lambda x: jnp.sum(jnp.where(x.real > 0, x**2, x)),
        lambda x: jnp.sum(jnp.tanh(x) @ jnp.tanh(x)),
        lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * jnp.sin(x[0]), x[1]),
        lambda x: jnp.linalg.solve(jnp.eye(2) + x[:, None] * x[None], x)[0],
    ],
    ids=["logsumexp", "where", "tanh", "loop", "solve"],
)
def test_complex_step_accepts_analytic_functions(f):
    x = jnp.array([0.5, 0.25])
    assert_close(finite.grad(f, scheme="complex")(x), jax.grad(f)(x))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.sum(jnp.abs(x)),
        lambda x: x[0] + jnp.abs(x[1]),
        lambda x: jnp.sum(x.real**2),
        lambda x: x[0] + jnp.linalg.norm(x),
        lambda x: jnp.vdot(x, x),
        lambda x: jax.jit(lambda x: x[0] * jnp.conj(x[1]))(x),
        lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c + jnp.abs(x[0]), x[1]),
        lambda x: np.sum(np.abs(np.asarray(x))),
        lambda x: np.asarray(x)[0] + np.abs(np.asarray(x)[1]) ** 2,
        lambda x: np.vdot(x, x),
    ],
    ids=[
        "abs",
        "sum-abs",
        "real",
        "norm",
        "vdot",
        "conj",
        "loop",
        "np-abs",
        "np-sum-abs",
        "np-vdot",
    ],
)
def test_complex_step_refuses_what_is_not_analytic(f):
    with pytest.raises(TypeError, match="needs an analytic `f`"):
        finite.grad(f, scheme="complex")(jnp.array([1.0, 2.0]))


def test_holomorphic_function_has_a_complex_derivative():
    f = lambda z: jnp.sin(z["a"]) ** 2 * z["b"][0]  # noqa: E731
    z = {"a": jnp.asarray(0.5 + 1j), "b": jnp.array([1j, 2.0 + 0j])}
    expected = jax.grad(f, holomorphic=True)(z)
    assert_close(finite.grad(f)(z), expected, factor=1e7, scale=1.0)
    assert_close(finite.grad(f, scheme="forward")(z), expected, factor=1e7, scale=1.0)
    d = finite.derivative(jnp.exp)(jnp.asarray(1j))
    assert_close(d, jnp.exp(jnp.asarray(1j)), factor=1e7)


# --- steps given, and the edges of a function's domain --------------------------------------


def test_step_may_be_a_number_or_a_tree():
    f = lambda p: p["a"] ** 3 + jnp.sum(p["b"] ** 3)  # noqa: E731
    p = {"a": 1.0, "b": jnp.ones(2)}
    for step in (0.5, {"a": 0.5, "b": jnp.array([0.5, 0.5])}, {"a": 0.5, "b": 0.5}):
        g = finite.grad(f, step=step)(p)
        assert_close(g, {"a": jnp.asarray(3.25), "b": jnp.array([3.25, 3.25])}, factor=4)
    with pytest.raises(ValueError, match="`step` must be one number or a pytree"):
        finite.grad(f, step={"a": 0.5})(p)


def test_nan_beside_the_point_stays_in_the_result():
    f = lambda x: jnp.sum(jnp.sqrt(x))  # noqa: E731
    g = finite.grad(f)(jnp.array([0.0, 4.0]))
    assert np.isnan(g[0])
    assert g[1] == pytest.approx(0.25)
    assert np.isfinite(finite.grad(f, scheme="forward")(jnp.array([0.0, 4.0]))).all()


def test_step_lost_in_rounding_gives_nan_not_zero():
    assert np.isnan(finite.grad(lambda x: x**2, step=1e-20)(1.0))
    assert np.isnan(finite.grad(jnp.sin)(jnp.inf))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scheme": "centrl"}, "Did you mean 'central'"),
        ({"accuracy": 3}, "must be even, got 3"),
        ({"accuracy": 0}, "`accuracy` must be a positive integer, got 0"),
        ({"scheme": "complex", "accuracy": 4}, "`accuracy` 2"),
        ({"step": 0.0}, "`step` must be positive and finite, got 0.0"),
        ({"step": -1e-3}, "`step` must be positive"),
        ({"step": math.nan}, "`step` must be positive"),
        ({"step": {"a": jnp.array([1.0, math.inf])}}, "`step` must be positive"),
    ],
)
@pytest.mark.parametrize("name", ["grad", "jacobian", "hessian", "derivative"])
def test_options_are_checked_at_once(name, options, match):
    with pytest.raises(ValueError, match=match):
        getattr(finite, name)(rosenbrock, **options)


def test_order_is_checked():
    with pytest.raises(ValueError, match="`order` must be a positive integer, got 0"):
        finite.derivative(jnp.sin, order=0)
    with pytest.raises(ValueError, match="`order` must be 1"):
        finite.derivative(jnp.sin, order=2, scheme="complex")


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"w": jnp.arange(3)}, TypeError, r"params\['w'\].*int.*Cast it"),
        ([1.0, 2], TypeError, r"params\[1\]"),
        ({"w": jnp.array([True])}, TypeError, r"params\['w'\].*bool"),
        ({"w": "abc"}, TypeError, r"params\['w'\]"),
        ({"w": object()}, TypeError, r"params\['w'\].*floating array"),
        ({}, ValueError, "empty"),
        (jnp.zeros(0), ValueError, "empty"),
        (None, ValueError, "empty"),
    ],
)
def test_parameters_that_cannot_be_differentiated_are_named(params, error, match):
    with pytest.raises(error, match=match):
        finite.grad(lambda p: 1.0)(params)


def test_deleted_buffer_is_named():
    x = jnp.ones(2)
    x.delete()
    with pytest.raises(ValueError, match="deleted or donated"):
        finite.grad(jnp.sum)(x)


@pytest.mark.parametrize(
    ("f", "match"),
    [
        (lambda x: x[:1], r"shape \(1,\). Take its sum, or \[0\]"),
        (lambda x: x, "or use `jacobian`"),
        (lambda x: None, "`return` missing"),
        (lambda x: "a", "str"),
        (lambda x: 3, "int"),
        (lambda x: x[0] > 0, "bool"),
        (lambda x: x[0] + 1j, "real part"),
        (lambda x: (x[0], x), "has_aux"),
        (lambda x: {"a": x[0]}, "dict"),
    ],
)
def test_results_that_are_no_scalar_are_refused(f, match):
    for operator in (finite.grad, finite.hessian):
        with pytest.raises(TypeError, match=match):
            operator(f)(jnp.ones(3))


def test_own_exception_of_the_function_comes_out_unwrapped():
    def f(x):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine"):
        finite.grad(f)(jnp.ones(2))


def test_real_result_for_complex_parameters_is_refused():
    with pytest.raises(TypeError, match="only holomorphic functions"):
        finite.grad(lambda z: jnp.abs(z))(1.0 + 1j)
    with pytest.raises(TypeError, match="only holomorphic functions"):
        finite.jacobian(lambda z: jnp.abs(z))(1.0 + 1j)
    with pytest.raises(TypeError, match="must be real"):
        finite.grad(lambda z: z, scheme="complex")(1.0 + 1j)


def test_jacobian_and_derivative_refuse_what_they_cannot_hold():
    with pytest.raises(TypeError, match=r"f\(params\)\['a'\].*int"):
        finite.jacobian(lambda x: {"a": jnp.arange(2)})(jnp.ones(2))
    with pytest.raises(TypeError, match="returned None"):
        finite.jacobian(lambda x: None)(jnp.ones(2))
    with pytest.raises(TypeError, match=r"must be elementwise.*Use `grad`"):
        finite.derivative(jnp.sum)(jnp.ones(2))
    with pytest.raises(ValueError, match="`argnums` must name positional arguments"):
        finite.grad(jnp.sum, argnums=2)(jnp.ones(2))
    with pytest.raises(ValueError, match=r"GB.*newton_cg"):
        finite.hessian(jnp.sum)(jnp.ones(10**6))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("small", [0.0, 1.0, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8])
def test_hessian_keeps_a_quarter_of_the_digits_beside_a_small_entry(dtype, small):
    f = lambda x: jnp.sum(jnp.cosh(x - 0.5)) + x[0] * x[1]  # noqa: E731
    x = jnp.array([small, 1.0], dtype)
    exact = jax.hessian(f)(x)
    off = jnp.max(jnp.abs(finite.hessian(f)(x) - exact)) / jnp.max(jnp.abs(exact))
    assert off < 8 * jnp.finfo(dtype).eps ** 0.25
