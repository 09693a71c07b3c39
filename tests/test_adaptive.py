"""Derivatives with a bar: the bar contains the truth."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.derivatives import _choose, _drive, adaptive
from gradlab.derivatives.adaptive import DerivativeStatus, Estimate

CLOSED_FORMS = {
    # name: (f, f', f'', points)
    "exp": (jnp.exp, np.exp, np.exp, (-2.0, 0.0, 1e-12, 3.0)),
    "log": (jnp.log, lambda x: 1 / x, lambda x: -1 / x**2, (1e-12, 1e-3, 2.0, 1e12)),
    "sin 50x": (
        lambda x: jnp.sin(50 * x),
        lambda x: 50 * np.cos(50 * x),
        lambda x: -2500 * np.sin(50 * x),
        (0.3, 1.0, 2.5),
    ),
    "1/x": (lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3, (1e-9, 0.1, 1e9)),
    "cubic": (lambda x: x**3 - x, lambda x: 3 * x**2 - 1, lambda x: 6 * x, (-1.5, 0.0, 40.0)),
}


def covered(estimate, truth):
    return abs(np.asarray(estimate.value) - truth) <= np.asarray(estimate.error)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_bars_contain_the_closed_forms(name):
    f, first, second, points = CLOSED_FORMS[name]
    x = np.array(points)
    one, two = (
        Estimate(*parts)
        for parts in zip(*adaptive.derivative(f, order=(1, 2))(jnp.asarray(x)), strict=True)
    )
    # The truth itself is rounded, and x is given to half a rounding.
    slack = 4 * np.finfo(float).eps
    for estimate, truth in ((one, first(x)), (two, second(x))):
        error = abs(np.asarray(estimate.value) - truth)
        assert np.all(error <= np.asarray(estimate.error) + slack * abs(truth))
        assert np.all(error <= 1e-9 * abs(truth) + np.asarray(estimate.error))


def test_the_first_derivative_has_twelve_digits_with_fifty_evaluations():
    estimate = adaptive.derivative(jnp.tanh)(jnp.linspace(-2.0, 2.0, 21))
    truth = 1 / np.cosh(np.linspace(-2.0, 2.0, 21)) ** 2
    assert int(estimate.nfev[0]) <= 50
    assert np.max(abs(np.asarray(estimate.value) - truth) / truth) < 1e-12


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_orders_one_to_four_come_from_one_set_of_samples(order):
    calls = []

    def f(x):
        if not isinstance(x, jax.core.Tracer):  # asking whether JAX can trace it is free
            calls.append(np.size(x))
        return np.sin(x)

    estimate = adaptive.derivative(f, order=(1, 2, 3, 4))(0.7)
    truth = [np.cos(0.7), -np.sin(0.7), -np.cos(0.7), np.sin(0.7)][order - 1]
    assert sum(calls) == int(estimate.nfev[0]) <= 100
    assert abs(estimate.value[order - 1] - truth) <= estimate.error[order - 1] < 1e-7


def test_numpy_functions_give_what_jax_functions_give():
    x = np.array([0.2, 1.0, 5.0])
    by_jax = adaptive.derivative(lambda x: x**3)(x)
    by_numpy = adaptive.derivative(lambda x: np.asarray(x) ** 3)(x)
    gap = abs(np.asarray(by_jax.value) - by_numpy.value)
    assert np.all(gap <= by_numpy.error)


@pytest.mark.slow
def test_jit_gives_what_a_plain_call_gives():
    g = adaptive.derivative(jnp.sin)  # compiles both the real and the complex ladders
    x = jnp.array([0.1, 1.0, 3.0])
    plain, jitted = g(x), jax.jit(g)(x)
    assert np.all(abs(plain.value - jitted.value) <= np.minimum(plain.error, jitted.error))
    assert np.array_equal(plain.status, jitted.status)
    assert np.array_equal(plain.step, jitted.step)


@pytest.mark.slow
def test_vmap_gives_what_a_plain_call_gives():
    g = adaptive.grad(lambda x: jnp.sum(jnp.sin(x) * x[0]))
    x = jnp.array([[0.1, 1.0, 3.0], [2.0, -1.0, 0.3]])
    mapped = jax.jit(jax.vmap(lambda x: g(x)))(x)
    for i in range(2):
        plain = g(x[i])
        gap = abs(plain.value - mapped.value[i])
        assert np.all(gap <= np.minimum(plain.error, mapped.error[i]))


def test_one_lane_going_wrong_leaves_the_others_alone():
    x = jnp.array([1.0, -1.0, jnp.nan, 2.0])
    estimate = adaptive.derivative(jnp.log)(x)
    alone = adaptive.derivative(jnp.log)(x[::3])
    assert np.array_equal(estimate.value[::3], alone.value)
    assert np.array_equal(estimate.error[::3], alone.error)
    assert np.all(np.isinf(estimate.error[1:3]))


def test_many_rows_give_what_one_row_gives():
    x = jnp.linspace(0.1, 3.0, 300)
    together = adaptive.derivative(jnp.exp)(x)
    alone = adaptive.derivative(jnp.exp)(x[277])
    assert abs(together.value[277] - alone.value) <= alone.error
    assert np.all(abs(np.asarray(together.value) - np.exp(x)) <= together.error)


def test_many_calls_trace_the_function_once_for_each_shape():
    traces = []

    def f(x):
        traces.append(1)
        return jnp.exp(x)

    g = adaptive.derivative(f)
    g(jnp.asarray(0.5))
    before = len(traces)
    for x in (0.1, 3.0, -7.0):
        g(jnp.asarray(x))
    assert len(traces) == before


def test_gradient_keeps_the_structure_and_counts_its_evaluations():
    calls = []

    def f(p):
        calls.append(1)
        return np.sum(np.asarray(p["w"]) ** 2) + np.exp(np.asarray(p["b"]))

    params = {"w": np.array([1.0, -2.0, 1e-6]), "b": np.asarray(0.3)}
    estimate = adaptive.grad(f)(params)
    assert estimate.value["w"].shape == (3,)
    assert np.all(abs(estimate.value["w"] - 2 * params["w"]) <= estimate.error["w"] + 1e-15)
    assert abs(estimate.value["b"] - np.exp(0.3)) <= estimate.error["b"]
    # One more call tells the output's shape, one tries to trace it.
    assert int(estimate.nfev) <= len(calls) <= int(estimate.nfev) + 2
    assert int(estimate.nfev) <= 4 * 35


def test_hessian_matches_jax():
    def f(x):
        return x[0] ** 2 * x[1] + jnp.sin(x[2] * x[0]) + jnp.exp(-x[1])

    x = jnp.array([1.0, 3.0, 2.0])
    estimate = adaptive.hessian(f)(x)
    error = abs(estimate.value - jax.jit(jax.hessian(f))(x))
    assert np.all(error <= estimate.error + 1e-14)
    assert np.max(error) < 1e-7


def test_hessian_entries_at_the_edge_of_the_domain_have_finite_bars():
    def f(x):
        inside = (x[0] <= 1) and (x[1] >= 0)
        return np.sin(x[0] * x[1]) + x[0] * x[1] ** 2 * x[2] if inside else np.nan

    estimate = adaptive.hessian(f)(np.array([1.0, 0.0, 3.0]))
    error = abs(estimate.value - np.array([[0.0, 1.0, 0.0], [1.0, 6.0, 0.0], [0.0, 0.0, 0.0]]))
    assert np.all(error <= estimate.error)
    assert np.max(estimate.error) < 1e-2
    assert np.all(estimate.status[0] == DerivativeStatus.ONE_SIDED)


def test_jacobian_matches_jax():
    def f(x):
        return {"a": jnp.sin(x) * x[0], "b": jnp.sum(x**2)}

    x = jnp.array([0.5, 3.0, 2.0])
    estimate = adaptive.jacobian(f)(x)
    exact = jax.jit(jax.jacobian(f))(x)
    for key in ("a", "b"):
        error = abs(estimate.value[key] - exact[key])
        assert np.all(error <= estimate.error[key] + 1e-14)
        assert np.max(error) < 1e-8


def test_a_kink_is_named_and_its_bar_reaches_both_slopes():
    estimate = adaptive.derivative(lambda x: jnp.abs(x) + 2 * x)(jnp.asarray(0.0))
    assert int(estimate.status) == DerivativeStatus.NOT_DIFFERENTIABLE
    assert not estimate.ok
    assert abs(estimate.value - 3) <= estimate.error
    assert abs(estimate.value - 1) <= estimate.error
    assert "slope jumps" in estimate.message


@pytest.mark.parametrize("side", [1, -1])
def test_one_sided_derivatives_stay_on_their_side(side):
    def f(x):
        return jnp.where(side * (x - 0.3) >= 0, jnp.exp(x), jnp.nan)

    estimate = adaptive.derivative(f, side=side)(jnp.asarray(0.3))
    assert abs(estimate.value - np.exp(0.3)) <= estimate.error < 1e-9
    detected = adaptive.derivative(f)(jnp.asarray(0.3))
    assert int(detected.status) == DerivativeStatus.ONE_SIDED
    assert abs(detected.value - np.exp(0.3)) <= detected.error < 1e-9


def test_a_kink_nearby_is_not_a_kink_here():
    estimate = adaptive.derivative(lambda x: x * jnp.abs(x), order=(1, 2))(
        jnp.array([0.01, -0.1, 1.0])
    )
    assert np.all(estimate.status[0] <= DerivativeStatus.NOISY)
    assert np.all(abs(np.asarray(estimate.value[0]) - [0.02, 0.2, 2.0]) <= estimate.error[0])
    assert np.all(abs(np.asarray(estimate.value[1]) - [2.0, -2.0, 2.0]) <= estimate.error[1])


@pytest.mark.parametrize("bits", [13, 20, 30])
def test_bars_cover_the_quanta_of_a_rounded_function(bits):
    x = np.array([-2.3, -1.285, -0.4, 0.8, 1.7, 3.0])
    estimate = adaptive.derivative(lambda x: np.round(np.sin(x) * 2.0**bits) / 2.0**bits)(x)
    error = abs(estimate.value - np.cos(x))
    assert np.all(error <= estimate.error)
    assert np.all(error < 100 * 2.0**-bits)


def test_bars_cover_hashed_noise_and_the_status_says_so():
    def f(x):
        y = jnp.sin(x * 2.0**36 * 1.2345) * 2.0**20
        return jnp.exp(x) * (1 + 1e-7 * (2 * (y - jnp.floor(y)) - 1))

    x = jnp.array([-1.0, 0.2, 1.0, 2.5])
    estimate = adaptive.derivative(f)(x)
    assert np.all(abs(np.asarray(estimate.value) - np.exp(x)) <= estimate.error)
    assert np.all(np.asarray(estimate.error) < 1e-4 * np.exp(x))
    assert np.all(estimate.status == DerivativeStatus.NOISY)
    assert estimate.ok


def test_a_known_noise_level_widens_the_bar():
    plain = adaptive.derivative(jnp.sin)(0.5)
    told = adaptive.derivative(jnp.sin, noise=1e-6)(0.5)
    assert 1e-7 < told.error < 1e-4
    assert plain.error < 1e-11


def test_a_constant_and_a_stationary_point_have_zero_slope_and_a_small_bar():
    for f in (lambda x: 3 + 0 * x, jnp.cos, lambda x: 1 + x**4):
        estimate = adaptive.derivative(f)(jnp.asarray(0.0))
        assert abs(estimate.value) <= estimate.error < 1e-12
        assert estimate.ok


def test_values_near_the_ends_of_the_range_neither_over_nor_underflow():
    for scale in (1e-250, 1e250):
        estimate = adaptive.derivative(lambda x, s=scale: s * np.sin(x), order=(1, 3))(0.5)
        assert abs(estimate.value[0] - scale * np.cos(0.5)) <= estimate.error[0]
        assert abs(estimate.value[1] + scale * np.cos(0.5)) <= estimate.error[1]
        assert estimate.error[0] < 1e-12 * scale


def test_numpy_functions_of_one_number_at_a_time_work():
    def f(x):
        return math.log(x) if x > 0.5 else 2 * x - 1 - math.log(2)

    estimate = adaptive.derivative(f)(np.array([0.7, 3.0]))
    assert np.all(abs(estimate.value - 1 / np.array([0.7, 3.0])) <= estimate.error)


def test_half_precision_input_is_widened():
    estimate = adaptive.grad(lambda p: jnp.sum(p**2))(jnp.array([0.5, 2.0], jnp.bfloat16))
    assert np.all(abs(np.asarray(estimate.value) - [1.0, 4.0]) <= estimate.error)
    assert np.max(estimate.error) < 1e-3


def test_float32_functions_get_float32_bars():
    estimate = adaptive.derivative(jnp.sin)(jnp.linspace(0.1, 3.0, 9, dtype=jnp.float32))
    assert estimate.value.dtype == jnp.float32
    assert np.all(covered(estimate, np.cos(np.linspace(0.1, 3.0, 9, dtype=np.float32))))
    assert np.max(estimate.error) < 3e-5


def test_a_float32_loss_of_float64_input_is_measured_as_float32():
    def f(x):
        return jnp.sin(x.astype(jnp.float32))

    estimate = adaptive.derivative(f)(jnp.asarray(1.0))
    assert abs(estimate.value - np.cos(1.0)) <= estimate.error
    assert 1e-10 < estimate.error < 1e-4


@pytest.mark.parametrize("factor", [1e9, 1e-9])
def test_scaling_the_function_scales_value_and_bar(factor):
    x = jnp.array([0.3, 2.0])
    plain = adaptive.derivative(jnp.exp)(x)
    scaled = adaptive.derivative(lambda x: factor * jnp.exp(x))(x)
    assert np.all(abs(scaled.value - factor * plain.value) <= 2 * factor * plain.error)
    ratio = np.asarray(scaled.error / (factor * plain.error))
    assert np.all((ratio > 0.05) & (ratio < 20))


@pytest.mark.parametrize("length", [1e-9, 1e9])
def test_the_step_follows_the_functions_own_length(length):
    x = jnp.asarray(0.7 * length)
    estimate = adaptive.derivative(lambda x: jnp.sin(x / length))(x)
    truth = np.cos(0.7) / length
    assert abs(estimate.value - truth) <= estimate.error < 1e-11 / length


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("part", [0.03, 1e-3])
def test_a_part_small_beside_the_others_is_not_passed_over(dtype, part):
    x, part = dtype(0.3), dtype(part)
    wiggle = adaptive.derivative(lambda t: t + part * np.sin(np.asarray(t)), scheme="real")(x)
    assert abs(wiggle.value - (1 + part * np.cos(float(x)))) <= wiggle.error
    fold = adaptive.derivative(lambda t: t + part * np.abs(np.asarray(t)), scheme="real")(x)
    assert abs(fold.value - (1 + float(part))) <= fold.error


def test_a_slope_between_two_roundings_is_not_believed():
    x = np.array([0.01, 0.02, 0.03], np.float32)
    estimate = adaptive.derivative(lambda x: (1 - np.cos(x)) / (np.asarray(x) * x))(x)
    truth = np.array([np.sin(v) / v**2 - 2 * (1 - np.cos(v)) / v**3 for v in x.astype(float)])
    assert np.all(abs(estimate.value - truth) <= estimate.error)


def test_a_kink_of_a_float32_function_is_named():
    x = np.float32(1.0)
    estimate = adaptive.derivative(lambda x: np.abs(x - 1) + np.asarray(x) * x)(x)
    assert int(estimate.status) == DerivativeStatus.NOT_DIFFERENTIABLE
    assert estimate.error >= 1


@pytest.mark.parametrize("library", [np, jnp])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_complex_step_is_not_rounded_by_the_size_of_the_function(library, dtype):
    x = np.array([0.5, 1.5], dtype)
    estimate = adaptive.derivative(
        lambda x: 100 + library.tanh(x), order=(1, 2), scheme="complex"
    )(x)
    sech, eps = 1 / np.cosh(x.astype(float)), np.finfo(dtype).eps
    for k, truth in enumerate((sech**2, -2 * np.tanh(x.astype(float)) * sech**2)):
        error = abs(np.asarray(estimate.value[k], float) - truth)
        assert np.all(error <= np.asarray(estimate.error[k], float) + 4 * eps * abs(truth))
        assert np.all(error <= (8, 1e3)[k] * eps * abs(truth))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_complex_step_is_sharper_at_every_order(order):
    f, x = np.tanh, np.array([0.3, 1.7, -2.2])
    real, sharp = (adaptive.derivative(f, order=order, scheme=s)(x) for s in ("real", "auto"))
    assert np.all(abs(real.value - sharp.value) <= real.error + sharp.error)
    assert np.all(sharp.error < real.error / 3)
    assert int(sharp.nfev[0]) <= (50 if order == 1 else 100)


def test_evaluations_with_the_complex_step_are_counted():
    calls = []

    def f(x):
        if not isinstance(x, jax.core.Tracer):
            calls.append(np.size(x))
        return np.sin(x)

    assert sum(calls) == 0
    estimate = adaptive.derivative(f, scheme="auto")(0.7)
    assert sum(calls) == int(estimate.nfev) == 50


NOT_ANALYTIC = {
    "abs": np.abs,
    "rounded": lambda x: np.round(1e4 * np.asarray(x)) / 1e4,
    "modulus": lambda x: np.asarray(x) * np.abs(x),
    "small modulus": lambda x: np.exp(x) + 1e-6 * np.abs(x) ** 3,
    "real part": lambda x: np.exp(np.real(x)) + 0 * x,
    "conjugate": lambda x: np.sin(np.conj(x)),
    "real numbers only": lambda x: math.exp(x),
    "conversion": lambda x: np.exp(np.asarray(x, float)),
}


@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_the_complex_step_is_refused_where_it_is_none(name):
    f, x = NOT_ANALYTIC[name], np.array([0.7, 1.3])
    real, auto = (adaptive.derivative(f, scheme=scheme)(x) for scheme in ("real", "auto"))
    assert np.all(abs(real.value - auto.value) <= real.error)
    assert np.all(auto.error >= real.error / 2)
    with contextlib.suppress(NeedsAnalytic):
        asked = _asked(f, x)
        assert np.all(asked.status == DerivativeStatus.NOT_ANALYTIC)
        assert np.array_equal(auto.value, asked.value)
        assert "not analytic" in asked.message


class NeedsAnalytic(Exception):
    """The refusal in words."""


def _asked(f, x):
    try:
        return adaptive.derivative(f, scheme="complex")(x)
    except TypeError as error:
        if "scheme='complex' needs an analytic `f`, but" in str(error):
            raise NeedsAnalytic from error
        raise


@pytest.mark.parametrize("f", [jnp.abs, jnp.floor, lambda x: jnp.exp(x.real), jnp.linalg.norm])
def test_jax_functions_that_are_not_analytic_are_refused_from_their_program(f):
    with pytest.raises(TypeError, match="scheme='complex' needs an analytic"):
        adaptive.derivative(f, scheme="complex")(0.7)


def test_a_comparison_is_refused_at_its_jump_and_harmless_elsewhere():
    g = adaptive.derivative(lambda x: np.where(x > 0, x, -x) * 1.0, scheme="complex")
    estimate = g(np.array([0.0, 0.7, -0.7]))
    assert int(estimate.status[0]) == DerivativeStatus.NOT_DIFFERENTIABLE
    assert np.all(abs(estimate.value[1:] - [1, -1]) <= estimate.error[1:])


def test_pieces_between_jumps_are_not_taken_for_the_function():
    def kepler(x):
        y = x = np.asarray(x)
        for _ in range(40):
            following = x + 0.5 * np.sin(y)
            y = np.where(np.abs(following - y) > 2.0**-20, following, y)
        return y

    def exact(x):
        y = x
        for _ in range(100):
            y = x + 0.5 * np.sin(y)
        return 1 / (1 - 0.5 * np.cos(y))

    x = np.array([0.7, 2.0, 2.4, 4.0, 5.1])
    estimate = adaptive.derivative(kepler)(x)
    assert np.all(abs(estimate.value - exact(x)) <= estimate.error)


@pytest.mark.parametrize("library", [np, jnp])
def test_gradient_and_jacobian_take_the_complex_step(library):
    x = {"a": library.asarray([0.5, 3.0, 4.0]), "b": library.asarray(2.0)}
    a = np.asarray(x["a"])
    gradient = adaptive.grad(
        lambda p: library.sum(library.tanh(p["a"])) * p["b"], scheme="complex"
    )
    estimate = gradient(x)
    for key, truth in (("a", 2 / np.cosh(a) ** 2), ("b", np.sum(np.tanh(a)))):
        error = abs(np.asarray(estimate.value[key]) - truth)
        assert np.all(error <= np.asarray(estimate.error[key]) + 4e-16 * abs(truth))
        assert np.all(error <= 1e-14 * abs(truth))
    jacobian = adaptive.jacobian(lambda v: library.tanh(v) * v[0], scheme="auto")(x["a"])
    truth = np.diag(a[0] / np.cosh(a) ** 2)
    truth[:, 0] += np.tanh(a)
    error = abs(np.asarray(jacobian.value) - truth)
    assert np.all(error <= np.asarray(jacobian.error) + 4e-16 * abs(truth))
    assert np.all(error[:, 1:] <= 1e-14 * abs(truth[:, 1:]))


def test_a_complex_step_that_agrees_with_its_neighbours_by_chance_replaces_nothing_better():
    # Between two roundings of its parts a cancelling formula is smooth, with a wrong slope.
    def cancelling(x):
        return (np.exp(x) - 1 - x) / x**2

    x = np.geomspace(0.03, 3, 40).astype(np.float32)
    t = x.astype(np.float64)
    truth = (t * np.exp(t) - 2 * np.exp(t) + t + 2) / t**3
    digits = {}
    for scheme in ("auto", "real"):
        estimate = adaptive.derivative(cancelling, scheme=scheme)(x)
        digits[scheme] = -np.log10(abs(estimate.value - truth) / truth)
    assert np.median(digits["auto"]) > np.median(digits["real"])
    assert np.percentile(digits["auto"], 10) > np.percentile(digits["real"], 10) - 0.1


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`scheme` must be one of .* Did you mean 'complex'"):
        adaptive.grad(jnp.sum, scheme="complx")
    for order in (0, -1, True, (), (1, 9)):
        with pytest.raises(ValueError, match="`order` must"):
            adaptive.derivative(jnp.sin, order=order)
    with pytest.raises(ValueError, match="`max_nfev` must be at least"):
        adaptive.derivative(jnp.sin, max_nfev=5)
    with pytest.raises(ValueError, match="`side` must be -1, 0 or 1, got 2"):
        adaptive.derivative(jnp.sin, side=2)
    with pytest.raises(ValueError, match="`noise` must be"):
        adaptive.derivative(jnp.sin, noise=-1.0)
    with pytest.raises(TypeError, match="floating"):
        adaptive.derivative(jnp.sin)(jnp.array([1, 2]))
    with pytest.raises(TypeError, match="must return a scalar"):
        adaptive.derivative(lambda x: jnp.array([x, x]))(1.0)


def test_a_numpy_function_inside_jit_says_what_to_do():
    g = adaptive.derivative(lambda x: np.sin(x))
    with pytest.raises(TypeError, match="not made of JAX operations"):
        jax.jit(g)(1.0)


def test_a_nonfinite_value_is_a_status():
    estimate = adaptive.derivative(jnp.log)(jnp.array([-1.0, 1.0]))
    assert int(estimate.status[0]) == DerivativeStatus.NONFINITE
    assert np.isinf(estimate.error[0])
    assert np.isclose(estimate.value[1], 1.0)


@pytest.mark.parametrize("power", [-80, 0, 60])
def test_the_choice_does_not_hang_on_the_units_of_a_float32_function(power):
    # Beside a huge value at the highest rung all others are as small as 2⁻⁸⁰.
    plan = _drive.make_plan((1,), 50, 0)
    ladder = _drive.stack(plan, "central", np.float32)
    h = plan.nodes
    noise = 1e-4 * np.cos(1e4 * np.arange(2 * len(h))).reshape(2, -1)
    parts = (np.array([np.sin(h), np.cos(h) - 1]) + noise)[None].astype(np.float32)
    size, finite = np.ones((1, len(h)), np.float32), np.ones((1, len(h)), bool)
    unit = np.float32(2.0**power)
    nothing = np.zeros(1, np.float32)
    with np.errstate(all="ignore"):  # as its callers do
        choices = [
            _choose.choose(ladder, c * parts, c * size, finite, 2.0**-23, nothing, nothing, np)
            for c in (np.float32(1), unit)
        ]
    assert choices[1].value == unit * choices[0].value
    assert choices[1].error == pytest.approx(unit * choices[0].error, rel=1e-5)
    assert abs(choices[0].value - 1) <= choices[0].error


@pytest.mark.parametrize("library", [np, jnp])
@pytest.mark.parametrize("x", [0.8, 3.0, -1.0, 1.1, 2.2, -2.4])
def test_much_noise_leaves_the_longest_steps(x, library):
    # A bounded function of length 1, rounded to 1e-4: noise/h at h = 1/4 is 4e-4 or less.
    wave = lambda x: library.round((library.sin(x) + library.cos(2 * x)) / 1e-4) * 1e-4  # noqa: E731
    estimate = adaptive.derivative(wave)(x)
    truth = np.cos(x) - 2 * np.sin(2 * x)
    assert abs(float(estimate.value) - truth) <= min(float(estimate.error), 2e-3)
    assert float(estimate.error) <= 2e-2


FLAT_AT_ZERO = {
    "1 - cos": (lambda x: 1 - jnp.cos(x), 1.0),
    "cosh - 1": (lambda x: jnp.cosh(x) - 1, 1.0),
    "exp - 1 - x": (lambda x: jnp.exp(x) - 1 - x, 1.0),
    "1 / (1 + x) - 1": (lambda x: 1 / (1 + x) - 1, 2.0),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", FLAT_AT_ZERO)
def test_steps_at_which_the_function_is_zero_say_nothing(name, dtype):
    f, second = FLAT_AT_ZERO[name]
    zero = jnp.zeros((), dtype)
    curvature = adaptive.hessian(f)(zero)
    alone = adaptive.derivative(f, order=2, scheme="real")(zero)
    for estimate in (curvature, alone):
        assert abs(estimate.value - second) <= estimate.error
        assert estimate.error < 1e-3 or "cos" not in name


SMALL_PARTS = {
    "tanh": (lambda x: x + 0.01 * jnp.tanh(x), lambda x: 1 + 0.01 / np.cosh(x) ** 2, -2.8),
    "waves": (
        lambda x: x + 0.01 * jnp.sin(10 * x),
        lambda x: 1 + 0.1 * np.cos(10 * x),
        -30.0,
    ),
    "ripples": (
        lambda x: x + 1e-3 * jnp.sin(1e3 * x),
        lambda x: 1 + np.cos(1e3 * x),
        -5.0,
    ),
    "chirp": (
        lambda x: x * x * jnp.sin(1 / x),
        lambda x: 2 * x * np.sin(1 / x) - np.cos(1 / x),
        30.0,
    ),
}


@pytest.mark.parametrize("name", SMALL_PARTS)
def test_what_is_lost_beside_a_line_far_away_is_covered_or_called_noise(name):
    # In 35 float32 samples; the ladder stood at steps of 2³⁸, where such parts are rounding.
    f, slope, x = SMALL_PARTS[name]
    estimate = adaptive.grad(f)(jnp.float32(x))
    covered = abs(estimate.value - slope(x)) <= estimate.error
    assert covered or estimate.status == DerivativeStatus.NOISY
    assert estimate.step < 1e5


@pytest.mark.parametrize("quantum", [1e-3, 1e-4, 1e-6])
def test_a_line_rounded_to_decimals_has_a_bar_for_what_rounding_hides(quantum):
    # Steps that are powers of two may fall on one slope again and again, not the line's.
    x = np.round(np.random.default_rng(3).uniform(0.1, 5, 200), 1)
    f = lambda x: np.round(np.asarray(x) / quantum) * quantum  # noqa: E731
    estimate = adaptive.derivative(f, scheme="real")(x)
    assert np.all(abs(estimate.value - 1) <= estimate.error)
    assert np.median(estimate.error) < quantum


@pytest.mark.parametrize("x", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_jump_at_the_point_has_no_derivative(dtype, x):
    f = lambda t: t + np.where(np.asarray(t) >= x, 0.1, 0).astype(dtype)  # noqa: E731
    estimate = adaptive.derivative(f)(dtype(x))
    assert estimate.status == DerivativeStatus.NOT_DIFFERENTIABLE
    assert estimate.error == np.inf
    above = adaptive.derivative(f, side=1)(dtype(x))
    assert abs(above.value - 1) <= above.error < 1e-2


def test_a_jump_of_a_thousandth_of_a_thousandth_is_noise():
    f = lambda t: np.sin(t) + np.where(np.asarray(t) >= 1, 1e-6, 0)  # noqa: E731
    estimate = adaptive.derivative(f, scheme="real")(1.0)
    assert estimate.status != DerivativeStatus.NOT_DIFFERENTIABLE
    assert abs(estimate.value - np.cos(1)) <= estimate.error < 1e-2
