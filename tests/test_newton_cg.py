"""Matrix-free Newton: its products, its path, its size in the program, SciPy's beside it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from support import assert_close

import gradlab as gl
from gradlab._numbers import Numbers, Precision
from gradlab._stopping import _settled_at_rest
from gradlab.result import Status


def quadratic(x, diagonal):
    return 0.5 * jnp.sum(diagonal * x**2) - jnp.sum(x)


@pytest.mark.parametrize("distinct", [1, 2, 3, 5])
def test_a_step_takes_as_many_products_as_there_are_curvatures(distinct):
    diagonal = jnp.asarray(np.repeat(np.linspace(1.0, 9.0, distinct), 4))
    start = jnp.zeros(diagonal.shape)
    result = gl.minimize(quadratic, start, "newton_cg", args=(diagonal,), gtol=1e-10)
    assert result.success
    assert_close(result.x, 1 / diagonal, factor=1e7)
    # Conjugate gradients end after one product for each distinct curvature; the last look
    # for negative curvature does so too.
    products = np.diff(result.trace.nhvp)
    products[-1] -= distinct
    assert np.all(products <= distinct)
    assert products.sum() + distinct == result.nhvp


def conjugate_gradients(diagonal, share):
    """Count the products from zero, by either rule alone and by both (forcing 1/2)."""
    residual = -np.ones_like(diagonal)
    step, direction, model = np.zeros_like(diagonal), -residual, 0.0
    norm, by_residual, by_decrease = np.linalg.norm(residual), None, None
    for products in range(1, 2 * diagonal.size):
        product = diagonal * direction
        length = (residual @ residual) / (direction @ product)
        step = step + length * direction
        before, model = model, 0.5 * step @ (diagonal * step) - step.sum()
        new = residual + length * product
        direction = -new + (new @ new) / (residual @ residual) * direction
        residual = new
        if by_residual is None and np.linalg.norm(residual) <= 0.5 * norm:
            by_residual = products
        if by_decrease is None and products * (1 - before / model) < share:
            by_decrease = products
    return by_residual, by_decrease


def test_a_step_ends_where_products_add_little_to_its_decrease():
    # One soft variable has nearly all there is to gain, twenty stiff ones the residual.
    diagonal = np.concatenate([[1e-4], np.linspace(1.0, 1000.0, 20)])
    by_residual, by_decrease = conjugate_gradients(diagonal, share=0.25)
    result = gl.minimize(quadratic, jnp.zeros(21), "newton_cg", args=(jnp.asarray(diagonal),))
    assert result.success
    assert result.trace.nhvp[1] == min(by_residual, by_decrease)
    assert by_decrease < by_residual


def test_what_the_last_step_has_met_is_not_looked_for_again():
    rosenbrock = gl.problems.get("rosenbrock")
    start = jnp.array([-1.2, 1.0])
    result = gl.minimize(rosenbrock.loss, start, "newton_cg", args=rosenbrock.args)
    assert result.success
    assert np.diff(result.trace.nhvp)[-1] == 2  # those of the step itself
    assert result.trace.nhvp[-1] == result.nhvp
    # A step of one product, in two variables, has not met the curvature across it: +1.
    result = gl.minimize(lambda x: ((x - 3) ** 2).sum(), jnp.zeros(2), "newton_cg")
    assert result.nit == 1
    assert result.nhvp == 2


def test_the_budget_of_products_holds_and_the_run_still_converges():
    diagonal = jnp.asarray(np.logspace(0, 3, 20))
    result = gl.minimize(
        quadratic, jnp.zeros(20), gl.make("newton_cg", max_products=3), args=(diagonal,),
        max_steps=2000,
    )  # fmt: skip
    assert result.success, result.message
    products = np.diff(result.trace.nhvp)
    assert products[:-1].max() <= 3
    # The last step, the last look for negative curvature, and as that could not see the least
    # curvature one product for what rounding makes of the gradient.
    assert products[-1] <= 3 + 3 + 1
    assert_close(result.x, 1 / diagonal, factor=1e10)


@pytest.mark.parametrize("name", ["rosenbrock", "beale", "himmelblau", "booth"])
def test_it_ends_where_scipys_trust_ncg_ends(name):
    problem = gl.problems.get(name)
    start = problem.init()
    loss = jax.jit(lambda x: problem.loss(x, *problem.args))
    grad, hessp = jax.jit(jax.grad(loss)), jax.jit(
        lambda x, v: jax.jvp(jax.grad(loss), (x,), (v,))[1]
    )  # fmt: skip
    theirs = scipy.optimize.minimize(
        loss,
        np.asarray(start),
        jac=grad,
        hessp=hessp,
        method="trust-ncg",
        options={"gtol": 1e-9},
    )
    ours = gl.minimize(problem.loss, start, "newton_cg", args=problem.args, gtol=1e-11)
    assert ours.success, ours.message
    assert abs(ours.fun - theirs.fun) <= 1e-12 + 1e-10 * abs(theirs.fun)
    assert ours.nit <= 2 * theirs.nit + 5


def test_the_rate_is_faster_than_linear():
    def loss(x):
        return jnp.sum(jnp.exp(x) - 2 * x) + 0.5 * jnp.sum(x[1:] * x[:-1])

    result = gl.minimize(loss, jnp.zeros(30), "newton_cg", gtol=1e-12)
    norms = result.trace.grad_norm[-3:]
    rates = norms[1:] / norms[:-1]
    assert rates[-1] < 0.1 * rates[0] or rates[-1] < 1e-3


def test_it_follows_negative_curvature_to_the_lower_side():
    def loss(x):
        return 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 - 0.01 * x[0] + x[1] ** 2

    result = gl.minimize(loss, jnp.array([0.0, 1.0]), "newton_cg")
    roots = np.roots([1.0, 0.0, -1.0, -0.01]).real
    assert result.success
    assert_close(result.x[0], roots.max(), factor=1e8)


def test_a_thousand_parameters_in_several_leaves_need_no_matrix():
    key = jax.random.key(0)
    features = jax.random.normal(key, (200, 1000))

    def loss(p, features):
        margins = features @ p["w"] + p["b"]
        return jnp.mean(jax.nn.softplus(-margins)) + 1e-2 * (jnp.sum(p["w"] ** 2) + p["b"] ** 2)

    x0 = {"w": jnp.zeros(1000), "b": jnp.zeros(())}
    result = gl.minimize(loss, x0, "newton_cg", args=(features,), gtol=1e-8)
    assert result.success
    assert result.nhev == 0
    assert result.nit < 20


def equations(jaxpr):
    """All equations of a jaxpr, those of its inner ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.parametrize(("method", "most"), [("newton_cg", 2), ("newton", 3), ("gd", 1)])
