"""The curriculum's small experiments obey closed forms, and leave their folders behind."""

import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, load, quick_run

import gradlab as gl

# What each draws, and the table it writes.
FILES = {
    "learning_rates": ("learning-rates", "rates.csv"),
    "what_is_a_derivative": ("what-is-a-derivative", "derivatives.csv"),
    "stochastic_gradients": ("stochastic-gradients", "methods.csv"),
    "gradient_boosting": ("gradient-boosting", "rates.csv"),
    "without_derivatives": ("without-derivatives", "losses.csv"),
    "hyperparameters": ("hyperparameters", "choices.csv"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_quick_run_leaves_table_figure_and_answer(name, tmp_path, capsys):
    if name == "what_is_a_derivative":
        pytest.importorskip("sympy")
    folder, _ = quick_run(name, tmp_path, capsys)
    figure, table = FILES[name]
    assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / table).read_text().splitlines()) > 1


class TestLearningRates:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "learning_rates")

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, module):
        return module.measure(names=(module.SQUARE, module.DIABETES))

    @pytest.mark.slow
    def test_descent_diverges_beyond_two_over_the_curvature(self, module, found):
        assert found[module.SQUARE].theory == pytest.approx(1)
        features, _ = gl.problems.get("linear").args
        matrix = np.column_stack([np.ones(len(features)), features])
        largest = 2 * np.linalg.norm(matrix, 2) ** 2 / len(matrix)
        assert found[module.DIABETES].theory == pytest.approx(2 / largest)
        for one in found.values():
            assert one.limit == pytest.approx(one.theory, rel=0.01)
            assert np.array_equal(one.diverged, one.rates > one.limit)

    def test_a_step_multiplies_the_distance_by_one_minus_rate_times_curvature(self, found):
        for one in found.values():
            for row in one.rows:
                assert row["factor"] == pytest.approx(1 - row["multiple"], abs=1e-9)
            told = [row["behaviour"] for row in one.rows]
            assert told == ["slow", "right", "oscillating", "the limit", "divergent"]

    def test_rates_that_all_end_in_rounding_are_told_together(self, module, found):
        """On x² the gap is (1 - 2 r)^100 of that at the start: rounding from 0.15 to 0.85."""
        least, _, most, *rest = module._lowest(found[module.SQUARE]).split()
        assert " ".join(rest) == "(all to rounding)"
        reach = (1 - np.finfo(float).eps ** 0.01) / 2
        step = module.HIGHEST / module.LOWEST
        step **= 1 / (module.NUM_RATES - 1)
        assert reach * 0.99 < float(least) < reach * step * 1.01
        assert (1 - reach) / step * 0.99 < float(most) < (1 - reach) * 1.01

    def test_a_constant_rate_ends_at_the_floor_and_a_falling_one_below(self, module):
        noisy = module.decayed(runs_each=400, seed=1)
        end = {name: float(np.mean(line[-500:])) for name, line in noisy.items()}
        floor = module.floor(module.NOISY_RATE)
        assert end[module.CONSTANT] == pytest.approx(floor, rel=0.03)
        assert all(line[-1] < floor / 10 for n, line in noisy.items() if n != module.CONSTANT)

    def test_the_rate_of_a_mean_is_the_mean(self, module):
        """With rate 1 / (L k) the point is minus the mean of k noises over L: σ² / (L² k)."""
        line = module.decayed(runs_each=2000, seed=2)[module.INVERSE]
        assert line[-1] == pytest.approx(1 / (4 * module.NOISY_STEPS), rel=0.15)


