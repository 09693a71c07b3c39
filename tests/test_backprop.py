import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from support import assert_close

from gradlab.derivatives import backprop
from gradlab.derivatives.backprop import forward, gradients, init, loss
from gradlab.derivatives.taylor import nth_derivative

ACTIVATIONS = ["gelu", "identity", "relu", "sigmoid", "tanh"]
LOSSES = ["cross_entropy", "squared_error"]


def problem(dtype, *, sizes=(3, 5, 4, 3), num_samples=6):
    keys = jax.random.split(jax.random.key(0), 4)
    params = init(keys[0], sizes, dtype=dtype)
    params = [
        {**layer, "bias": 0.1 * jax.random.normal(key, layer["bias"].shape, dtype)}
        for layer, key in zip(params, jax.random.split(keys[1], len(params)), strict=True)
    ]
    x = jax.random.normal(keys[2], (num_samples, sizes[0]), dtype)
    y = jax.nn.softmax(jax.random.normal(keys[3], (num_samples, sizes[-1]), dtype))
    return params, x, y


# --- gradients


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("output_activation", ["identity", "sigmoid"])
@pytest.mark.parametrize(("activation", "kind"), [*itertools.product(ACTIVATIONS, LOSSES)])
def test_gradients_by_hand_equal_jax_grad(activation, output_activation, kind, dtype):
    params, x, y = problem(dtype)
    options = {"activation": activation, "output_activation": output_activation, "loss": kind}
    by_hand = gradients(params, x, y, **options)
    by_jax = jax.grad(loss)(params, x, y, **options)
    assert jax.tree.structure(by_hand) == jax.tree.structure(params)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(by_hand))
    assert_close(by_hand, by_jax, factor=20)


@pytest.mark.parametrize("sizes", [(2, 1), (1, 7, 2), (4, 3, 3, 3, 3, 2)])
def test_gradients_hold_for_any_depth_and_any_targets(sizes):
    params, x, y = problem(jnp.float64, sizes=sizes, num_samples=1)
    for kind in LOSSES:  # rows of y that do not sum to one, too
        by_hand = gradients(params, x, 3 * y + 1, loss=kind)
        assert_close(by_hand, jax.grad(loss)(params, x, 3 * y + 1, loss=kind), factor=50)


def test_gradients_equal_central_differences_of_a_loss_written_in_numpy():
    params, x, y = jax.tree.map(np.asarray, problem(jnp.float64))

    def numpy_loss(params):
        a = x
        for layer in params[:-1]:
            a = 1 / (1 + np.exp(-(a @ layer["weights"] + layer["bias"])))
        p = a @ params[-1]["weights"] + params[-1]["bias"]
        return np.mean(-np.sum(y * (p - np.log(np.exp(p).sum(1, keepdims=True))), axis=1))

    options = {"activation": "sigmoid", "loss": "cross_entropy"}
    assert_close(loss(params, x, y, **options), numpy_loss(params), factor=10)
    by_hand = gradients(params, x, y, **options)
    for k, name in itertools.product(range(len(params)), ("weights", "bias")):
        direction = np.cos(np.arange(params[k][name].size)).reshape(params[k][name].shape)

        def along(t, k=k, name=name, direction=direction):
            moved = [dict(layer) for layer in params]
            moved[k][name] = params[k][name] + t * direction
            return numpy_loss(moved)

        slope = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose(np.sum(by_hand[k][name] * direction), slope, rtol=1e-7)


def test_gradients_work_under_jit_and_vmap():
    params, x, y = problem(jnp.float64)
    expected = gradients(params, x, y)
    assert_close(jax.jit(gradients)(params, x, y), expected)
    rows = jax.vmap(lambda x, y: gradients(params, x[None], y[None]))(x, y)
    assert_close(jax.tree.map(lambda g: g.mean(axis=0), rows), expected)


