"""gradlab's methods as optax transformations, in the hosts that people run them in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest
from support import assert_close

import gradlab as gl
from gradlab.optimizers._protocol import bind

FACTORIES = {"newton": gl.newton, "newton_cg": gl.newton_cg}
FACTORY = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
START = jnp.array([-1.2, 1.0])


def loss(x):
    return (1 - x[0]) ** 2 + 2 * (x[1] - x[0] ** 2) ** 2


MINIMUM = np.ones(2)


def one_update(transformation, fun, **extra):
    """A compiled function from parameters (and a state) to updates and the next state."""

    @jax.jit
    def update(params, state=None):
        state = transformation.init(params) if state is None else state
        value, grad = jax.value_and_grad(fun)(params)
        return transformation.update(
            grad, state, params, value=value, grad=grad, value_fn=fun, **extra
        )

    return update


def documented_loop(transformation, fun, params, num_steps, **data):
    """The loop of optax's examples for L-BFGS, data passed as extra keywords."""
    value_and_grad = optax.value_and_grad_from_state(fun)

    @jax.jit
    def step(params, state):
        value, grad = value_and_grad(params, state=state, **data)
        updates, state = transformation.update(
            grad, state, params, value=value, grad=grad, value_fn=fun, **data
        )
        return optax.apply_updates(params, updates), state, updates

    state = transformation.init(params)
    for _ in range(num_steps):
        params, state, updates = step(params, state)
    return params, state, updates


@FACTORY
def test_the_documented_lbfgs_loop_runs_with_the_transformation_in_its_place(factory):
    params, state, _ = documented_loop(optax.chain(factory()), loss, START, 12)
    assert_close(params, MINIMUM, factor=1e8)
    # the state speaks of the very point it led to, once
    assert 6 <= optax.tree.get(state, "count") <= 12  # less those that found nothing better
    assert_close(optax.tree.get(state, "value"), loss(params), scale=1e-8)
    assert_close(optax.tree.get(state, "grad"), jax.grad(loss)(params), scale=1.0)


@FACTORY
def test_it_takes_the_very_steps_that_minimize_takes(factory):
    params, _, _ = documented_loop(optax.chain(factory()), loss, START, 4)
    assert_close(params, gl.minimize(loss, START, factory(), max_steps=4, gtol=0.0).x)
    alone, _, _ = documented_loop(factory(), loss, START, 4)
    assert_close(alone, params)


@FACTORY
def test_a_batch_comes_as_an_extra_keyword_that_the_loss_names(factory):
    def fun(x, batch):
        return jnp.mean((x - batch) ** 2)

    batch = jnp.array([3.0, 5.0])
    params, _, _ = documented_loop(factory(), fun, jnp.zeros(2), 1, batch=batch)
    assert_close(params, batch)


@FACTORY
def test_keywords_that_the_loss_does_not_name_are_ignored(factory):
    updates, _ = one_update(factory(), loss, batch=jnp.ones(3), step=7)(START)
    plain, _ = one_update(factory(), loss)(START)
    assert_close(updates, plain, factor=0)


def test_binding_follows_the_signature():
    assert bind(lambda x, y: x + y, {"y": 2, "z": 3})(1) == 3
    assert bind(lambda x, **others: x + len(others), {"y": 2, "z": 3})(1) == 3
    assert bind(functools.partial(lambda x, a, b: x + a + b, a=1), {"b": 5, "c": 0})(1) == 7
    assert bind(lambda x: x, {"y": 2})(1) == 1


@FACTORY
def test_optimistix_runs_it_unchanged(factory):
    solver = optimistix.OptaxMinimiser(factory(), rtol=1e-8, atol=1e-10)
    solution = optimistix.minimise(lambda x, args: loss(x), solver, START, max_steps=64)
    assert_close(solution.value, MINIMUM, factor=1e8)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@FACTORY
def test_state_leaves_keep_shape_and_dtype(factory, dtype):
    def fun(p):
        return jnp.sum((p["w"] - 1) ** 2) + p["b"] ** 2 * jnp.sum(p["w"] ** 2)

    transformation = factory()
    params = {"w": jnp.zeros((2, 2), dtype), "b": jnp.ones((), dtype)}
    state = transformation.init(params)
    updates, after = one_update(transformation, fun)(params, state)

    def kinds(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)

    assert kinds(after) == kinds(state)
    assert kinds(updates) == kinds(params)
    assert fun(optax.apply_updates(params, updates)) < fun(params)


