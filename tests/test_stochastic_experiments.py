"""The experiments on training measure what they claim, and leave their folders behind."""

import jax
import numpy as np
import optax
import pytest
from support import load, quick_run

FIGURES = {
    "edge_of_stability": ("edge-of-stability", "records"),
    "stochastic_second_order": ("stochastic-second-order", "records"),
}


@pytest.mark.parametrize("name", ["gradient descent", "heavy ball", "Nesterov"])
def test_thresholds_are_those_of_a_quadratic(name):
    rule = load("experiments", "edge_of_stability").rules()[name]
    rate = rule.rates[0]
    method = rule.build(rate)
    for factor, stable in ((0.98, True), (1.02, False)):
        curvature = factor * rule.threshold / rate

        def step(carry, _, curvature=curvature):
            x, state = carry
            updates, state = method.update(curvature * x, state, x)
            return (optax.apply_updates(x, updates), state), None

        start = np.float64(1.0)
        (x, _), _ = jax.lax.scan(step, (start, method.init(start)), None, length=3000)
        assert (abs(x) < 1e-3) == stable


@pytest.mark.slow
def test_adam_and_heavy_ball_settle_at_their_own_edges():
    module = load("experiments", "edge_of_stability")
    for run in module.measure(steps=600, only={"heavy ball": 1, "Adam": 1}):
        mean, _ = module.settled(run)
        assert mean == pytest.approx(1, abs=0.1)
        assert run.losses[-1] < run.losses[0] / 100


def test_arrivals_read_the_cost_off_the_histories():
    module = load("experiments", "stochastic_second_order")
    costs = np.array([[0.0, 1.0, 2.0, 4.0]])

    def training(name, losses):
        return module.Training(name, "", np.array([losses]), costs, None, 0.0)

    adam = training(module.ADAM, [3.0, 2.0, 1.5, 1.0])
    better = training("better", [3.0, 1.2, 0.9, 0.5])
    never = training("never", [3.0, 2.5, 2.4, 2.3])
    found = module.arrivals([adam, better, never])
    assert found["better"] == 0.5
    assert found["never"] == np.inf
    assert "better" in module.answer([adam, better, never])
    assert "50%" in module.answer([adam, better, never])


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_quick_run_leaves_its_folder(name, tmp_path, capsys):
    folder, _ = quick_run(name, tmp_path, capsys)
    figure, rows = FIGURES[name]
    assert (folder / f"{figure}.png").stat().st_size > 20_000
    assert (folder / f"{rows}.csv").stat().st_size > 100
