"""Planted noise is found again, at every level and in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.derivatives.noise import NoiseStatus, estimate_noise


def hashed(x):
    """Uniform noise in [-1, 1), new at every rounding of x."""
    y = jnp.sin(x * 2.0**36 * 1.2345) * 2.0**20
    return 2 * (y - jnp.floor(y)) - 1


@pytest.mark.parametrize("level", [1e-12, 1e-8, 1e-4, 1e-2])
@pytest.mark.parametrize("x", [0.3, 1.7, -40.0])
def test_planted_noise_is_found_within_a_factor_of_three(level, x):
    estimate = estimate_noise(lambda x: jnp.cos(x) + level * hashed(x), jnp.asarray(x))
    truth = level / np.sqrt(3)
    assert int(estimate.status) == NoiseStatus.MEASURED
    assert truth / 3 < estimate.noise < 3 * truth


@pytest.mark.parametrize("bits", [8, 16, 24, 36])
@pytest.mark.parametrize("x", [0.3, 1.7, -2.2])
def test_the_noise_of_rounded_values_is_found(bits, x):
    estimate = estimate_noise(lambda x: np.round(np.exp(x) * 2.0**bits) / 2.0**bits, x)
    truth = 2.0**-bits / np.sqrt(12)
    assert truth / 3 < estimate.noise < 3 * truth


def test_plain_rounding_is_found_in_both_precisions():
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.asarray([0.3, -2.0, 5.0], dtype)
        estimate = estimate_noise(lambda x: jnp.sum(jnp.sin(x)), x)
        eps = float(jnp.finfo(dtype).eps)
        assert eps / 30 < estimate.noise < 10 * eps


def test_a_float32_loss_of_float64_input_has_float32_noise():
    estimate = estimate_noise(lambda x: jnp.sin(x.astype(jnp.float32)), jnp.asarray(1.0))
    assert 1e-9 < estimate.noise < 1e-6


def test_a_constant_offset_raises_the_noise_with_it():
    plain = estimate_noise(jnp.sin, jnp.asarray(0.7))
    shifted = estimate_noise(lambda x: 2.0**27 + jnp.sin(x), jnp.asarray(0.7))
    assert 2.0**25 < shifted.noise / plain.noise < 2.0**30


@pytest.mark.parametrize("factor", [1e-9, 1e9, 1e200])
def test_scaling_the_function_scales_its_noise(factor):
    plain = estimate_noise(jnp.exp, jnp.asarray(0.7)).noise
    scaled = estimate_noise(lambda x: factor * jnp.exp(x), jnp.asarray(0.7)).noise
    assert 0.2 < scaled / (factor * plain) < 5


def test_a_constant_function_cannot_be_told_and_gets_its_rounding():
    estimate = estimate_noise(lambda x: 3.0 + 0 * x, jnp.asarray(1.0))
    assert int(estimate.status) == NoiseStatus.BOUND
    assert np.isclose(estimate.noise, 3 * np.finfo(float).eps)


def test_a_nonfinite_value_is_a_status():
    estimate = estimate_noise(jnp.log, jnp.asarray(-1.0))
    assert int(estimate.status) == NoiseStatus.NONFINITE
    assert np.isnan(estimate.noise)


def test_jit_and_numpy_give_the_same_level():
    params = {"a": jnp.arange(5.0), "b": jnp.asarray(3.0)}

    def f(p):
        return jnp.sum(p["a"] ** 2) + 0.1 * p["b"]

    plain = estimate_noise(f, params)
    jitted = jax.jit(lambda p: estimate_noise(f, p))(params)
    by_numpy = estimate_noise(lambda p: np.sum(np.asarray(p["a"]) ** 2) + 0.1 * p["b"], params)
    assert 0.3 < jitted.noise / plain.noise < 3
    assert 0.3 < by_numpy.noise / plain.noise < 3


def test_evaluations_are_counted():
    calls = []

    def f(x):
        calls.append(1)
        return float(np.sin(np.asarray(x)))

    estimate = estimate_noise(f, np.asarray(0.3))
    # One traced attempt and one look at the output besides.
    assert int(estimate.nfev) <= len(calls) <= int(estimate.nfev) + 2


def test_a_direction_of_another_structure_is_named():
    with pytest.raises(ValueError, match="`direction` must have the structure of `x`"):
        estimate_noise(lambda p: p["a"], {"a": 1.0}, direction=[1.0])
    with pytest.raises(TypeError, match="must return a scalar"):
        estimate_noise(lambda x: x, jnp.arange(3.0))