def test_the_loss_stands_few_times_in_the_loop(method, most):
    # erf is in no method, so each one in the program is a copy of the loss (its derivatives
    # are exponentials)
    def loss(x):
        return jnp.sum(x**2) + jax.lax.erf(x[0])

    def run(x):
        return gl.minimize(loss, x, method, max_steps=5, trace=None).x

    program = jax.make_jaxpr(run)(jnp.ones(3))
    copies = sum(equation.primitive.name == "erf" for equation in equations(program.jaxpr))
    # Outside the loop: at the start, for the gradient at a best point, twice where a start of
    # zero gradient is looked around, and where a method that vouches glances beside it.
    assert copies <= most + 4 + (method != "gd")


@pytest.mark.slow
def test_float32_reaches_what_float32_can_hold():
    problem = gl.problems.get("logistic", dtype=jnp.float32)
    result = gl.minimize(problem.loss, problem.init(), "newton_cg", args=problem.args, gtol=0.0)
    assert result.status in (Status.NOISE_FLOOR, Status.CONVERGED_GRADIENT), result.message
    assert abs(result.fun - problem.minimum) <= 1e-6 * problem.minimum


@pytest.mark.parametrize("resolved", [True, False])
def test_a_long_way_behind_settles_only_what_no_curvature_tells(resolved):
    # Half a percent of the point to go, 1e-5 of the way to it: one step more takes it.
    eps = float(jnp.finfo(jnp.float32).eps)
    numbers = Numbers(*[jnp.zeros((), jnp.float32)] * len(Numbers._fields))
    told = {"grad_norm": 5e-3, "size": 1.0, "largest_size": 5e2}
    numbers = numbers._replace(**{name: jnp.float32(v) for name, v in told.items()})
    curvature = 1.0 if resolved else 1e-6
    own = SimpleNamespace(curvature=jnp.float32(curvature), stiffness=10.0, loudness=5e-3)
    precision = Precision(loss=eps, grad=eps, params=eps)
    settled = _settled_at_rest(precision, numbers, jnp.float32(1e-9), 1, own)
    assert bool(settled) is not resolved


@pytest.mark.slow
def test_at_rest_products_that_are_not_finite_promise_nothing_known():
    def loss(x):
        return jnp.log(jnp.sum(x**2))

    x = jnp.array([2.4e-80, 1.2e-80])
    value, grad = jax.value_and_grad(loss)(x)
    method = gl.newton_cg()
    _, state = method.update(
        grad, method.init(x), x, value=value, grad=grad, value_fn=loss, at_rest=True
    )
    assert not jnp.isfinite(state.curvature)
    assert not state.decrement < jnp.inf