def test_the_tutorial_mistake_would_be_seen():
    params, x, y = problem(jnp.float64)
    z, a = forward(params, x, activation="sigmoid")
    rate = (a[-1] - y) / len(y) @ params[-1]["weights"].T
    wrong = a[-3].T @ (rate * a[-2])  # the output in place of σ'(z) = a (1 - a)
    right = gradients(params, x, y, activation="sigmoid")[-2]["weights"]
    assert jnp.max(jnp.abs(wrong - right)) > jnp.max(jnp.abs(right))
    assert z[-2].shape == a[-2].shape == (6, 4)


def test_descending_the_gradient_lowers_the_loss():
    params, x, y = problem(jnp.float64)
    step = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients(params, x, y))
    assert loss(step, x, y) < loss(params, x, y)


# --- losses


def test_squared_error_is_half_the_mean_over_samples():
    params = [{"weights": jnp.eye(2), "bias": jnp.zeros(2)}]
    found = loss(params, jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((2, 2)))
    np.testing.assert_array_equal(found, (1 + 4 + 9 + 16) / 4)


def test_cross_entropy_takes_labels_or_probabilities():
    params, x, _ = problem(jnp.float64)
    labels = jnp.array([0, 1, 2, 2, 1, 0])
    rows = jnp.eye(3)[labels]
    for function in (loss, gradients):
        by_labels = function(params, x, labels, loss="cross_entropy")
        assert_close(by_labels, function(params, x, rows, loss="cross_entropy"), factor=1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_cross_entropy_of_huge_predictions_neither_overflows_nor_takes_log_of_zero(dtype):
    params = [{"weights": jnp.eye(2, dtype=dtype), "bias": jnp.zeros(2, dtype)}]
    x = jnp.array([[1e4, -1e4], [1e4, -1e4]], dtype)
    labels = jnp.array([0, 1])
    assert_close(loss(params, x, labels, loss="cross_entropy"), jnp.asarray(1e4, dtype))
    by_hand = gradients(params, x, labels, loss="cross_entropy")
    np.testing.assert_array_equal(by_hand[0]["bias"], [0.5, -0.5])


def test_a_traced_label_out_of_range_makes_the_loss_nan():
    params, x, _ = problem(jnp.float64)
    labels = jnp.array([0, 1, 2, 3, 1, 0])
    compiled = jax.jit(lambda y: loss(params, x, y, loss="cross_entropy"))
    assert jnp.isnan(compiled(labels))
    assert jnp.isfinite(compiled(labels.at[3].set(2)))
    # A label that is known while something else is traced is still looked at.
    with pytest.raises(ValueError, match=r"labels from 0 to 2, .* got 3"):
        jax.jit(lambda p: loss(p, x, labels, loss="cross_entropy"))(params)


# --- init and forward


def test_init_keeps_the_size_of_what_passes_through():
    params = init(jax.random.key(1), (400, 300, 200), dtype=jnp.float32)
    shapes = [(layer["weights"].shape, layer["bias"].shape) for layer in params]
    assert shapes == [((400, 300), (300,)), ((300, 200), (200,))]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    x = jax.random.normal(jax.random.key(2), (50, 400), jnp.float32)
    last = forward(params, x, activation="identity").activations[-1]
    assert abs(float(jnp.std(last)) - 1) < 0.05
    assert not jnp.any(params[0]["bias"])


def test_forward_keeps_every_intermediate_value():
    params, x, _ = problem(jnp.float64)
    z, a = forward(params, x, activation="relu", output_activation="sigmoid")
    assert [v.shape for v in z] == [(6, 5), (6, 4), (6, 3)]
    assert [v.shape for v in a] == [(6, 3), (6, 5), (6, 4), (6, 3)]
    np.testing.assert_array_equal(a[0], x)
    np.testing.assert_array_equal(a[2], np.maximum(z[1], 0))
    assert_close(a[3], 1 / (1 + np.exp(-z[2])), factor=4)


# --- mistakes


def test_mistakes_are_answered_in_the_callers_words():
    params, x, y = problem(jnp.float64)
    with pytest.raises(ValueError, match=r"`activation` must be one of .* Did you mean 'relu'"):
        gradients(params, x, y, activation="rely")
    with pytest.raises(ValueError, match=r"`loss` must be one of .* 'squared_error'"):
        loss(params, x, y, loss="squared")
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, d\).* x\[None, :\]"):
        forward(params, x[0])
    with pytest.raises(
        ValueError, match=r"`params\[0\]\['weights'\]` must have shape \(2, d_out"
    ):
        forward(params, x[:, :2])
    with pytest.raises(ValueError, match=r"`params\[1\]\['bias'\]` must have shape \(4,\)"):
        forward([params[0], {**params[1], "bias": jnp.zeros(5)}], x)
    with pytest.raises(
        TypeError, match=r"`params\[0\]` must be a dict of 'weights' and 'bias'"
    ):
        forward([{"w": jnp.ones((3, 2)), "b": jnp.ones(2)}], x)
    with pytest.raises(TypeError, match=r"`x` must be floating .* got int"):
        forward(params, jnp.ones((2, 3), int))
    with pytest.raises(
        ValueError, match=r"`y` must have the shape of the prediction, \(6, 3\)"
    ):
        loss(params, x, y[:, 0])
    with pytest.raises(ValueError, match=r"or integer labels \(6,\), got float64\[6\]"):
        loss(params, x, y[:, 0], loss="cross_entropy")
    with pytest.raises(ValueError, match="`y` must hold 6 labels, one a row of `x`, got 2"):
        loss(params, x, jnp.array([0, 1]), loss="cross_entropy")
    with pytest.raises(TypeError, match="`y` must be real, got complex128"):
        loss(params, x, y * 1j)
    with pytest.raises(ValueError, match=r"two or more positive widths.* got \(3,\)"):
        init(jax.random.key(0), (3,))
    with pytest.raises(ValueError, match=r"two or more positive widths.* got \(3, 0\)"):
        init(jax.random.key(0), (3, 0))


