"""Newton directions: against dense solves, in chains with optax's searches, at saddles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_close

from gradlab.optimizers.directions import scale_by_ggn, scale_by_newton, scale_by_newton_cg

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(6, 6))
DEFINITE = jnp.asarray(ROOT @ ROOT.T + np.eye(6))
INDEFINITE = jnp.asarray(ROOT + ROOT.T)
POINT = jnp.asarray(RNG.normal(size=6))


def form(x, matrix):
    return 0.5 * jnp.sum(x * (matrix @ x))


def scaled(direction, fun, params, vector=None, **extra):
    """One compiled update of a direction, by the gradient or another vector."""

    @jax.jit
    def update(params):
        updates = jax.grad(fun)(params) if vector is None else vector
        state = direction.init(params)
        return direction.update(updates, state, params, value_fn=fun, **extra)

    return update(params)


def test_newton_solves_with_the_hessian():
    updates, state = scaled(scale_by_newton(), lambda x: form(x, DEFINITE), POINT)
    assert_close(updates, POINT, factor=1e4)  # H⁻¹ H x
    assert_close(state.calls, np.array([0, 0, 0, 1]))


def test_of_an_indefinite_hessian_the_absolute_value_counts(random):
    vector = jnp.asarray(random.normal(size=6))
    updates, _ = scaled(scale_by_newton(), lambda x: form(x, INDEFINITE), POINT, vector)
    values, basis = np.linalg.eigh(np.asarray(INDEFINITE))
    expected = basis @ ((basis.T @ np.asarray(vector)) / np.abs(values))
    assert_close(updates, expected, factor=1e5)
    assert updates @ vector > 0


def test_damping_is_a_part_of_the_largest_curvature():
    updates, _ = scaled(scale_by_newton(damping=0.1), lambda x: form(x, DEFINITE), POINT)
    shift = 0.1 * np.linalg.eigvalsh(np.asarray(DEFINITE))[-1]
    expected = np.linalg.solve(DEFINITE + shift * np.eye(6), DEFINITE @ POINT)
    assert_close(updates, expected, factor=1e4)


def test_directions_of_no_curvature_get_the_largest():
    def loss(x):
        return 5 * x[0] ** 2 + x[1]

    updates, _ = scaled(scale_by_newton(), loss, jnp.array([3.0, 7.0]))
    assert_close(updates, np.array([3.0, 0.1]))
    linear, _ = scaled(scale_by_newton(), lambda x: 4 * x[0] + x[1], jnp.ones(2))
    assert_close(linear, np.array([4.0, 1.0]))


def late(direction, fun, params):
    """An update of a solve to full accuracy: a huge one came before."""
    state = direction.init(params)._replace(largest=jnp.asarray(1e40))
    updates = jax.grad(fun)(params)
    return direction.update(updates, state, params, value_fn=fun)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_conjugate_gradients_solve_with_the_damped_hessian(damping):
    direction = scale_by_newton_cg(damping=damping, max_products=50)
    updates, state = late(direction, lambda x: form(x, DEFINITE), POINT)
    g = np.asarray(DEFINITE @ POINT)
    shift = damping * (g @ np.asarray(DEFINITE) @ g) / (g @ g)
    expected = np.linalg.solve(DEFINITE + shift * np.eye(6), g)
    assert_close(updates, expected, factor=1e7)
    assert 6 <= state.calls[2] <= 12


def test_the_residual_is_only_made_as_small_as_asked():
    fun = functools.partial(form, matrix=DEFINITE)
    updates, state = scaled(scale_by_newton_cg(), fun, POINT)
    g = np.asarray(jax.grad(fun)(POINT))
    residual = np.asarray(DEFINITE @ updates) - g
    assert np.linalg.norm(residual) <= 0.5 * np.linalg.norm(g)
    assert state.calls[2] < 6
    limited, state = late(scale_by_newton_cg(max_products=2), fun, POINT)
    assert state.calls[2] == 2
    assert g @ limited > 0


@pytest.mark.parametrize("matrix", [INDEFINITE, -DEFINITE, jnp.zeros((6, 6))])
def test_truncated_directions_descend_where_curvature_is_negative_or_none(matrix):
    def loss(x):
        return form(x, matrix) + jnp.sum(x)

    updates, _ = late(scale_by_newton_cg(), loss, POINT)
    assert jax.grad(loss)(POINT) @ updates > 0
    assert np.all(np.isfinite(updates))


@pytest.mark.parametrize("factory", [scale_by_newton, scale_by_newton_cg])
def test_units_of_the_loss_cancel(factory):
    for scale in (1e-30, 1e30):
        plain, _ = scaled(factory(damping=0.1), lambda x: form(x, DEFINITE), POINT)
        other, _ = scaled(
            factory(damping=0.1), lambda x, scale=scale: scale * form(x, DEFINITE), POINT
        )
        assert_close(other, plain, factor=1e4)


# --- generalised Gauss-Newton ---------------------------------------------------------------


FEATURES = jnp.asarray(RNG.normal(size=(30, 6)))
LABELS = jnp.asarray(RNG.integers(0, 2, size=30) * 2.0 - 1)


def margins(x, features=FEATURES):
    return features @ x


def logistic(m, labels=LABELS):
    return jnp.mean(jax.nn.softplus(-labels * m))


def test_of_a_linear_model_it_is_the_newton_direction():
    def loss(x):
        return logistic(margins(x))

    direction = scale_by_ggn(margins, logistic, max_products=60)
    updates, state = late(direction, loss, POINT)
    expected = np.linalg.solve(jax.hessian(loss)(POINT), jax.grad(loss)(POINT))
    assert_close(updates, expected, factor=1e9)
    assert state.calls[2] >= 6


def test_it_leaves_out_the_curvature_of_the_model():
    def model(x):
        return {"a": jnp.stack([x[0] * x[1], jnp.sin(x[2])]), "b": jnp.sum(x**2)}

    def loss(outputs):
        return jnp.sum((outputs["a"] - 1) ** 2) + jnp.cosh(outputs["b"])

    x = jnp.array([0.3, -0.8, 0.5])
    flat, unravel = jax.flatten_util.ravel_pytree(model(x))
    jacobian = np.asarray(jax.jacobian(lambda x: jax.flatten_util.ravel_pytree(model(x))[0])(x))
    inner = np.asarray(jax.hessian(lambda f: loss(unravel(f)))(flat))
    gauss_newton = jacobian.T @ inner @ jacobian
    fun = functools.partial(lambda x: loss(model(x)))
    updates, _ = late(scale_by_ggn(model, loss, max_products=60), fun, x)
    assert_close(updates, np.linalg.solve(gauss_newton, jax.grad(fun)(x)), factor=1e9)


def test_data_reach_model_and_loss_by_name():
    direction = scale_by_ggn(margins, logistic)

    def loss(x, features, labels):
        return logistic(margins(x, features), labels)

    data = {"features": FEATURES[:10], "labels": LABELS[:10]}
    grad = jax.grad(loss)(POINT, **data)
    state = direction.init(POINT)
    given, _ = direction.update(grad, state, POINT, value_fn=loss, other=3, **data)
    bound = scale_by_ggn(
        functools.partial(margins, features=FEATURES[:10]),
        functools.partial(logistic, labels=LABELS[:10]),
    )
    assert_close(given, bound.update(grad, state, POINT)[0], factor=1e3)


# --- in chains ------------------------------------------------------------------------------


SEARCHES = {
    "zoom": lambda: optax.scale_by_zoom_linesearch(20, initial_guess_strategy="one"),
    "backtracking": lambda: optax.scale_by_backtracking_linesearch(30),
}
DIRECTIONS = {
    "newton": scale_by_newton,
    "newton_cg": scale_by_newton_cg,
    "ggn": lambda: scale_by_ggn(
        lambda x: jnp.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)]), lambda r: jnp.sum(r**2)
    ),
}


def run(chain, fun, params, num_steps):
    """The loop of optax's examples."""

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(fun)(params)
        updates, state = chain.update(grad, state, params, value=value, grad=grad, value_fn=fun)
        return optax.apply_updates(params, updates), state

    state = chain.init(params)
    for _ in range(num_steps):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_before_a_search_of_optax_it_crosses_rosenbrocks_valley(name, search):
    def rosenbrock(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    chain = optax.chain(DIRECTIONS[name](), optax.scale(-1.0), SEARCHES[search]())
    x = run(chain, rosenbrock, jnp.array([-1.2, 1.0]), 80)
    assert rosenbrock(x) < 1e-12


@pytest.mark.parametrize("factory", [scale_by_newton, scale_by_newton_cg])
def test_it_leaves_a_saddle_that_newtons_method_walks_into(factory):
    def loss(x):
        return 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + 0.5 * x[1] ** 2

    chain = optax.chain(factory(), optax.scale(-1.0), optax.scale_by_zoom_linesearch(20))
    x = run(chain, loss, jnp.array([0.1, 1.0]), 20)
    assert_close(jnp.abs(x), np.array([1.0, 0.0]), factor=1e8)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("factory", [scale_by_newton, scale_by_newton_cg])
def test_trees_keep_shape_and_dtype_under_jit_and_vmap(factory, dtype):
    def loss(p):
        return jnp.sum((p["w"] - 1) ** 2) + p["b"] ** 2

    direction = factory()

    def update(params):
        state = direction.init(params)
        return direction.update(jax.grad(loss)(params), state, params, value_fn=loss)

    params = {"w": jnp.zeros((3, 2), dtype), "b": jnp.ones(3, dtype)}
    updates, states = jax.jit(jax.vmap(update))(params)
    single, state = jax.jit(update)(jax.tree.map(lambda x: x[0], params))
    assert jax.tree.map(lambda x: x.dtype, single) == jax.tree.map(lambda x: x.dtype, params)
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(
        lambda x: x.dtype, direction.init(params)
    )
    assert states.calls.shape == (3, 4)
    for leaf, one in zip(jax.tree.leaves(updates), jax.tree.leaves(single), strict=True):
        assert_close(leaf[0].astype(jnp.float32), one.astype(jnp.float32), factor=1e6)


def test_options_out_of_range_are_told():
    with pytest.raises(ValueError, match="`damping` must be a number ≥ 0, got -1"):
        scale_by_newton(damping=-1.0)
    with pytest.raises(ValueError, match="`max_products` must be a whole number ≥ 1, got 0"):
        scale_by_newton_cg(max_products=0)
    with pytest.raises(TypeError, match="`model` must be a function"):
        scale_by_ggn(3, logistic)