class TestWhatIsADerivative:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "what_is_a_derivative")

    def test_secants_err_by_half_the_second_derivative_times_their_width(self, module):
        one, two = module.secants().values()
        wide = (one[0] > 1e-5) & (one[0] < 1e-3)
        np.testing.assert_allclose(one[1][wide], 3 * module.POINT * one[0][wide], rtol=1e-2)
        wide = two[0] > 1e-3
        np.testing.assert_allclose(two[1][wide], two[0][wide] ** 2, rtol=1e-3)

    def test_a_stone_falls_with_the_acceleration_of_gravity(self, module):
        moving = module.motion(20)
        t, (speed, gravity) = moving["time / s"], module.THROW
        np.testing.assert_allclose(
            moving["velocity / (m/s)"], speed - gravity * t, atol=1e-12 * speed
        )
        np.testing.assert_allclose(moving["acceleration / (m/s²)"], -gravity)

    def test_directional_derivatives_are_products_with_the_gradient(self, module):
        found = module.directional()
        np.testing.assert_allclose(found["along"], found["product"], atol=1e-14)
        x, y = found["x"]
        np.testing.assert_allclose(found["gradient"], [2 * x + y, 4 * y + x])

    def test_paths_of_the_graph_add_up_to_the_gradient(self, module):
        edges = module.chain(0.3, -1.2)
        assert edges["x"] == pytest.approx(edges["grad x"], rel=1e-14)
        assert edges["y"] == pytest.approx(edges["grad y"], rel=1e-14)

    def test_formulas_double_with_every_nesting_and_programs_do_not(self, module):
        pytest.importorskip("sympy")
        rows = module.measure(depths=(2, 3, 4))
        by_way = {
            way: [row for row in rows if row["way"] == way]
            for way in (module.SYMBOLS, module.SHARED, module.AUTO, module.DIFFERENCES)
        }
        # A nesting adds its argument once more, and three operations.
        assert [row["written"] for row in by_way[module.SYMBOLS]] == [9, 21, 45]
        swollen = [row["operations"] for row in by_way[module.SYMBOLS]]
        assert all(b > 2.5 * a for a, b in itertools.pairwise(swollen))
        for way in (module.SHARED, module.AUTO):
            counts = [row["operations"] for row in by_way[way]]
            assert counts[2] - counts[1] == counts[1] - counts[0]
        assert all(row["error"] < 1e-14 for way in (module.SYMBOLS, module.AUTO)
                   for row in by_way[way])  # fmt: skip
        assert all(1e-13 < row["error"] < 1e-8 for row in by_way[module.DIFFERENCES])

    def test_without_sympy_one_line_says_what_to_install(self, module, monkeypatch):
        monkeypatch.setitem(sys.modules, "sympy", None)
        with pytest.raises(ImportError, match=r'pip install "gradlab-jax\[experiments\]"'):
            module.measure(depths=(1,))


class TestStochasticGradients:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "stochastic_gradients")

    def test_the_noise_of_a_batch_is_that_of_drawing_without_replacement(self, module):
        rows = module.noise(sizes=(1, 16, 442))
        assert rows[-1]["error"] < 1e-12
        for row in rows[:2]:
            assert row["error"] == pytest.approx(row["theory"], rel=0.05)
        ratio = rows[0]["theory"] / rows[1]["theory"]
        assert ratio == pytest.approx(math.sqrt(16 * 441 / 426))

    def test_a_batch_of_all_rows_is_gradient_descent(self, module):
        rate = module.RATES[8]
        gaps = module._swept("gd", 442, 4, 0)[8]
        problem = gl.problems.get("linear", l2=module.PENALTY)
        method = gl.make("gd", learning_rate=float(rate))
        trace = gl.minimize(
            problem.loss, problem.init(), method, args=problem.args, max_steps=4, gtol=0.0
        ).trace
        expected = (trace.loss - problem.minimum) / (trace.loss[0] - problem.minimum)
        for line in gaps:
            np.testing.assert_allclose(line, expected, rtol=1e-9)

    def test_a_rate_that_diverges_is_counted_and_never_chosen(self, module):
        gaps = np.full((3, 2, 4), 0.5)
        gaps[:, :, 0] = 1.0
        gaps[0, 1, 2:] = np.nan
        gaps[2, :, 1:] = 0.1
        row = module._best("gd", 1, gaps)
        assert row["diverged"] == 1
        assert row["rate"] == module.RATES[2]
        assert row["near"] == 1


class TestGradientBoosting:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "gradient_boosting")

    def test_stumps_by_hand_are_those_of_scikit_learn(self, module):
        rows = module.measure(rates=(0.1, 1.0), stages=60)
        assert all(row["apart"] < 1e-12 for row in rows)
        assert all(np.all(np.diff(row["train"]) < 0) for row in rows)

    def test_ties_aside_other_rows_are_told_the_same(self, module):
        from sklearn.ensemble import GradientBoostingRegressor

        (x, y), (held, _) = module.rows_of_data()
        start, stumps = module.boost(x, y, 0.1, 40)
        model = GradientBoostingRegressor(
            learning_rate=0.1, n_estimators=40, max_depth=1, random_state=0
        ).fit(x, y)
        ours = module.staged(held, start, stumps, 0.1)[-1]
        np.testing.assert_allclose(ours, model.predict(held), rtol=1e-11, atol=1e-12)

    def test_the_residual_is_the_negative_gradient_in_the_predictions(self, module):
        (_, y), _ = module.rows_of_data()
        predicted = jnp.linspace(-1, 1, len(y))
        gradient = jax.grad(lambda f: jnp.sum((y - f) ** 2) / 2)(predicted)
        assert_close(-gradient, jnp.asarray(y) - predicted)

    @pytest.mark.parametrize("rate", [0.3, 1.0, 1.9, 2.1])
    def test_a_stump_takes_its_share_of_the_squares(self, module, rate):
        """A projection: Σ (r - η s)² = Σ r² - η (2 - η) Σ s², so that η = 2 is the limit."""
        (x, y), _ = module.rows_of_data()
        r = y - np.mean(y)
        said = module.fit_stump(x, r, np.argsort(x, axis=0, kind="stable"))(x)
        left = np.sum(r**2) - rate * (2 - rate) * np.sum(said**2)
        assert np.sum((r - rate * said) ** 2) == pytest.approx(left, rel=1e-12)

    def test_ascent_is_descent_on_the_negative(self, module):
        found = module.ascended()
        shared = min(len(found["up"]), len(found["down"]))
        assert shared > 50
        np.testing.assert_allclose(
            found["up"][:shared], found["down"][:shared], rtol=1e-12, atol=1e-14
        )
        np.testing.assert_allclose(found["up"][-1], found["exact"], rtol=1e-9, atol=1e-9)


