"""Conjugate gradients and Barzilai-Borwein: formulas, minima, counts, units, lanes, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from support import assert_close, follow

import gradlab as gl
from gradlab.optimizers import barzilai_borwein, nonlinear_cg
from gradlab.result import Status

FACTORIES = {"cg": nonlinear_cg, "bb": barzilai_borwein}
METHOD = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
DIAGONAL = jnp.asarray(np.linspace(1.0, 30.0, 8))


def quadratic(x, scale=1.0):
    return scale * (0.5 * jnp.sum(DIAGONAL * x**2) - jnp.sum(x))


def valley(x, scale=1.0):
    return scale * ((1 - x[0]) ** 2 + 5 * (x[1] - x[0] ** 2) ** 2)


START = jnp.array([-1.2, 1.0])


# --- formulas -----------------------------------------------------------------------------


def test_directions_follow_the_formula_of_hager_and_zhang():
    points, _ = follow(nonlinear_cg(), valley, START, 6)
    x = [np.asarray(p) for p in points]
    g = [np.asarray(jax.grad(valley)(p)) for p in points]
    for k in range(1, 6):
        d, y = x[k] - x[k - 1], g[k] - g[k - 1]  # the direction's length cancels
        beta = (y - 2 * d * (y @ y) / (d @ y)) @ g[k] / (d @ y)
        beta = max(beta, 0.4 * (d @ g[k - 1]) / (d @ d))
        expected, taken = -g[k] + beta * d, x[k + 1] - x[k]
        cosine = expected @ taken / np.linalg.norm(expected) / np.linalg.norm(taken)
        assert cosine > 1 - 1e-9


def test_on_a_quadratic_it_ends_after_about_as_many_steps_as_there_are_curvatures():
    diagonal = jnp.asarray(np.repeat([1.0, 3.0, 10.0], 5))

    def loss(x):
        return 0.5 * jnp.sum(diagonal * x**2) - jnp.sum(x)

    result = gl.minimize(loss, jnp.zeros(15), nonlinear_cg(), gtol=1e-8)
    assert result.success
    assert result.nit <= 20
    assert_close(result.x, 1 / diagonal, factor=1e9)


@pytest.mark.parametrize("rule", ["long", "short", "adaptive"])
def test_lengths_are_those_of_barzilai_and_borwein(rule):
    points, states = follow(barzilai_borwein(rule=rule), quadratic, jnp.zeros(8), 10)
    x = [np.asarray(p) for p in points]
    g = [np.asarray(jax.grad(quadratic)(p)) for p in points]
    whole = 0
    for k in range(1, 10):
        s, y = x[k] - x[k - 1], g[k] - g[k - 1]
        long, short = (s @ s) / (s @ y), (s @ y) / (y @ y)
        length = {"long": long, "short": short}.get(rule, short if short < long / 2 else long)
        if states[k + 1].calls[0] - states[k].calls[0] == 1:  # not shortened
            assert_close(x[k + 1] - x[k], -length * g[k], factor=1e7)
            whole += 1
    assert whole >= 7


def test_an_unknown_rule_is_told():
    with pytest.raises(ValueError, match=r"`rule` must be one of .*got 'lang'.*'long'\?"):
        barzilai_borwein(rule="lang")


# --- minima -------------------------------------------------------------------------------


@METHOD
@pytest.mark.parametrize("name", ["beale", "himmelblau", "booth"])
def test_it_ends_where_scipys_ends(factory, name):
    problem = gl.problems.get(name)
    loss = jax.jit(lambda x: problem.loss(x, *problem.args))
    theirs = scipy.optimize.minimize(
        loss,
        np.asarray(problem.init()),
        jac=jax.jit(jax.grad(loss)),
        method="CG",
        options={"gtol": 1e-10},
    )
    ours = gl.minimize(problem.loss, problem.init(), factory(), args=problem.args, gtol=1e-9)
    assert ours.success, ours.message
    assert abs(ours.fun - theirs.fun) <= 1e-9 * (1 + abs(theirs.fun))


@METHOD
def test_the_wall_of_a_logarithm_is_not_crossed(factory):
    def barrier(x):
        return jnp.sum(x) - 0.1 * jnp.sum(jnp.log(x)) - 0.05 * jnp.sum(jnp.log(1 - x))

    result = gl.minimize(barrier, jnp.array([0.999, 0.5]), factory(), gtol=1e-8)
    assert result.success, result.message
    root = np.roots([-1.0, 1.15, -0.1]).min()
    assert_close(result.x, np.full(2, root), factor=1e11)
    assert np.all(np.isfinite(result.trace.loss))


def test_steps_of_barzilai_and_borwein_may_raise_the_loss_but_end_below():
    result = gl.minimize(quadratic, jnp.zeros(8), barzilai_borwein(rule="long"), gtol=1e-9)
    assert result.success
    assert np.any(np.diff(result.trace.loss) > 0)
    assert_close(result.x, 1 / DIAGONAL, factor=1e9)
    descending = gl.minimize(quadratic, jnp.zeros(8), nonlinear_cg(), max_steps=8)
    assert np.all(np.diff(descending.trace.loss) < 0)


@METHOD
def test_negative_curvature_lengthens_the_step(factory):
    def loss(x):
        return jnp.sum(0.25 * x**4 - 0.5 * x**2)

    result = gl.minimize(loss, jnp.array([1e-3, -1e-2]), factory())
    assert result.success
    assert_close(result.x, np.array([1.0, -1.0]), factor=1e9)
    assert result.nfev < 60


# --- counts, units, lanes, dtypes ---------------------------------------------------------


@METHOD
def test_counts_are_the_calls_that_were_made(factory):
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return valley(x)

    _, states = follow(factory(), counted, START, 7)
    jax.effects_barrier()
    made = np.asarray(states[-1].calls)
    assert made[0] == made[1] == len(calls) - 7  # the host evaluates once a step itself
    assert made[2] == made[3] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@METHOD
def test_a_loss_times_any_constant_takes_the_same_steps(factory, dtype):
    x0 = jnp.array([-1.2, 1.0], dtype)
    runs = [
        gl.minimize(valley, x0, factory(), args=(dtype(s),), max_steps=8, trace="params")
        for s in (1, 2.0**-30, 2.0**66)
    ]
    for run in runs[1:]:
        assert (run.nit, run.nfev) == (runs[0].nit, runs[0].nfev)
        # powers of two: nothing but the exponents differs
        assert_close(run.trace.params, runs[0].trace.params, factor=1e3)


@METHOD
def test_batched_runs_are_the_single_ones(factory):
    def run(x):
        result = gl.minimize(valley, x, factory(), max_steps=8)
        return result.x, result.nfev

    starts = jnp.stack([START, jnp.array([0.5, 2.0]), jnp.array([2.0, -1.0])])
    together, calls = jax.jit(jax.vmap(run))(starts)
    for k, start in enumerate(starts):
        alone, count = jax.jit(run)(start)
        assert calls[k] == count
        assert_close(together[k], alone, factor=1e8)


@METHOD
def test_float32_ends_at_what_float32_can_hold(factory):
    def loss(x):
        return jnp.sum(jnp.cosh(x - 1.1)) + 3

    result = gl.minimize(loss, jnp.zeros(3, jnp.float32), factory(), gtol=1e-30)
    assert result.status in (Status.NOISE_FLOOR, Status.CONVERGED_GRADIENT), result.message
    assert_close(result.x, np.full(3, 1.1, np.float32), factor=1e4)


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
    assert loss(points[-1]) < loss(params)
    assert optax.tree.get(states[-1], "count") == states[-1].count


@METHOD
def test_a_zero_update_means_failed_and_the_next_one_is_not_spoilt(factory):
    def wall(x):  # every trial is NaN
        return jnp.where(jnp.all(x == START), jnp.sum(x), jnp.nan)

    points, states = follow(factory(), wall, START, 2)
    assert states[1].failed
    assert_close(points[1], START, factor=0)
    leaves = jax.tree.leaves(states[2].memory)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)


@METHOD
def test_the_loss_stands_once_in_an_update(factory):
    def loss(x):
        return jnp.sum(x**2) + jax.lax.erf(x[0])

    transformation = factory()

    def update(x, state):
        value, grad = jax.value_and_grad(loss)(x)
        return transformation.update(grad, state, x, value=value, grad=grad, value_fn=loss)

    x = jnp.ones(3)
    text = jax.jit(update).lower(x, transformation.init(x)).as_text()
    assert text.count("chlo.erf ") == 2  # the host's and the search's
