"""Preconditioned conjugate gradients: how many products are left, and for whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, slowly

import gradlab as gl

NAMES = ("lbfgs", "diagonal")
CURVATURES = np.logspace(0, 8, 30)


def quadratic(x):
    return 0.5 * jnp.sum(CURVATURES * (x - 1) ** 2)


def badly_scaled(x):
    """Convex, of variables whose units differ by up to four orders, each joined to the next."""
    return jnp.sum(CURVATURES * jnp.log(jnp.cosh(x))) + jnp.sum((x[1:] - x[:-1]) ** 2)


def bowl(x):
    """Nearly quadratic: its Hessian hardly changes, and has no two equal eigenvalues."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)))
    y = matrix @ (x - 1)
    return 0.5 * jnp.sum(y**2) + 1e-3 * jnp.sum(y**4)


def test_the_exact_inverse_leaves_one_product():
    method = gl.newton_cg(preconditioner=lambda residual: residual / CURVATURES)
    result = gl.minimize(quadratic, jnp.zeros(30), method)
    assert result.success
    assert result.trace.nhvp[1] - result.trace.nhvp[0] == 1
    assert result.trace.loss[1] <= 1e-20 * result.trace.loss[0]


def test_one_look_at_a_diagonal_hessian_is_all_of_it():
    method = gl.newton_cg(preconditioner="diagonal")
    result = gl.minimize(quadratic, jnp.zeros(30), method)
    assert result.success
    assert result.trace.nhvp[1] - result.trace.nhvp[0] == 2  # the look and the product
    assert result.trace.loss[1] <= 1e-20 * result.trace.loss[0]


def test_the_pairs_of_a_step_serve_the_next():
    start = jnp.zeros(6)
    plain = gl.minimize(bowl, start, "newton_cg", gtol=1e-11)
    learnt = gl.minimize(bowl, start, gl.newton_cg(preconditioner="lbfgs"), gtol=1e-11)
    assert learnt.success
    assert plain.success
    # Without pairs, the last steps need all six products; with six pairs kept, few.
    assert np.diff(plain.trace.nhvp)[-2] >= 5
    assert np.diff(learnt.trace.nhvp)[-2] <= 3
    assert learnt.nit <= plain.nit + 1


def test_badly_scaled_variables_need_the_diagonal():
    start = jnp.linspace(-0.7, 1.3, 30)
    plain = gl.minimize(badly_scaled, start, "newton_cg", max_steps=60)
    scaled = gl.minimize(
        badly_scaled, start, gl.newton_cg(preconditioner="diagonal"), max_steps=60
    )
    assert scaled.success
    assert not plain.success
    assert scaled.nit <= 20


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_where_it_ends_without(name):
    problem = gl.problems.get("logistic")
    method = gl.newton_cg(preconditioner=name)
    result = gl.minimize(problem.loss, problem.init(), method, args=problem.args)
    assert result.success, result.message
    assert abs(result.fun - problem.minimum) <= 1e-13 * problem.minimum


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_a_loss_times_any_constant_takes_the_same_steps(name, factor):
    problem = gl.problems.get("rosenbrock", n=4)
    method = gl.newton_cg(preconditioner=name)
    ours = gl.minimize(problem.loss, problem.init(), method)
    other = gl.minimize(lambda x: factor * problem.loss(x), problem.init(), method)
    assert ours.success
    assert other.success
    assert abs(int(ours.nit) - int(other.nit)) <= 1


@pytest.mark.parametrize("name", slowly("diagonal", "lbfgs"))
def test_batched_runs_are_the_single_ones(name):
    problem = gl.problems.get("rosenbrock", n=2)
    method = gl.newton_cg(preconditioner=name)
    starts = problem.init()[None] + 0.3 * jax.random.normal(jax.random.key(1), (5, 2))

    def run(start):
        return gl.minimize(problem.loss, start, method, trace=None)

    batch = jax.vmap(run)(starts)
    for k, start in enumerate(starts):
        alone = run(start)
        assert_close(batch.x[k], alone.x, factor=1e6)
        assert int(batch.nhvp[k]) == int(alone.nhvp)


@pytest.mark.parametrize("name", NAMES)
# Beside 3, where b ends, the spacing of bfloat16 is 2⁻⁶, and w's gradients move by twice that.
@pytest.mark.parametrize(("dtype", "near"), [(jnp.float32, 1e-4), (jnp.bfloat16, 0.1)])
def test_trees_in_few_digits_keep_their_dtype(name, dtype, near):
    x0 = {"w": jnp.zeros((3, 2), dtype), "b": jnp.zeros((), dtype)}

    def loss(p):
        w, b = p["w"].astype(jnp.float32), p["b"].astype(jnp.float32)
        return jnp.sum(jnp.cosh(w - 0.5)) + (b - jnp.sum(w)) ** 2

    result = gl.minimize(loss, x0, gl.newton_cg(preconditioner=name))
    assert result.success, result.message
    assert {leaf.dtype for leaf in jax.tree.leaves(result.x)} == {np.dtype(dtype)}
    np.testing.assert_allclose(np.asarray(result.x["w"], float), 0.5, rtol=near)


def test_a_saddle_at_rest_is_left():
    for name in NAMES:
        result = gl.minimize(
            lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2,
            jnp.array([0.0, 1.0]),
            gl.newton_cg(preconditioner=name),
        )
        assert result.success
        assert abs(abs(result.x[0]) - 1) <= 1e-6


def test_a_function_that_is_not_positive_definite_does_no_harm():
    problem = gl.problems.get("rosenbrock", n=2)
    method = gl.newton_cg(preconditioner=lambda residual: -residual)
    ours = gl.minimize(problem.loss, problem.init(), method)
    plain = gl.minimize(problem.loss, problem.init(), "newton_cg")
    assert ours.success
    assert int(ours.nit) == int(plain.nit)


def test_unknown_preconditioners_are_told():
    with pytest.raises(ValueError, match=r"`preconditioner` must be one of .*'lbfgs'"):
        gl.newton_cg(preconditioner="lbfg")
    with pytest.raises(TypeError, match="preconditioner"):
        gl.newton_cg(preconditioner=3.0)
