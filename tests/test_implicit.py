"""Derivatives of answers with respect to data, and parameters held fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, slowly

import gradlab as gl

RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(30, 4))), jnp.asarray(RNG.normal(size=30))


def ridge(w, weight, y):
    return 0.5 * jnp.sum((X @ w - y) ** 2) + 0.5 * weight * jnp.sum(w**2)


def solution(weight, y):
    return jnp.linalg.solve(X.T @ X + weight * jnp.eye(4), X.T @ y)


@pytest.mark.parametrize("method", slowly("newton_cg", "newton", "lbfgs", quick=("lbfgs",)))
def test_the_answers_derivative_is_that_of_the_closed_form(method):
    def answer(weight, y):
        return gl.minimize(ridge, jnp.zeros(4), method, args=(weight, y)).x

    exact = jax.jacobian(solution, (0, 1))(0.7, Y)
    for jacobian in (jax.jacrev, jax.jacfwd):
        assert_close(jacobian(answer, (0, 1))(0.7, Y), exact, factor=1e7)


@pytest.mark.slow
def test_the_least_losss_derivative_is_the_partial_one():
    def least(weight):
        return gl.minimize(ridge, jnp.zeros(4), "newton", args=(weight, Y)).fun

    exact = 0.5 * jnp.sum(solution(0.7, Y) ** 2)
    assert_close(jax.grad(least)(0.7), exact, factor=1e4)
    batch = jax.jit(jax.vmap(jax.grad(least)))(jnp.array([0.7, 0.7]))
    assert_close(batch, jnp.stack([exact, exact]), factor=1e4)


@pytest.mark.slow
def test_a_hyper_gradient_agrees_with_differences(random):
    held_out = jnp.asarray(random.normal(size=(10, 4)))

    def validation(log_weight):
        w = gl.minimize(ridge, jnp.zeros(4), "newton_cg", args=(jnp.exp(log_weight), Y)).x
        return jnp.sum((held_out @ w - 1) ** 2)

    estimate = gl.adaptive.derivative(jax.jit(validation), scheme="real")(jnp.asarray(0.3))
    assert abs(jax.grad(validation)(0.3) - estimate.value) <= 1e-6 * abs(estimate.value)


def test_beyond_the_dense_limit_conjugate_gradients_solve(monkeypatch):
    monkeypatch.setattr("gradlab._implicit.DENSE", 2)
    jacobian = jax.jacrev(
        lambda weight: gl.minimize(ridge, jnp.zeros(4), "newton", args=(weight, Y)).x
    )(0.7)
    assert_close(jacobian, jax.jacobian(solution)(0.7, Y), factor=1e8)


def test_the_derivative_of_a_run_cut_short_is_not_a_number():
    def answer(weight):
        return gl.minimize(ridge, jnp.zeros(4), "gd", args=(weight, Y), max_steps=1).fun

    assert np.isnan(jax.grad(answer)(0.7))


def test_along_a_flat_valley_the_answer_moves_by_the_shortest_way():
    def answer(t):
        start = jnp.array([5.0, -1.0])
        return gl.minimize(
            lambda x, t: (x[0] + 2 * x[1] - t) ** 2, start, "newton", args=(t,)
        ).x

    assert_close(jax.jacrev(answer)(3.0), jnp.array([0.2, 0.4]), factor=1e4)


# --- a part held fixed

START = {"a": jnp.zeros(2), "b": (jnp.array([1.0, 2.0]), jnp.array(3.0))}


def apart(p):
    return jnp.sum((p["a"] - p["b"][0]) ** 2) + (p["b"][1] - 1) ** 2


@pytest.mark.parametrize("method", ["newton", "adam"])
@pytest.mark.parametrize(
    "mask", [{"a": True, "b": False}, lambda p: {"a": True, "b": (False, False)}]
)
def test_leaves_held_fixed_stay_to_the_bit_and_have_no_gradient(method, mask):
    result = gl.minimize(apart, START, method, trainable=mask, trace="params", max_steps=50)
    assert jax.tree.structure(result.x) == jax.tree.structure(START)
    assert_close(result.x["b"], START["b"], factor=0)
    assert_close(result.grad["b"], jax.tree.map(jnp.zeros_like, START["b"]), factor=0)
    assert result.trace.params["b"][0].shape == (result.trace.loss.shape[0], 2)
    if method == "newton":
        assert result.success
        assert_close(result.x["a"], jnp.array([1.0, 2.0]))


def test_a_callback_sees_the_whole_tree():
    seen = []
    gl.minimize(
        apart, START, "gd", trainable={"a": True, "b": False}, callback=seen.append, max_steps=2
    )
    assert jax.tree.structure(seen[0].x) == jax.tree.structure(seen[0].grad)
    assert_close(seen[0].x["b"], START["b"], factor=0)


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        ({"a": False, "b": False}, ValueError, "at least one"),
        ({"a": True}, ValueError, "shaped like `x0`"),
        ({"a": 1, "b": False}, TypeError, r"trainable\['a'\] is int"),
    ],
)
def test_masks_that_cannot_be_read_are_explained(mask, error, says):
    with pytest.raises(error, match=says):
        gl.minimize(apart, START, "newton", trainable=mask)


@pytest.mark.parametrize("method", ["newton", "lbfgs"])
@pytest.mark.slow
def test_data_the_loss_closes_over_count_as_arguments(method):
    def shrunk(penalty):
        def ridge(x):
            return jnp.sum((x - 1.0) ** 2) + penalty * jnp.sum(x**2)

        return gl.minimize(ridge, jnp.zeros(3), method).x

    # x* = 1 / (1 + penalty)
    assert_close(jax.jacrev(shrunk)(1.0), jnp.full(3, -0.25), factor=1e8)
    assert_close(jax.jacfwd(shrunk)(1.0), jnp.full(3, -0.25), factor=1e8)


@pytest.mark.slow
def test_the_second_derivative_of_an_answer_is_that_of_the_closed_form():
    def run(loss, t):
        return gl.minimize(loss, jnp.zeros(()), "newton", args=(t,))

    def answer(t):  # t⁶
        return run(lambda x, t: (x - t**2) ** 2, t).x ** 3

    def least(t):  # 3t²/4
        return run(lambda x, t: (x - t) ** 2 + t * x, t).fun

    seconds = jax.hessian(answer), jax.grad(jax.grad(answer)), jax.jacfwd(jax.jacfwd(answer))
    for second in seconds:
        assert_close(second(1.5), jnp.asarray(30 * 1.5**4))
    assert_close(jax.hessian(least)(1.5), jnp.asarray(1.5))


@pytest.mark.slow
def test_a_linear_system_not_solved_gives_no_number():
    def loss(x, t):
        return 0.5 * jnp.sum(curvatures * x**2) - x @ t

    curvatures = jnp.logspace(0, 8, 600)
    gradient = jax.grad(
        lambda t: jnp.sum(gl.minimize(loss, jnp.zeros(600), "newton", args=(t,)).x)
    )(jnp.ones(600))
    assert jnp.all(jnp.isnan(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [(-1.0, 0.3), None])
def test_what_a_fit_knows_is_differentiable(bounds):
    times, e = jnp.arange(4.0), jnp.eye(4)[1] * 1e-5
    y = jnp.array([1.0, 2.0, 4.0, 7.0])

    def residual(p, y):
        return p[0] * jnp.exp(p[1] * times) + p[2] - y

    def known(y):
        start = jnp.array([1.0, 0.5, 0.0])
        limits = None if bounds is None else tuple(jnp.array([-9, b, -9]) for b in bounds)
        if limits is not None:
            limits = limits[0], limits[1].at[jnp.array([0, 2])].set(9)
        fit = gl.least_squares(residual, start, args=(y,), bounds=limits)
        told = [fit.residuals[2], fit.fun, fit.x[0]]
        # (A parameter that a bound holds has none, and the derivative of that is NaN.)
        return jnp.stack(told if bounds else [*told, fit.standard_errors[0]])

    exact = jax.jacobian(known)(y)[:, 1]
    assert_close(jax.jit(jax.jacobian(known))(y)[:, 1], exact, factor=1e6)
    compiled = jax.jit(known)
    differences = (compiled(y + e) - compiled(y - e)) / 2e-5
    np.testing.assert_allclose(exact, differences, rtol=1e-6)
