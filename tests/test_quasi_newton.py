"""BFGS and L-BFGS: their formulas, SciPy's minima, counts, units, walls, hosts, dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from support import assert_close, follow

import gradlab as gl
from gradlab.optimizers import bfgs, lbfgs
from gradlab.optimizers._pairs import apply_inverse, no_pairs, store
from gradlab.result import Status

METHOD = pytest.mark.parametrize("factory", [bfgs, lbfgs], ids=["bfgs", "lbfgs"])
START = jnp.array([-1.2, 1.0])


def rosenbrock(x, scale=1.0):
    return scale * jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


# --- formulas -----------------------------------------------------------------------------


def dense_inverse(pairs, gamma):
    """The BFGS inverse Hessian of pairs (s, y), from gamma times the identity."""
    n = len(pairs[0][0])
    inverse = gamma * np.eye(n)
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = np.eye(n) - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    return inverse


@pytest.mark.parametrize("stored", [1, 3, 5, 8, 13])
def test_the_product_is_that_with_the_bfgs_matrix_of_the_last_pairs(stored):
    rng = np.random.default_rng(stored)
    n, kept = 7, 5
    root = rng.normal(size=(n, n))
    hessian = root @ root.T + np.eye(n)
    memory = no_pairs(jnp.zeros(n), kept)
    pairs = []
    for _ in range(stored):
        s = rng.normal(size=n)
        y = hessian @ s
        pairs.append((s, y))
        one, useful = jnp.asarray(1.0), jnp.asarray(True)
        memory = store(memory, jnp.asarray(s), jnp.asarray(y), one, useful)
    grad = rng.normal(size=n)
    s, y = pairs[-1]
    expected = dense_inverse(pairs[-kept:], (s @ y) / (y @ y)) @ grad
    assert_close(apply_inverse(memory)(jnp.asarray(grad)), expected, factor=1e4)


def test_after_a_restart_the_memory_knows_nothing_of_what_was_before():
    rng = np.random.default_rng(0)
    n, kept = 7, 5
    root = rng.normal(size=(n, n))
    hessian = root @ root.T + np.eye(n)
    drawn = [(s, hessian @ s) for s in rng.normal(size=(6, n))]
    one, useful = jnp.asarray(1.0), jnp.asarray(True)

    def stored(memory, pairs):
        for s, y in pairs:
            memory = store(memory, jnp.asarray(s), jnp.asarray(y), one, useful)
        return memory

    before = stored(no_pairs(jnp.zeros(n), kept), drawn[:4])
    restarted = before._replace(stored=jnp.zeros_like(before.stored))
    grad = rng.normal(size=n)
    assert_close(apply_inverse(restarted)(jnp.asarray(grad)), grad)
    s, y = drawn[-1]
    expected = dense_inverse(drawn[4:], (s @ y) / (y @ y)) @ grad
    found = apply_inverse(stored(restarted, drawn[4:]))(jnp.asarray(grad))
    assert_close(found, expected, factor=1e4)


def test_bfgs_builds_the_matrix_of_its_formula():
    points, states = follow(bfgs(), rosenbrock, START, 6)
    grads = [np.asarray(jax.grad(rosenbrock)(x)) for x in points]
    points = [np.asarray(x) for x in points]
    pairs = list(zip(np.diff(points, axis=0), np.diff(grads, axis=0), strict=True))
    s, y = pairs[0]
    expected = dense_inverse(pairs, (s @ y) / (y @ y))
    memory = states[-1].memory
    assert_close(np.asarray(memory.matrix / memory.unit), expected, factor=1e5)


def test_lbfgs_that_remembers_all_steps_of_a_quadratic_is_bfgs():
    # Nazareth (1979): on a quadratic, with exact searches, both take the steps of conjugate
    # gradients; any search with the same lengths makes the same points as long as nothing
    # is forgotten and both begin with the same multiple of the identity.
    diagonal = jnp.asarray(np.linspace(1.0, 4.0, 6))

    def loss(x):
        return 0.5 * jnp.sum(diagonal * x**2) - jnp.sum(x)

    two, _ = follow(bfgs(), loss, jnp.zeros(6), 2)
    limited, _ = follow(lbfgs(memory=20), loss, jnp.zeros(6), 2)
    assert_close(jnp.stack(limited), jnp.stack(two), factor=1e3)


@METHOD
def test_a_quadratic_ends_in_few_more_steps_than_it_has_variables(factory):
    n = 8
    diagonal = jnp.asarray(np.logspace(0, 2, n))

    def loss(x):
        return 0.5 * jnp.sum(diagonal * x**2) - jnp.sum(x)

    result = gl.minimize(loss, jnp.zeros(n), factory(), gtol=1e-9)
    assert result.success
    assert result.nit <= 6 * n
    assert_close(result.x, 1 / diagonal, factor=1e8)


def test_without_a_memory_there_is_no_method():
    with pytest.raises(ValueError, match="`memory` must be a whole number ≥ 1, got 0"):
        lbfgs(memory=0)


# --- minima -------------------------------------------------------------------------------


@METHOD
@pytest.mark.parametrize("name", ["rosenbrock", "beale", "himmelblau", "booth"])
def test_it_ends_where_scipys_ends(factory, name):
    problem = gl.problems.get(name)
    start = problem.init()
    loss = jax.jit(lambda x: problem.loss(x, *problem.args))
    theirs = scipy.optimize.minimize(
        loss,
        np.asarray(start),
        jac=jax.jit(jax.grad(loss)),
        method="BFGS" if factory is bfgs else "L-BFGS-B",
        options={"gtol": 1e-10},
    )
    ours = gl.minimize(problem.loss, start, factory(), args=problem.args, gtol=1e-10)
    assert ours.success, ours.message
    assert abs(ours.fun - theirs.fun) <= 1e-10 * (1 + abs(theirs.fun))
    assert ours.nfev <= 2 * theirs.nfev + 10


def test_the_rate_of_bfgs_is_faster_than_linear():
    def loss(x):
        return jnp.sum(jnp.exp(x) - 2 * x) + 0.5 * jnp.sum(x[1:] * x[:-1])

    result = gl.minimize(loss, jnp.zeros(5), bfgs(), gtol=1e-12)
    norms = np.asarray(result.trace.grad_norm)
    rates = norms[1:] / norms[:-1]
    assert result.success
    assert rates[-3:].min() < 0.1


@METHOD
def test_it_falls_off_a_saddle_that_it_is_not_exactly_at(factory):
    def loss(x):
        return 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + 0.5 * x[1] ** 2

    result = gl.minimize(loss, jnp.array([1e-6, 1.0]), factory())
    assert result.success
    assert_close(jnp.abs(result.x), np.array([1.0, 0.0]), factor=1e9)
    exactly = gl.minimize(loss, jnp.zeros(2), factory())
    assert not exactly.success


@METHOD
def test_the_wall_of_a_logarithm_is_not_crossed(factory):
    def barrier(x):
        return jnp.sum(x) - 0.1 * jnp.sum(jnp.log(x)) - 0.05 * jnp.sum(jnp.log(1 - x))

    result = gl.minimize(barrier, jnp.array([0.999, 0.5]), factory(), gtol=1e-8)
    assert result.success, result.message
    root = np.roots([-1.0, 1.15, -0.1]).min()
    assert_close(result.x, np.full(2, root), factor=1e11)
    assert np.all(np.isfinite(result.trace.loss))


@METHOD
def test_every_step_lowers_the_loss(factory):
    result = gl.minimize(rosenbrock, jnp.tile(START, 3), factory(), max_steps=40)
    assert np.all(np.diff(result.trace.loss) < 0)


# --- counts, units, lanes -------------------------------------------------------------------


@METHOD
def test_counts_are_the_calls_that_were_made(factory):
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return rosenbrock(x)

    _, states = follow(factory(), counted, START, 7)
    jax.effects_barrier()
    made = np.asarray(states[-1].calls)
    assert made[0] == made[1] == len(calls) - 7  # the host evaluates once a step itself
    assert made[2] == made[3] == 0
    result = gl.minimize(rosenbrock, START, factory())
    assert result.nfev == result.ngev == 1 + result.state.calls[0]
    assert result.nit == result.state.count


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@METHOD
def test_a_loss_times_any_constant_takes_the_same_steps(factory, dtype):
    x0 = jnp.array([-1.2, 1.0, 0.3], dtype)
    runs = [
        gl.minimize(rosenbrock, x0, factory(), args=(dtype(s),), max_steps=10, trace="params")
        for s in (1, 2.0**-30, 2.0**30, 2.0**66)
    ]
    for run in runs[1:]:
        assert (run.nit, run.nfev) == (runs[0].nit, runs[0].nfev)
        # powers of two: nothing but the exponents differs
        assert_close(run.trace.params, runs[0].trace.params, factor=1e3)


@METHOD
def test_coordinates_times_a_constant_take_the_same_steps(factory):
    x0 = jnp.array([-1.2, 1.0, 0.3])
    runs = [
        gl.minimize(lambda x, s: rosenbrock(x / s), s * x0, factory(), args=(s,), max_steps=10,
                    trace="params")
        for s in (1.0, 2.0**-13, 2.0**13)
    ]  # fmt: skip
    for run, s in zip(runs[1:], (2.0**-13, 2.0**13), strict=True):
        assert (run.nit, run.nfev) == (runs[0].nit, runs[0].nfev)
        assert_close(run.trace.params / s, runs[0].trace.params, factor=1e3)


@METHOD
@pytest.mark.slow
def test_batched_runs_are_the_single_ones(factory):
    def run(x):
        result = gl.minimize(rosenbrock, x, factory(), max_steps=8)
        return result.x, result.nfev

    starts = jnp.stack([START, jnp.array([0.5, 2.0]), jnp.array([2.0, -1.0])])
    together, calls = jax.jit(jax.vmap(run))(starts)
    for k, start in enumerate(starts):
        alone, count = jax.jit(run)(start)
        assert calls[k] == count
        assert_close(together[k], alone, factor=1e7)


@METHOD
def test_float32_ends_at_what_float32_can_hold(factory):
    problem = gl.problems.get("logistic", dtype=jnp.float32)
    result = gl.minimize(problem.loss, problem.init(), factory(), args=problem.args, gtol=1e-30,
                         max_steps=3000)  # fmt: skip
    assert result.status in (Status.NOISE_FLOOR, Status.CONVERGED_GRADIENT), result.message
    assert abs(result.fun - problem.minimum) <= 1e-4 * problem.minimum


# --- the protocol ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@METHOD
def test_state_leaves_keep_shape_and_dtype(factory, dtype):
    def loss(p):
        return jnp.sum((p["w"] - 1) ** 2) + p["b"] ** 2 * jnp.sum(p["w"] ** 2)

    params = {"w": jnp.zeros((2, 2), dtype), "b": jnp.ones((), dtype)}
    points, states = follow(factory(), loss, params, 3)

    def kinds(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)

    assert kinds(states[-1]) == kinds(states[0])
    assert kinds(points[-1]) == kinds(params)
    assert states[-1].value.dtype == dtype
    assert loss(points[-1]) < loss(params)


@pytest.mark.slow
def test_a_tree_is_treated_as_its_flat_vector():
    def tree_loss(p):
        return rosenbrock(jnp.concatenate([p["a"].ravel(), p["b"][None]]))

    params = {"a": jnp.array([[-1.2, 1.0], [0.3, 0.7]]), "b": jnp.asarray(0.1)}
    flat = jnp.array([-1.2, 1.0, 0.3, 0.7, 0.1])
    for factory in (bfgs, lbfgs):
        tree, _ = follow(factory(), tree_loss, params, 8)
        vector, _ = follow(factory(), rosenbrock, flat, 8)
        joined = jnp.concatenate([tree[-1]["a"].ravel(), tree[-1]["b"][None]])
        assert_close(joined, vector[-1], factor=1e5)


@METHOD
def test_a_zero_update_means_failed_and_the_next_one_is_not_spoilt(factory):
    def wall(x):  # every trial is NaN
        return jnp.where(jnp.all(x == START), jnp.sum(x), jnp.nan)

    points, states = follow(factory(), wall, START, 2)
    assert states[1].failed
    assert states[1].count == 0
    assert_close(points[1], START, factor=0)
    leaves = jax.tree.leaves(states[2].memory)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    _, states = follow(factory(), rosenbrock, jnp.ones(2), 1)  # at the minimum
    assert states[1].failed
    assert states[1].calls[0] == 0


@METHOD
def test_one_state_has_one_count_value_and_grad(factory):
    _, states = follow(optax.chain(factory()), rosenbrock, START, 3)
    assert optax.tree.get(states[-1], "count") == 3
    for name in ("value", "grad"):
        assert optax.tree.get(states[-1], name) is not None


def test_the_loss_stands_three_times_in_the_program_at_most():
    def loss(x):
        return jnp.sum(x**2) + jax.lax.erf(x[0])

    for factory in (bfgs, lbfgs):
        transformation = factory()

        def update(x, state, transformation=transformation):
            value, grad = jax.value_and_grad(loss)(x)
            return transformation.update(grad, state, x, value=value, grad=grad, value_fn=loss)

        x = jnp.ones(3)
        text = jax.jit(update).lower(x, transformation.init(x)).as_text()
        assert text.count("chlo.erf ") == 2  # the host's and the search's


@pytest.mark.slow
def test_a_partial_of_a_batch_binds_by_name():
    def loss(x, batch):
        return jnp.mean((x - batch) ** 2)

    transformation = lbfgs()
    batch, x = jnp.array([3.0, 5.0]), jnp.ones(2)
    state = transformation.init(x)
    for _ in range(3):
        value, grad = jax.value_and_grad(functools.partial(loss, batch=batch))(x)
        updates, state = transformation.update(
            grad, state, x, value=value, grad=grad, value_fn=loss, batch=batch, other=1
        )
        x = optax.apply_updates(x, updates)
    assert_close(x, batch, factor=1e8)