class TestWithoutDerivatives:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "without_derivatives")

    def test_spsa_is_unbiased_on_a_quadratic(self, module):
        """Over all 2^n signs the mean is the gradient, and the mean square n times its own."""
        matrix = np.asarray([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 3.0]])
        x = jnp.asarray([1.0, -2.0, 0.5])
        exact = matrix @ x
        keys = jax.random.split(jax.random.key(0), 4000)
        found = jax.vmap(lambda key: module.spsa(lambda z: z @ matrix @ z / 2, x, key))(keys)
        signs = np.unique(np.sign(found), axis=0)
        assert len(signs) <= 8
        error = np.asarray(jnp.mean(found, axis=0) - exact)
        spread = math.sqrt(3 / len(keys)) * float(jnp.linalg.norm(exact))
        assert np.linalg.norm(error) < 3 * spread
        square = float(jnp.mean(jnp.sum(found**2, axis=1)))
        assert square == pytest.approx(3 * float(exact @ exact), rel=0.1)

    def test_with_one_variable_spsa_is_the_central_difference(self, module):
        rows = module.measure(sizes=(1,))
        assert [row["steps"] for row in rows] == [1, 1, 1]

    def test_differences_take_the_same_steps_and_2n_losses_each(self, module):
        rows = {row["way"]: row for row in module.measure(sizes=(10, 30)) if row["n"] == 30}
        auto, differences = rows[module.AUTO], rows[module.DIFFERENCES]
        assert auto["steps"] == differences["steps"]
        assert differences["losses"] / auto["losses"] == 2 * 30 / module.REVERSE
        # 1 - λ / tr H a step at least, on average, of the slowest direction.
        spsa = rows[module.SPSA]
        trace = np.sum(np.geomspace(1, module.CONDITION, 30))
        assert spsa["steps"] < trace * math.log(1 / module.LEFT)
        assert spsa["steps"] > 10 * auto["steps"]


class TestHyperparameters:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "hyperparameters")

    def test_the_hyper_gradient_is_the_difference_of_fits(self, module):
        """Of all penalties moved at once: then it is the sum of those of each."""
        size = module.rows_of_data().train[0].shape[1]
        tie = jnp.eye(size)
        evaluate = jax.jit(jax.value_and_grad(module.validation_loss))

        def along(t):
            return evaluate(jnp.full(size, t), tie)

        # Fits end where their gradient is 1e-8 of the first: hence a wide step.
        wide = 1e-2
        central = [float(along(-3.0 + k * wide)[0] - along(-3.0 - k * wide)[0]) for k in (1, 2)]
        difference = (8 * central[0] - central[1]) / (12 * wide)
        assert float(jnp.sum(along(-3.0)[1])) == pytest.approx(difference, rel=1e-4)

    @pytest.mark.slow
    def test_halving_ends_with_a_value_near_the_grids_best(self, module):
        t = np.linspace(module.LOW, module.HIGH, 9)
        whole = module.judged(t)
        chosen, cost = module.halved(t)
        found = float(module.judged(np.asarray([chosen]))["validation"][0])
        assert found < 1.2 * whole["validation"].min()
        assert cost < whole["cost"].sum()

    def test_the_rows_are_each_of_one_part(self, module):
        split = module.rows_of_data()
        rows = np.concatenate([part[0] for part in split])
        assert len(rows) == 569
        assert len(np.unique(rows, axis=0)) == len(np.unique(rows.round(12), axis=0))
