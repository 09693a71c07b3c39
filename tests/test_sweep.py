"""Settings, starts and problems as lanes of one program; a lane that diverges is alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab as gl

RATES = np.logspace(-4, 3, 15)


def bowl(x, scales):
    return jnp.sum(scales * x**2)


STARTS = [jnp.ones(2), jnp.array([3.0, -1.0])]
SCALES = jnp.array([1.0, 4.0])


def swept(settings, method="gd", **options):
    options = {"starts": STARTS, "args": (SCALES,), "max_steps": 40, "gtol": 0.0, **options}
    return gl.sweep(bowl, method, settings, **options)


@pytest.fixture(scope="module")
def found():
    return swept({"learning_rate": RATES})


def test_every_combination_is_a_row(found):
    assert len(found.table) == 15 * 2
    assert {row["seed"] for row in found.table} == {0, 1}
    two = swept({"learning_rate": [0.01, 0.1], "momentum": [0.5, 0.9]}, "momentum")
    assert len(two.table) == 2 * 2 * 2
    assert set(two.best) == {"learning_rate", "momentum"}


def test_gradient_descent_is_the_closed_form(found):
    """x_k = (1 - 2 a s)^k x_0 for rate a and curvature 2 s, where that shrinks."""
    for row in found.table:
        rate, start = row["learning_rate"], STARTS[row["seed"]]
        factor = (1 - 2 * rate * SCALES) ** 40
        if np.all(np.abs(1 - 2 * rate * SCALES) < 1):
            expected = float(jnp.sum(SCALES * (factor * start) ** 2))
            assert row["loss"] == pytest.approx(expected, rel=1e-10)
            assert row["steps"] == 40


def test_the_best_rate_is_near_the_optimal_one(found):
    """2 / (λmin + λmax) = 0.2, and the candidates are half a decade apart."""
    assert found.best["learning_rate"] == pytest.approx(0.2, rel=0.6)


def test_a_lane_that_diverges_leaves_the_others_alone(found):
    wild = [row for row in found.table if row["learning_rate"] > 10]
    assert wild
    alone = swept({"learning_rate": [0.1]})
    beside = swept({"learning_rate": [0.1, 1e3]})
    assert [row["loss"] for row in alone.table] == [row["loss"] for row in beside.table][:2]


def test_sixty_four_rates_are_one_compilation():
    events = []

    def listen(event, *_, **more):
        if "backend_compile" in event:
            events.append(more.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    swept({"learning_rate": np.logspace(-5, 0, 64)}, max_steps=41)
    assert events.count("jit(lane)") == 1


@pytest.mark.slow
def test_halving_finds_the_same_for_less(found):
    halved = swept({"learning_rate": RATES}, halving=True, max_steps=90)
    whole = swept({"learning_rate": RATES}, max_steps=90)
    assert halved.best == whole.best
    assert halved.cost < 0.7 * whole.cost
    assert [number for number, _ in halved.rounds] == [15, 5, 2]
    assert [steps for _, steps in halved.rounds] == [10, 30, 90]
    assert {row["round"] for row in halved.table} == {1, 2, 3}
    assert len(halved.table) == 30


@pytest.mark.slow
def test_problems_of_one_loss_are_lanes_too():
    base = gl.Problem("mild", bowl, lambda key=None: jnp.ones(2), "", "", args=(SCALES,))
    steep = dataclasses.replace(base, name="steep", args=(10 * SCALES,))
    both = gl.sweep([base, steep], "gd", {"learning_rate": [0.002, 0.02]}, max_steps=20)
    assert [row["problem"] for row in both.table] == ["mild", "steep"] * 2
    single = gl.sweep(steep, "gd", {"learning_rate": [0.002, 0.02]}, max_steps=20)
    np.testing.assert_allclose(
        [row["loss"] for row in both.table][1::2], single.table.column("loss"), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "must name options and their values"),
        ({"learning_rate": ["a"]}, "must be positive numbers"),
        ({"learning_rate": [0.1, -1.0]}, "must be positive numbers"),
        ({"learning_rate": []}, "must be positive numbers"),
        ({"lerning_rate": [0.1]}, "has no option 'lerning_rate'. Did you mean"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises((ValueError, TypeError), match=told):
        swept(settings)


def test_where_every_lane_fails_no_setting_is_best():
    found = gl.sweep(lambda x: jnp.nan * jnp.sum(x), "gd", {"learning_rate": [0.1, 0.2]},
                     starts=[jnp.ones(2)])  # fmt: skip
    assert found.best is None
    assert all(np.isnan(row["loss"]) for row in found.table)


def test_problems_that_differ_are_refused():
    one = gl.Problem("one", bowl, lambda key=None: jnp.ones(2), "", "", args=(SCALES,))
    other = dataclasses.replace(one, name="other", loss=lambda x, s: jnp.sum(x))
    with pytest.raises(ValueError, match="must have one loss"):
        gl.sweep([one, other], "gd", {"learning_rate": [0.1]})
    other = dataclasses.replace(one, name="other", args=(jnp.ones(3),))
    with pytest.raises(ValueError, match="must have data and starts of the same shapes"):
        gl.sweep([one, other], "gd", {"learning_rate": [0.1]})
