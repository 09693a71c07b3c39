"""The line search on functions of one variable: Wolfe's conditions, walls, noise, units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.optimizers import _line_search as line

EPS = float(np.finfo(np.float64).eps)


def search(phi, *, start=0.0, size=1.0, noise=None, steepest=False, direction=None, **options):
    """Search from `start` along -phi' of entry `size`; the result and what it evaluated."""
    params = jnp.asarray(start)
    value, grad = jax.value_and_grad(phi)(params)
    point = line.start_point(params, value, grad)
    along = -size * point.grad if direction is None else jnp.asarray(direction)
    begin = line.Begin(
        point.unit * point.grad * along, jnp.asarray(size), jnp.asarray(steepest)
    )
    found = jax.jit(
        lambda d, b: line.search(phi, point, d, b, noise, EPS, **options)
    )(along, begin)  # fmt: skip
    return found, value, grad


def assert_wolfe(phi, found, value, grad, start=0.0):
    """Decrease and slope, or the slopes that stand for the decrease."""
    x = jnp.asarray(start) + found.updates
    new_value, new_grad = jax.value_and_grad(phi)(x)
    before, after = float(grad * found.updates), float(new_grad * found.updates)
    assert before < 0
    assert new_value <= value + line.DELTA * before or (
        new_value <= value + 4 * EPS * abs(value) and after <= (2 * line.DELTA - 1) * before
    )
    assert after >= line.SIGMA * before
    np.testing.assert_allclose(found.value, new_value, rtol=1e-14)
    np.testing.assert_allclose(found.grad, new_grad, rtol=1e-9, atol=1e-14 * abs(grad))


# Moré & Thuente (1994), section 5: (5.1), (5.2), (5.3) and the convex family (5.4).
def thuente(beta1, beta2):
    def weight(b):
        return np.sqrt(1 + b**2) - b

    def phi(a):
        first = weight(beta1) * jnp.sqrt((1 - a) ** 2 + beta2**2)
        return first + weight(beta2) * jnp.sqrt(a**2 + beta1**2)

    return phi


def plateau(a, beta=0.01, count=39):
    smooth = jnp.where(
        a <= 1 - beta,
        1 - a,
        jnp.where(a >= 1 + beta, a - 1, (a - 1) ** 2 / (2 * beta) + beta / 2),
    )
    wave = 2 * (1 - beta) / (count * np.pi) * jnp.sin(count * np.pi / 2 * a)
    return smooth + wave


HARD = {
    "5.1": lambda a: -a / (a**2 + 2),
    "5.2": lambda a: (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4,
    "5.3": plateau,
    "5.4": thuente(0.001, 0.001),
    "5.5": thuente(0.01, 0.001),
    "5.6": thuente(0.001, 0.01),
}


@pytest.mark.parametrize("size", [1e-3, 1e-1, 1e1, 1e3])
@pytest.mark.parametrize("name", HARD)
def test_the_functions_of_more_and_thuente_end_in_a_wolfe_point(name, size):
    found, value, grad = search(HARD[name], size=size)
    assert found.accepted
    assert_wolfe(HARD[name], found, value, grad)
    assert found.tries <= 20


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_a_parabola_takes_few_trials_from_any_first_length(size):
    def phi(a):
        return (a - 1) ** 2

    found, value, grad = search(phi, size=size)
    assert_wolfe(phi, found, value, grad)
    assert found.tries <= 2 + abs(np.log10(size))


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e9, 1e30])
def test_units_of_the_loss_change_nothing(scale):
    def phi(a):
        return HARD["5.2"](a)

    plain, _, _ = search(phi, size=30.0)
    scaled, _, _ = search(lambda a: scale * phi(a), size=30.0)
    assert scaled.tries == plain.tries
    np.testing.assert_allclose(scaled.updates, plain.updates, rtol=1e-9)