# --- the elementary rules

IN_MPMATH = {
    "constant": lambda x: mpmath.mpf(3),
    "power": lambda x: x**5,
    "exponential": mpmath.exp,
    "logarithm": mpmath.log,
    "sum": lambda x: 2 * x**2 - 3 * mpmath.sin(x),
    "product": lambda x: x**2 * mpmath.sin(x),
    "quotient": lambda x: mpmath.sin(x) / x**2,
    "chain": lambda x: mpmath.sin(x**2),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("rule", backprop.rules, ids=lambda rule: rule.name)
def test_every_elementary_rule_agrees_with_mpmath_and_with_autodiff(rule, dtype):
    x = jnp.linspace(0.5, 3.0, 6, dtype=dtype)
    with mpmath.workdps(30):
        exact = IN_MPMATH[rule.name]
        values = np.array([float(exact(mpmath.mpf(float(t)))) for t in x], dtype)
        slopes = np.array([float(mpmath.diff(exact, mpmath.mpf(float(t)))) for t in x], dtype)
    assert_close(rule.function(x), values, factor=10)
    assert_close(rule.derivative(x), slopes, factor=10, scale=max(1.0, np.abs(slopes).max()))
    by_grad = jax.vmap(jax.grad(rule.function))(x)
    assert rule.derivative(x).dtype == by_grad.dtype == dtype
    assert_close(by_grad, rule.derivative(x), factor=10, scale=max(1.0, np.abs(slopes).max()))
    assert_close(
        nth_derivative(rule.function, 1)(x),
        by_grad,
        factor=10,
        scale=max(1.0, np.abs(slopes).max()),
    )


def test_the_table_names_the_rules_of_a_textbook():
    names = [rule.name for rule in backprop.rules]
    assert names == list(IN_MPMATH)
    assert all("'" in rule.formula for rule in backprop.rules)
