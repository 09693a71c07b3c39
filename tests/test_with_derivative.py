"""A loss with another gradient operator as its derivative rule, in every mode of JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close

from gradlab.derivatives import autodiff, finite
from gradlab.derivatives.with_derivative import with_derivative

forward = functools.partial(finite.grad, scheme="forward", accuracy=1)
backward = functools.partial(finite.grad, scheme="backward", accuracy=1)
complex_step = functools.partial(finite.grad, scheme="complex")

# operator, error of the gradient and of H v as powers of eps, evaluations of f for each, n = 4
OPERATORS = {
    "central": (finite.grad, 2 / 3, 4 / 9, 8, 16),
    "forward": (forward, 1 / 2, 1 / 4, 5, 5),
    "backward": (backward, 1 / 2, 1 / 4, 5, 5),
    "complex": (complex_step, 1.0, 2 / 3, 4, 8),
    "autodiff": (jax.grad, 1.0, 1.0, 0, 0),
}


def rosenbrock(p):
    x = p["a"]
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def point(dtype=jnp.float64):
    return {"a": jnp.array([-1.2, 1.0, 0.7, 1.3], dtype)}


def direction(dtype=jnp.float64):
    return {"a": jnp.array([1.0, -0.5, 2.0, 0.1], dtype)}


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def relative_error(actual, expected):
    a, e = (np.asarray(jax.tree.leaves(t)[0], float) for t in (actual, expected))
    assert a.shape == e.shape
    return np.max(np.abs(a - e)) / np.max(np.abs(e))


PRODUCTS = {
    "jvp of grad": lambda f, x, v: jax.jvp(jax.grad(f), (x,), (v,))[1],
    "linearize": lambda f, x, v: jax.linearize(jax.grad(f), x)[1](v),
    "linearize value_and_grad": lambda f, x, v: jax.linearize(jax.value_and_grad(f), x)[1](v)[
        1
    ],
    "grad of jvp": lambda f, x, v: jax.grad(lambda x: jax.jvp(f, (x,), (v,))[1])(x),
    "reverse over reverse": lambda f, x, v: jax.vjp(jax.grad(f), x)[1](v)[0],
    "transpose": lambda f, x, v: jax.linear_transpose(jax.linearize(jax.grad(f), x)[1], x)(v)[
        0
    ],
    "hessian": lambda f, x, v: {"a": jax.hessian(f)(x)["a"]["a"] @ v["a"]},
    "reverse hessian": lambda f, x, v: {"a": jax.jacrev(jax.jacrev(f))(x)["a"]["a"] @ v["a"]},
    "forward hessian": lambda f, x, v: {"a": jax.jacfwd(jax.jacfwd(f))(x)["a"]["a"] @ v["a"]},
    "vmap over x": lambda f, x, v: jax.tree.map(
        lambda leaf: leaf[1],
        jax.vmap(lambda x: jax.jvp(jax.grad(f), (x,), (v,))[1])(stacked(x, x)),
    ),
    "vmap over v": lambda f, x, v: jax.tree.map(
        lambda leaf: leaf[1], jax.vmap(jax.linearize(jax.grad(f), x)[1])(stacked(x, v))
    ),
    "vmap of hessian": lambda f, x, v: {
        "a": jax.vmap(jax.hessian(f))(stacked(x, x))["a"]["a"][1] @ v["a"]
    },
    "checkpoint": lambda f, x, v: jax.jvp(jax.grad(jax.checkpoint(f)), (x,), (v,))[1],
    "scan": lambda f, x, v: jax.tree.map(
        lambda leaf: leaf[0],
        jax.lax.scan(lambda c, _: (c, PRODUCTS["jvp of grad"](f, c, v)), x, None, length=1)[1],
    ),
    "our hvp": lambda f, x, v: autodiff.hvp(f, x, v),
    "our value_grad_hvp": lambda f, x, v: autodiff.value_grad_hvp(f, x)[2](v),
    "our hessian": lambda f, x, v: {"a": autodiff.hessian(f)(x)["a"]["a"] @ v["a"]},
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_gradient_is_that_of_the_operator(name, dtype):
    operator, *_ = OPERATORS[name]
    x = point(dtype)
    f = with_derivative(rosenbrock, grad=operator)
    value, g = jax.jit(jax.value_and_grad(f))(x)
    assert value == jax.jit(rosenbrock)(x)
    assert f(x) == rosenbrock(x)
    assert g["a"].dtype == dtype
    assert_close(g, operator(rosenbrock)(x))
    assert_close(jax.vmap(jax.grad(f))(stacked(x, x))["a"][1], g["a"])


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_errors_are_the_stated_powers_of_eps(name, dtype):
    # Medians over points: measured 0.5 to 2.4 times the power. A tenth of the step, or ten
    # times it, multiplies the error by 4 to 80.
    operator, first, second, *_ = OPERATORS[name]
    f, eps = with_derivative(rosenbrock, grad=operator), float(jnp.finfo(dtype).eps)
    x = {"a": jax.random.normal(jax.random.key(0), (15, 5), dtype)}
    v = {"a": jax.random.normal(jax.random.key(1), (15, 5), dtype)}

    def products(f, x, v):
        return jax.vmap(lambda x, v: jax.jvp(jax.grad(f), (x,), (v,)))(x, v)

    exact = jax.tree.map(lambda a: a.astype(jnp.float64), (x, v))
    for actual, expected, power in zip(
        products(f, x, v), products(rosenbrock, *exact), (first, second), strict=True
    ):
        assert actual["a"].dtype == dtype
        error = jnp.max(jnp.abs(actual["a"] - expected["a"]), axis=1)
        error /= jnp.max(jnp.abs(expected["a"]), axis=1)
        assert jnp.median(error) <= 5 * eps**power


@pytest.mark.parametrize("mode", PRODUCTS)
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_second_derivatives_work_in_every_mode(mode, jitted):
    x, v = point(), direction()
    f = with_derivative(rosenbrock, grad=finite.grad)
    product = functools.partial(PRODUCTS[mode], f)
    product = jax.jit(product) if jitted else product
    expected = jax.jvp(jax.grad(rosenbrock), (x,), (v,))[1]
    assert relative_error(product(x, v), expected) <= 20 * 2.2e-16 ** (4 / 9)


@pytest.mark.parametrize("name", ["forward", "complex"])
@pytest.mark.parametrize("mode", ["linearize", "reverse over reverse", "vmap of hessian"])
def test_second_derivatives_of_other_schemes_work_too(name, mode):
    operator, _, power, *_ = OPERATORS[name]
    x, v = point(), direction()
    f = with_derivative(rosenbrock, grad=operator)
    expected = jax.jvp(jax.grad(rosenbrock), (x,), (v,))[1]
    assert relative_error(PRODUCTS[mode](f, x, v), expected) <= 20 * 2.2e-16**power


def test_loss_is_never_differentiated_by_jax():
    def poisoned(p):  # right values, wrong derivative
        return rosenbrock(jax.tree.map(jax.lax.stop_gradient, p)) + 0 * p["a"][0]

    x, v = point(), direction()
    assert jnp.all(jax.grad(poisoned)(x)["a"] == 0)
    f = with_derivative(poisoned, grad=finite.grad)
    assert relative_error(jax.grad(f)(x), jax.grad(rosenbrock)(x)) <= 1e-9
    for mode in ("linearize", "grad of jvp", "reverse over reverse", "hessian"):
        expected = jax.jvp(jax.grad(rosenbrock), (x,), (v,))[1]
        assert relative_error(PRODUCTS[mode](f, x, v), expected) <= 1e-5


def test_loss_without_any_derivative_gets_one():
    def f(x):
        return jax.pure_callback(
            lambda x: np.asarray(np.sum(x**3)),
            jax.ShapeDtypeStruct((), x.dtype),
            x,
            vmap_method="sequential",
        )

    x = jnp.array([1.0, 2.0])
    loss = with_derivative(f, grad=finite.grad)
    assert_close(jax.grad(loss)(x), 3 * x**2, factor=1e7)
    assert_close(jax.hessian(loss)(x), jnp.diag(6 * x), factor=1e10)


def test_numpy_loss_is_differentiated_outside_jit():
    loss = with_derivative(lambda x: np.dot(x, np.square(x)), grad=finite.grad)
    x = jnp.array([1.0, 2.0])
    assert_close(jax.grad(loss)(x), 3 * x**2, factor=1e7)


def test_products_scale_exactly_with_the_direction():
    x, v = point(), direction()
    product = jax.linearize(jax.grad(with_derivative(rosenbrock, grad=finite.grad)), x)[1]
    plain = product(v)["a"]
    for factor in (2.0**-40, 2.0**40, -1.0):
        scaled = product({"a": factor * v["a"]})["a"]
        assert jnp.all(scaled == factor * plain)
    for factor in (1e-200, 1e200):
        scaled = product({"a": factor * v["a"]})["a"]
        assert_close(scaled / factor, plain, factor=1e9)
    zero = product(jax.tree.map(jnp.zeros_like, v))["a"]
    assert jnp.all(zero == 0)


def test_products_keep_their_digits_where_scales_differ_widely():
    # Misra1a of NIST: amplitude 239 beside a rate of 5e-4.
    t = jnp.linspace(77.0, 760.0, 14)
    data = 238.0 * (1 - jnp.exp(-5.6e-4 * t))

    def loss(b):
        return jnp.sum((b[0] * (1 - jnp.exp(-b[1] * t)) - data) ** 2)

    b = jnp.array([230.0, 5.3e-4])
    expected = jax.hessian(loss)(b)
    H = jax.hessian(with_derivative(loss, grad=finite.grad))(b)
    scale = jnp.sqrt(jnp.diag(expected))
    scaled = (H - expected) / scale[:, None] / scale[None]
    assert jnp.max(jnp.abs(scaled)) <= 1e-3  # half of the seven digits of one scale


def test_scaled_loss_has_the_scaled_hessian():
    x = point()
    H = jax.hessian(with_derivative(rosenbrock, grad=finite.grad))(x)["a"]["a"]
    for factor in (2.0**-30, 2.0**30):
        f = with_derivative(lambda p, c=factor: c * rosenbrock(p), grad=finite.grad)
        assert jnp.all(jax.hessian(f)(x)["a"]["a"] == factor * H)


@pytest.mark.parametrize("name", OPERATORS)
def test_counts_are_those_of_actual_calls(name):
    operator, _, _, of_gradient, of_product = OPERATORS[name]
    calls = []

    def counted(p):
        jax.debug.callback(lambda _: calls.append(1), p["a"])
        return rosenbrock(p)

    def spent(function, *args):
        jax.effects_barrier()
        calls.clear()
        out = function(*args)
        jax.block_until_ready(jax.tree.leaves(out))
        jax.effects_barrier()
        return len(calls), out

    x, v = point(), direction()
    f = with_derivative(counted, grad=operator)
    assert f.gradient_evaluations(x) == of_gradient
    assert f.hvp_evaluations(x) == of_product
    if name == "autodiff":
        return
    assert spent(jax.value_and_grad(f), x)[0] == 1 + of_gradient
    cost, (_, product) = spent(lambda x: jax.linearize(jax.grad(f), x), x)
    assert cost == 1 + of_gradient
    both = lambda x: jax.linearize(jax.value_and_grad(f), x)[0]  # noqa: E731
    assert spent(both, x)[0] == spent(jax.jit(both), x)[0] == 1 + of_gradient
    assert spent(product, v)[0] == of_product  # the gradient at x is not taken again
    assert spent(product, x)[0] == of_product


def test_other_arguments_are_differentiated_by_jax():
    def loss(p, w, k):
        return w**2 * k * rosenbrock(p)

    x, v = point(), direction()
    f = with_derivative(loss, grad=finite.grad)
    args = (x, 2.0, 3)
    assert_close(jax.grad(f, argnums=1)(*args), jax.grad(loss, argnums=1)(*args))
    g, expected = (jax.grad(h, argnums=(0, 1))(*args) for h in (f, loss))
    assert_close(g, expected, factor=1e7, scale=6000.0)
    slope = lambda h: jax.grad(lambda w: jnp.vdot(jax.grad(h)(x, w, 3)["a"], v["a"]))(2.0)  # noqa: E731
    assert_close(slope(f), slope(loss), factor=1e8)
    batched = jax.vmap(jax.grad(f), in_axes=(None, 0, None))(x, jnp.array([1.0, 2.0]), 3)
    assert_close(batched["a"][1], g[0]["a"], factor=1e7)


def test_trees_of_mixed_dtypes_keep_them():
    def loss(p):
        return jnp.sum(p["w"] ** 3) * p["b"][0] + jnp.sum(p["h"].astype(jnp.float32) ** 2)

    p = {
        "w": jnp.array([1.0, 2.0]),
        "b": (jnp.float32(2.0), None),
        "h": jnp.ones(2, jnp.bfloat16),
    }
    f = with_derivative(loss, grad=finite.grad)
    g, push = jax.linearize(jax.grad(f), p)
    for tree in (g, push(p)):
        assert jax.tree.map(lambda a: a.dtype, tree) == jax.tree.map(lambda a: a.dtype, p)
    assert_close(g["w"], jnp.array([6.0, 24.0]), factor=1e13)


def test_unknown_operator_is_differenced_as_an_exact_gradient():
    operator = lambda f: lambda p: {"a": jax.grad(rosenbrock)(p)["a"]}  # noqa: E731
    x, v = point(), direction()
    f = with_derivative(rosenbrock, grad=operator)
    assert f.gradient_evaluations(x) == f.hvp_evaluations(x) == 0
    assert_close(jax.grad(f)(x), jax.grad(rosenbrock)(x))
    expected = jax.jvp(jax.grad(rosenbrock), (x,), (v,))[1]
    assert relative_error(jax.jvp(jax.grad(f), (x,), (v,))[1], expected) <= 1e-9


def test_one_trace_serves_two_calls():
    traces = []

    def loss(p):
        traces.append(1)
        return rosenbrock(p)

    step = jax.jit(jax.value_and_grad(with_derivative(loss, grad=finite.grad)))
    step(point())
    before = len(traces)
    step(direction())
    assert len(traces) == before


def test_third_derivative_is_refused():
    f = with_derivative(rosenbrock, grad=finite.grad)
    for third in (jax.jacfwd(jax.hessian(f)), jax.jacrev(jax.hessian(f))):
        with pytest.raises(TypeError, match="first and second derivatives"):
            third(point())
    args = with_derivative(lambda p, w: w * rosenbrock(p), grad=finite.grad)
    product = lambda w: jax.jvp(jax.grad(lambda p: args(p, w)), (point(),), (direction(),))[1]  # noqa: E731
    with pytest.raises(TypeError, match="first and second derivatives"):
        jax.jacfwd(product)(2.0)


def test_operator_must_be_callable():
    with pytest.raises(TypeError, match="grad"):
        with_derivative(rosenbrock, grad="central")