@pytest.mark.parametrize("wall", [np.nan, np.inf])
def test_a_wall_of_nan_or_infinity_is_backed_away_from(wall):
    def phi(a):
        inside = jnp.log(0.37 - jnp.minimum(a, 0.36999))
        return jnp.where(a < 0.37, -a - 0.001 * inside, wall)

    found, value, grad = search(phi, size=50.0)
    assert found.accepted
    assert_wolfe(phi, found, value, grad)
    assert 0 < found.updates < 0.37


def test_without_a_better_point_the_search_is_lost_and_says_so():
    found, _, _ = search(lambda a: jnp.where(a == 0, -a, jnp.nan))
    assert not found.accepted
    assert 0 < found.tries <= 3 * line.MAX_TRIALS
    found, _, _ = search(lambda a: (a - 1) ** 2, start=1.0)  # nothing leads down from here
    assert not found.accepted
    assert found.tries == 0


def test_a_direction_that_fails_gives_way_to_the_gradient():
    # The slope is told wrong: the direction leads up, and out of the domain.
    def phi(a):
        return jnp.where(a < 0, jnp.nan, (a - 1) ** 2)

    params = jnp.asarray(0.0)
    value, grad = jax.value_and_grad(phi)(params)
    point = line.start_point(params, value, grad)
    begin = line.Begin(jnp.asarray(-1.0), jnp.asarray(0.1), jnp.asarray(False))
    found = line.search(phi, point, jnp.asarray(-1.0), begin, None, EPS)
    assert found.accepted
    assert found.steepest
    assert found.updates > 0
    assert phi(found.updates) < value


def test_below_the_noise_the_slopes_decide():
    # Values are of no use: the noise is ten thousand times what there is to gain.
    def phi(a):
        return 1e-4 * (a - 1) ** 2 + 1.0 * jnp.sign(jnp.sin(1e6 * a)) * 0.5

    found, _, grad = search(phi, size=7.0, noise=2.0)
    assert found.accepted
    after = float(jax.grad(phi)(found.updates) * found.updates)
    before = float(grad * found.updates)
    assert line.SIGMA * before <= after <= (2 * line.DELTA - 1) * before
    # Believing the values it takes a chance drop for a decrease.
    deceived, _, _ = search(phi, size=7.0, noise=1e-30)
    assert jax.grad(phi)(deceived.updates) * deceived.updates > (2 * line.DELTA - 1) * before


def test_a_loss_without_lower_bound_is_followed_to_a_bound_on_growth():
    found, _, _ = search(lambda a: -a, size=1.0)
    assert found.accepted
    assert found.updates >= 1e20
    sunk, _, _ = search(lambda a: -jnp.exp(a), size=1e3)
    assert sunk.accepted
    assert sunk.value == -jnp.inf


def test_a_ceiling_lets_the_value_rise_and_no_slope_is_asked_for():
    def phi(a):
        return (a - 1) ** 2

    found, value, _ = search(phi, size=2.4, ceiling=jnp.asarray(3.0), sigma=None)
    assert found.tries == 1
    assert found.value > value
    found, value, _ = search(phi, size=1e-3, sigma=None)  # short, but it descends
    assert found.tries == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_batched_searches_are_the_single_ones(dtype):
    def run(size):
        params = jnp.zeros((), dtype)
        value, grad = jax.value_and_grad(HARD["5.2"])(params)
        point = line.start_point(params, value, grad)
        direction = -size * point.grad
        begin = line.Begin(point.unit * point.grad * direction, size, jnp.zeros((), bool))
        found = line.search(HARD["5.2"], point, direction, begin, None, EPS)
        return found.updates, found.tries

    sizes = jnp.asarray([1e-2, 1.0, 50.0], dtype)
    together, tries = jax.jit(jax.vmap(run))(sizes)
    for k, size in enumerate(sizes):
        alone, count = jax.jit(run)(size)
        assert tries[k] == count
        np.testing.assert_allclose(together[k], alone, rtol=1e-5)
