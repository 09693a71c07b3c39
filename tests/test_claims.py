"""What a run claims of its answer, on losses made to mislead it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import slowly

import gradlab as gl
from gradlab import Status

GRADIENT_ONLY = ["lbfgs", "bfgs", "nonlinear_cg"]
DENSE = ["newton", "cubic_newton", "regularized_newton", "saddle_free_newton", "damped_newton"]


def bump(x):
    return 1 - jnp.exp(-jnp.sum((x - 6) ** 2))


def sigmoid(w):
    return (jax.nn.sigmoid(w[0]) - 0.3) ** 2


def tanhs(w):
    return (jnp.tanh(2 * w[0]) - 0.5) ** 2 + (jnp.tanh(w[0]) - 0.4) ** 2


@pytest.mark.parametrize(
    "method", slowly("lbfgs", "newton", "newton_cg", "bfgs", "nonlinear_cg")
)
@pytest.mark.parametrize(
    ("loss", "start", "minimum"), [(tanhs, [8.5], 0.0124), (sigmoid, [14.0], 0.0)]
)
def test_a_plateau_is_no_minimum_in_float32(loss, start, minimum, method):
    result = gl.minimize(loss, jnp.array(start, jnp.float32), method)
    assert not result.success or abs(result.fun - minimum) < 1e-3, result


@pytest.mark.parametrize("method", slowly("newton_cg", *GRADIENT_ONLY))
def test_a_step_that_leaps_onto_a_plateau_is_no_success(method):
    result = gl.minimize(bump, jnp.zeros(2), method)
    assert not result.success or result.fun < 1e-3, result


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_products_that_are_not_finite_vouch_for_nothing(dtype):
    result = gl.minimize(
        lambda x: jnp.log(jnp.sum(x**2)), jnp.array([1, 0.5], dtype), "newton_cg"
    )
    assert not result.success, result


@pytest.mark.parametrize("method", slowly("newton_cg", "lbfgs", "bfgs", "newton"))
def test_a_loss_that_starts_in_its_tail_is_not_unbounded(method):
    result = gl.minimize(lambda x: bump(x) - 1, jnp.zeros(2, jnp.float32), method)
    assert result.status != Status.UNBOUNDED
    assert not result.success or result.fun == -1


@pytest.mark.parametrize("scale", [1.0, 1e-20])
@pytest.mark.parametrize("method", slowly("newton_cg", "lbfgs", "newton"))
def test_a_loss_without_bound_is_unbounded_in_any_units(method, scale):
    result = gl.minimize(lambda x: scale * (x[0] ** 2 - x[1] ** 4), jnp.ones(2), method)
    assert result.status == Status.UNBOUNDED


@pytest.mark.parametrize("method", slowly("newton_cg", "lbfgs", *DENSE))
@pytest.mark.parametrize(
    ("loss", "start"),
    [
        (lambda x: x[0] ** 3, [1.0]),
        (lambda x: (x[0] - 1) ** 3, [3.0]),
        (lambda x: x[0] ** 3 + x[1] ** 2, [1.0, 1.0]),
    ],
    ids=["at zero", "at one", "with a minimum beside it"],
)
def test_an_inflection_is_no_minimum(loss, start, method):
    result = gl.minimize(loss, jnp.array(start), method)
    assert result.status == Status.STATIONARY_NOT_MINIMUM, result


@pytest.mark.parametrize("method", slowly("newton_cg", "lbfgs", *DENSE))
@pytest.mark.parametrize(
    ("loss", "n"),
    [(lambda x: jnp.sum(x**4), 50), (lambda x: jnp.sum((x - 1) ** 4), 2)],
    ids=["at zero", "at one"],
)
def test_a_minimum_without_curvature_is_one(loss, n, method):
    result = gl.minimize(loss, jnp.linspace(2.0, 3.0, n), method)
    assert result.success, result
    assert result.nit < 200  # and not on to the smallest number there is


@pytest.mark.parametrize(
    ("loss", "method"),
    [
        (lambda x: x[0] ** 12 + x[1] ** 2, "lbfgs"),
        (lambda x: (x[0] - 1) ** 4 + x[1] ** 2, "cubic_newton"),
    ],
    ids=["a long step left", "a curvature lost"],
)
def test_what_is_lost_twice_over_beside_the_descent_is_not_missed(loss, method):
    result = gl.minimize(loss, jnp.array([3.0, 1.0]), method)
    assert result.success, result


@pytest.mark.parametrize("method", slowly("newton_cg", *GRADIENT_ONLY))
@pytest.mark.parametrize("n", slowly(100, 400))
def test_a_slight_negative_curvature_among_stiff_ones_is_seen(n, method):
    curvatures = jnp.concatenate([jnp.array([-1.0]), jnp.logspace(0, 3, n - 1)])

    def loss(x):
        return 0.5 * jnp.sum(curvatures * x**2) + x[0] ** 4 / 4

    result = gl.minimize(loss, jnp.ones(n).at[0].set(0.0), method)
    assert not result.success or result.fun == pytest.approx(-0.25), result
    assert gl.certify(loss, jnp.zeros(n)).kind == gl.Kind.SADDLE


@pytest.mark.parametrize("at", slowly(1.0, 0.0))
def test_an_ill_conditioned_quadratic_is_solved_and_said_so(at, random):
    n = 100
    basis = jnp.asarray(np.linalg.qr(random.normal(size=(n, n)))[0])
    curvatures = jnp.logspace(0, 6, n)

    def loss(x):
        return 0.5 * jnp.sum(curvatures * (basis @ (x - at)) ** 2)

    result = gl.minimize(loss, jnp.asarray(random.normal(size=n)))
    assert result.success, result
    assert jnp.max(jnp.abs(result.x - at)) < 1e-9
    assert result.nhvp < 30_000  # and not 80,000, down to the smallest number there is


@pytest.mark.slow
def test_a_promise_far_above_the_noise_is_not_at_the_floor():
    def powell(x):
        return (1e4 * x[0] * x[1] - 1) ** 2 + (jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001) ** 2

    result = gl.minimize(powell, jnp.array([0.0, 1.0]), "nonlinear_cg")
    assert not result.success or jnp.abs(result.x[1] - 9.106) < 1e-2, result


@pytest.mark.parametrize("method", slowly("newton_cg", "lbfgs", *DENSE))
@pytest.mark.parametrize(
    "loss",
    [
        lambda x: jnp.sum((x - 1) ** 2) - jnp.where(x[0] < 1, 1.0, 0.0),
        lambda x: jnp.sum(x**2) + jnp.floor(3 * x[0]),
    ],
    ids=["jump", "floor"],
)
def test_a_point_on_the_upper_edge_of_a_jump_is_no_minimum(loss, method):
    result = gl.minimize(loss, jnp.array([3.0, 2.0]), method)
    assert not result.success or result.fun <= -1 + 1e-9, result


@pytest.mark.parametrize("method", slowly("newton", "newton_cg", "damped_newton"))
def test_ripples_of_the_stated_noise_are_no_minimum(method):
    def rippled(x):
        return jnp.sum((x - 1) ** 2) + 1e-4 * jnp.sin(1e6 * jnp.sum(x))

    result = gl.minimize(rippled, jnp.array([3.0, 2.0]), method, noise=1e-4)
    assert not result.success or result.fun < 1e-2, result


@pytest.mark.parametrize("method", slowly("newton_cg", "lbfgs", "bfgs", "newton"))
def test_a_regression_with_a_redundant_column_is_no_saddle(method, random):
    def loss(p, A, y):
        return jnp.sum((A @ p - y) ** 2)

    for _ in range(12):
        A = random.normal(size=(30, 5))
        A[:, 4] = A[:, 1] + A[:, 2]
        y = A @ random.normal(size=5) + 0.1 * random.normal(size=30)
        data = jnp.asarray(A), jnp.asarray(y)
        assert gl.minimize(loss, jnp.zeros(5), method, args=data).success