@FACTORY
def test_a_zero_update_means_failed_and_only_then(factory):
    transformation = factory()
    update = one_update(transformation, loss)
    updates, state = update(START)
    assert not state.failed
    assert np.any(updates != 0)
    updates, state = update(jnp.ones(2))  # the minimum: nowhere to go
    assert state.failed
    assert np.all(updates == 0)
    assert state.count == 0
    assert_close(state.value, 0.0, scale=1.0)

    def wall(x):  # every trial is NaN
        return jnp.where(jnp.all(x == START), jnp.sum(x), jnp.nan)

    updates, state = one_update(transformation, wall)(START)
    assert state.failed
    assert np.all(updates == 0)


@FACTORY
def test_one_update_is_one_accepted_step_that_lowers_the_loss(factory):
    # From here the full Newton step overshoots by orders of magnitude.
    def fun(x):
        return jnp.sum(jnp.sqrt(1 + x**2))

    transformation = factory()
    update = one_update(transformation, fun)
    params = jnp.array([10.0, -30.0])
    state = transformation.init(params)
    for _ in range(3):
        updates, state = update(params, state)
        assert fun(optax.apply_updates(params, updates)) < fun(params)
        params = optax.apply_updates(params, updates)
    assert state.count == 3
    assert state.calls[0] >= 3


@FACTORY
def test_updates_run_under_jit_and_vmap(factory):
    transformation = factory()

    def step(x):
        value, grad = jax.value_and_grad(loss)(x)
        updates, state = transformation.update(
            grad, transformation.init(x), x, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(x, updates), state.count

    starts = jnp.stack([START, jnp.array([0.5, 0.2]), jnp.array([2.0, -1.0])])
    together, counts = jax.jit(jax.vmap(step))(starts)
    assert np.all(counts == 1)
    single = jax.jit(step)
    alone = jnp.stack([single(x)[0] for x in starts])
    assert_close(together, alone, factor=1e4)


@FACTORY
def test_hyperparameters_can_be_injected(factory):
    transformation = optax.inject_hyperparams(factory)(noise=1e-9)
    params, state, _ = documented_loop(transformation, loss, START, 8)
    assert_close(optax.tree.get(state, "noise"), 1e-9)
    assert_close(params, MINIMUM, factor=1e10)
    result = gl.minimize(loss, START, transformation)
    assert result.success
    assert_close(result.x, MINIMUM, factor=1e9)


@FACTORY
def test_it_comes_last_in_a_chain_and_judges_by_the_true_gradient(factory):
    chained = optax.chain(optax.clip(1e-3), factory())
    params, _, _ = documented_loop(chained, loss, START, 12)
    assert_close(params, MINIMUM, factor=1e8)


@FACTORY
def test_minimize_knows_it_behind_other_links_and_counts_its_calls(factory):
    alone = gl.minimize(loss, START, factory(), max_steps=5)
    behind = gl.minimize(loss, START, optax.chain(optax.clip(1e-3), factory()), max_steps=5)
    assert_close(behind.x, alone.x)
    for name in ("nfev", "ngev", "nhvp", "nhev"):
        assert getattr(behind, name) == getattr(alone, name)


def test_the_state_of_an_earlier_link_is_not_mistaken_for_the_runs():
    # A line search that is followed by a scaling led to another point than the run is at.
    method = optax.chain(optax.lbfgs(), optax.scale(0.5))
    result = gl.minimize(loss, START, method, max_steps=5, trace="params")
    values = [float(loss(x)) for x in result.trace.params]
    assert_close(np.asarray(result.trace.loss), np.array(values))


@pytest.mark.parametrize(
    ("name", "made"),
    [("newton", [0, 0, 0, 1]), ("newton_cg", [0, 1, 0, 0]), ("lbfgs", [0, 0, 0, 0])],
)
def test_whoever_has_ended_is_searched_for_no_more(name, made):
    def loss(x):
        return jnp.sum(jnp.cosh(x - 1)) + jnp.sum((x[1:] - x[:-1]) ** 2)

    method, x = gl.make(name).build({}), jnp.linspace(-1.0, 2.0, 12)
    value, grad = jax.value_and_grad(loss)(x)

    @jax.jit
    def update(active):
        keywords = {"value": value, "grad": grad, "value_fn": loss}
        return method.update(grad, method.init(x), x, active=active, **keywords)

    updates, state = update(False)
    assert not jnp.any(updates)
    # What a batch evaluates for all its members at once, before any search.
    assert state.calls.tolist() == made
    updates, state = update(True)
    assert jnp.any(updates)
    assert state.calls[0] >= 1
