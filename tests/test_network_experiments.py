"""The experiments with networks measure what theory says, and leave their folders behind."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_close, load, quick_run

import gradlab as gl
from gradlab import _cli_names
from gradlab.compare.run import Run
from gradlab.problems.networks.training import train

# What each draws, and the table it writes.
FILES = {
    "models": ("models", "models.csv"),
    "backpropagation": ("backpropagation", "gradients.csv"),
    "vanishing_gradients": ("vanishing-gradients", "factors.csv"),
    "overfitting": ("overfitting", "remedies.csv"),
    "explanations": ("attributions", "completeness.csv"),
    "physics_informed": ("physics-informed", "costs.csv"),
    "first_against_second": ("first-against-second", "models.csv"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_quick_run_leaves_table_figure_and_answer(name, tmp_path, capsys):
    folder, _ = quick_run(name, tmp_path, capsys)
    figure, table = FILES[name]
    assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / table).read_text().splitlines()) > 1


class TestTraining:
    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls):
        return gl.problems.get("logistic", held_out=0.2)

    def test_it_is_the_plain_loop_over_random_rows(self, problem):
        key = jax.random.key(3)
        made = train(problem, optax.sgd(0.1), key, steps=6, batch=4, records=2)
        started, batches = jax.random.split(key)
        params, history = problem.init(started), []
        for part in jax.random.split(batches, 2):
            history.append(problem.loss(params, *problem.args))
            for drawn in jax.random.split(part, 3):
                rows = jax.random.randint(jax.random.split(drawn)[0], (4,), 0, problem.num_rows)
                grad = jax.grad(problem.loss)(params, *problem.rows(rows))
                params = jax.tree.map(lambda x, g: x - 0.1 * g, params, grad)
        history.append(problem.loss(params, *problem.args))
        assert_close(made.params, params)
        assert_close(made.history["loss"], jnp.stack(history))

    def test_what_varies_a_batch_sees_it_and_its_own_key(self, problem):
        def vary(key, args):
            return 0 * args[0], args[1], args[2]

        made = train(problem, optax.sgd(0.1), jax.random.key(0), steps=5, records=1, vary=vary)
        assert not np.any(made.params["weights"])  # nothing to learn from empty features
        assert made.params["bias"] != 0

    def test_problems_without_rows_and_impossible_numbers_are_refused(self, problem):
        key, sgd = jax.random.key(0), optax.sgd(0.1)
        with pytest.raises(ValueError, match="'booth' hold no rows"):
            train(gl.problems.get("booth"), sgd, key, steps=10)
        with pytest.raises(ValueError, match="`steps` must be at least 10, got 3"):
            train(problem, sgd, key, steps=3)
        with pytest.raises(ValueError, match="`batch` must be at least 1"):
            train(problem, sgd, key, steps=10, batch=0)


class TestModels:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "models")

    def test_every_network_has_its_row(self, module):
        covered = {model.problem for model in module.MODELS.values()}
        assert covered >= set(gl.problems.names(tag="network"))
        assert covered >= set(gl.problems.names(tag="regression"))
        assert set(module.QUICK) <= set(module.MODELS)

    def test_a_rival_is_beaten_by_every_seed_or_not_at_all(self, module):
        row = {"least": 0.96, "most": 0.99, "to_beat": 0.1, "goal": 0.95, "more": True}
        assert module.beats(row)
        assert not module.beats(row | {"least": 0.94})
        assert not module.beats(row | {"to_beat": 0.97})
        loss = row | {"more": False, "goal": None, "to_beat": 1.0}
        assert module.beats(loss)
        assert not module.beats(loss | {"most": 1.01})

    def test_simple_rivals_are_what_they_say(self, module):
        problem = gl.problems.get("softmax", held_out=0.25)
        train_labels, test_labels = (np.asarray(a[1]) for a in (problem.args, problem.held_out))
        most = max(range(10), key=lambda c: np.sum(train_labels == c))
        assert module.commonest(problem)[1] == np.mean(test_labels == most)
        linear = gl.problems.get("linear", held_out=0.25)
        zero = linear.minimizer | {"weights": jnp.zeros(10), "bias": jnp.mean(linear.args[1])}
        assert module.mean_target(linear)[1] == pytest.approx(linear.evaluate(zero)["rmse"])
        spots = gl.problems.get("sunspots")
        errors = np.asarray(spots.held_out[1]) - np.asarray(spots.held_out[0])[:, -1]
        assert module.last_year(spots)[1] == pytest.approx(np.sqrt(np.mean(errors**2)))

    def test_biases_alone_have_no_vectors(self, module):
        """Held at zero, the vectors leave a linear model, which rank 0 has as its own."""
        options = {"topics": 10, "words": 30, "rows": 100, "l2": 0.05}
        rival = module.biases_alone(gl.problems.get("recommender", rank=2, **options))[1]
        alone = gl.problems.get("recommender", rank=0, **options)
        result = gl.minimize(alone.loss, alone.init(), "newton_cg", args=alone.args)
        assert rival == pytest.approx(alone.evaluate(result.x)["rmse"], rel=1e-6)

    @pytest.mark.slow
    def test_classifiers_reach_their_goals_and_the_others_beat_their_rivals(self, module):
        names = ("logistic", "softmax, digits", "perceptron", "recommender", "autoencoder")
        rows = module.measure(models={name: module.MODELS[name] for name in names})
        assert all(module.beats(row) for row in rows), str(module.table(rows))
        assert "5 of 5 models" in module.answer(rows)

    @pytest.mark.slow
    def test_characters_are_told_better_than_by_pairs(self, module):
        rows = module.measure(models={"recurrent": module.QUICK["recurrent"]}, seeds=1)
        assert module.beats(rows[0])


class TestBackpropagation:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "backpropagation")

    def test_by_hand_is_right_and_the_copied_pass_is_not(self, module):
        problem = gl.problems.get("mlp", width=5, depth=2, activation="sigmoid", rows=20)
        params, (x, y, _) = problem.init(), problem.args
        options = {"activation": "sigmoid", "loss": "cross_entropy"}
        by_jax = jax.grad(gl.backprop.loss)(params, x, y, **options)
        assert_close(gl.backprop.gradients(params, x, y, **options), by_jax)
        copied = module.copied_gradient(params, x, y)
        # The last layer has no activation to get wrong; the first has.
        assert_close(copied[-1], by_jax[-1])
        error = jnp.linalg.norm(copied[0]["weights"] - by_jax[0]["weights"])
        assert error > 0.05 * jnp.linalg.norm(by_jax[0]["weights"])

    def test_an_answer_is_made_of_what_was_measured(self, module):
        rows = [
            {
                "activation": name,
                "width": 4,
                "parameters": n,
                "seconds": {module.LOSS: 1.0, module.AUTO: 3.0, module.HAND: 2.0},
                "foretold": 2.0 * n,
                "errors": {module.HAND: 1e-16, module.DIFFERENCES: 1e-9},
                "cosine": None,
            }
            for name, n in (("tanh", 10), ("relu", 10), ("tanh", 600))
        ]
        told = module.answer(rows)
        assert "2.0 to 2.0 losses by hand and 3.0 to 3.0 by autodiff" in told
        assert "by differences 400 times as much" in told


class TestVanishing:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "vanishing_gradients")

    def test_theory_of_relu_is_exact(self, module):
        """Half of the units pass: with He's rule the squares are kept, with Xavier's halved."""
        assert module.foretold(module.Net("relu", "he"), 20) == pytest.approx(1, rel=1e-9)
        halved = module.foretold(module.Net("relu", "xavier"), 20)
        assert halved == pytest.approx(math.sqrt(0.5), rel=1e-9)

    def test_measured_factors_are_those_of_theory(self, module):
        net = module.Net("sigmoid", "xavier")
        norms = module.norms_by_layer(net, 12, 0)[3:-3]
        factor = (norms[0] / norms[-1]) ** (1 / (len(norms) - 1))
        assert factor == pytest.approx(module.foretold(net, 12), rel=0.1)

    def test_a_rotation_times_a_factor_cannot_grow_faster_than_its_powers(self, module):
        """The slope of tanh is at most 1, and rotations keep lengths."""
        norms = module.norms_by_time("rnn", 0.8, seed=0)
        powers = 0.8 ** np.arange(len(norms))
        assert norms[0] == 1
        assert np.all(norms <= powers * (1 + 1e-12))
        assert norms[-1] > 0.3 * powers[-1]

    def test_clipping_to_infinity_changes_nothing(self):
        gradient = {"a": jnp.asarray([3.0, 4.0])}
        clip = optax.clip_by_global_norm(jnp.inf)
        assert_close(clip.update(gradient, clip.init(gradient))[0], gradient, factor=0)


class TestOverfitting:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "overfitting")

    def test_pictures_move_by_one_pixel_at_most(self, module):
        dot = np.zeros((90, 64))
        dot[:, 8 * 3 + 4] = 1.0
        moved = np.asarray(module.moved(jax.random.key(0), jnp.asarray(dot)))
        places = {divmod(int(np.argmax(row)), 8) for row in moved}
        assert np.all(moved.sum(axis=1) == 1)
        assert places == {(3 + i, 4 + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}

    def test_one_label_in_five_is_wrong_and_none_that_judges(self, module):
        problem = gl.problems.get("mlp")
        noisy = module.with_wrong_labels(problem)
        changed = np.mean(np.asarray(noisy.args[1]) != np.asarray(problem.args[1]))
        assert changed == pytest.approx(module.WRONG, abs=0.03)
        assert noisy.held_out is problem.held_out

    def test_stopping_takes_the_best_record_of_the_third_set(self, module):
        row = {
            "stop_loss": np.array([[3.0, 1.0, 2.0]]),
            "test_loss": np.array([[3.0, 1.5, 1.2]]),
            "stopped": np.array([1]),
        }
        assert module.at_end(row, "test_loss") == [1.5]
        del row["stopped"]
        assert module.at_end(row, "test_loss") == [1.2]

    @pytest.mark.slow
    def test_the_test_loss_rises_without_help_and_less_with_it(self, module):
        rows = module.measure(names=(module.PLAIN, "L2"), steps=1500, records=15)
        found = {row["remedy"]: row for row in module.table(rows)}
        plain = found[module.PLAIN]
        assert plain["test_loss"] > 1.2 * plain["least"]
        assert plain["train_loss"] < 0.1
        for remedy in ("L2", module.EARLY):
            assert found[remedy]["test_loss"] < plain["test_loss"]
            assert found[remedy]["accuracy"] > plain["accuracy"]


class TestExplanations:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "explanations")

    def test_integrated_gradients_of_a_cubic_are_exact_with_two_points(self, module):
        """Along the way the slope is quadratic, which Gauss's rule of two points integrates."""
        x = jnp.asarray([0.5, -1.0, 2.0])
        found = module.integrated(jax.grad(lambda x: jnp.sum(x**3)), x, 2)
        assert_close(found, x**3)

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, module):
        options = {"width": 4, "activation": "tanh", "l2": 2e-2, "rows": 60}
        return module.measure(options=options, left_out=4)

    @pytest.mark.slow
    def test_attributions_sum_to_the_difference_of_scores(self, found):
        assert found["gaps"][32] < 1e-12
        assert found["gaps"][1] > found["gaps"][4] > found["gaps"][16]

    @pytest.mark.slow
    def test_influences_are_those_of_training_again(self, module, found):
        """A strong penalty makes the loss nearly quadratic about its minimum."""
        assert found["success"]
        assert found["cg_error"] < 1e-7
        assert module.correlation(found) > 0.95
        assert np.all(np.sign(found["foretold"]) == np.sign(found["measured"]))


class TestPhysics:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "physics_informed")

    def test_all_ways_give_the_derivatives_of_a_sine(self, module):
        x = jnp.linspace(0.0, 1.0, 5)[:, None]
        exact = [jnp.sin(2 * x[:, 0]), 2 * jnp.cos(2 * x[:, 0]), -4 * jnp.sin(2 * x[:, 0])]
        for way in module.WAYS:
            found = module.derivatives(way, lambda x: jnp.sin(2 * x[:, 0]), x, 2)
            for ours, truth in zip(found, exact, strict=True):
                assert_close(ours, truth, scale=4.0)

    def test_growth_is_the_factor_from_order_to_order(self, module):
        rows = [{"way": module.JET, "order": k, "size": 3**k} for k in (1, 2, 4)]
        assert module.growth(rows, module.JET) == pytest.approx(3)

    @pytest.mark.slow
    def test_series_grow_slowest_and_agree(self, module):
        found = module.measure(orders=(2, 4), equations=(2,), steps=30)
        growth = {way: module.growth(found["costs"], way) for way in module.WAYS}
        assert min(growth, key=growth.get) == module.JET
        assert max(row["apart"] for row in found["costs"]) < 1e-12
        nested, jet = found["solved"]
        np.testing.assert_allclose(nested["first"], jet["first"], rtol=1e-6)


class TestFirstAgainstSecond:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return load("experiments", "first_against_second")

    def test_every_network_takes_part(self, module):
        known = {name for name, _ in module.PROBLEMS.values()}
        assert known >= set(gl.problems.names(tag="network"))
        for name, options in module.PROBLEMS.values():
            assert set(options) <= set(_cli_names.problems()[name].options)

    def test_the_winner_has_least_left_and_faults_do_not_win(self, module):
        def run(method, losses):
            length = len(losses)
            zeros = np.zeros(length, int)
            trace = gl.Trace(
                loss=np.asarray(losses),
                grad_norm=np.ones(length),
                step_norm=np.ones(length),
                nfev=zeros,
                ngev=np.arange(length),
                nhvp=zeros,
                nhev=zeros,
                seconds=np.arange(length) * 1.0,
                num_rows=np.asarray(length),
                num_params=np.asarray(1),
                compile_seconds=np.asarray(0.0),
            )
            return Run("bowl", method, trace=trace)

        broken = dataclasses.replace(run("c", [1.0]), trace=None, error="ValueError: a fault")
        made = gl.Comparison((run("a", [5.0, 3.0, 2.0]), run("b", [5.0, 1.0, 1.5]), broken))
        left = {r.method: module.remaining(made, r) for r in made.runs}
        assert left["a"] == 0.25
        assert left["b"] == 0
        assert module.remaining(made, made.runs[0], cost=1.0) == 0.5
        assert module.winners(made) == {"bowl": "b"}
        later = gl.Comparison((run("b", [5.0, 1.0]), run("d", [5.0, 3.0, 1.0 + 1e-9])))
        assert module.winners(later) == {"bowl": "b"}  # equally low, and sooner
        assert "end equally low on 1 models" in module.answer(later, {})
        assert [module.price(made, r) for r in made.runs] == [math.inf, 1.0, math.inf]
        judged = {("bowl", "a"): {"rmse": 1.0}, ("bowl", "b"): {"rmse": 2.0}}
        assert module._judged_best("bowl", judged) == ["a"]
        tied = {("bowl", m): {"accuracy": 0.5 if m == "c" else 0.9} for m in "abc"}
        assert module._judged_best("bowl", tied) == ["a", "b"]
        assert "On 1 the same method" in module.answer(made, tied)
        assert "b 1 (bowl)" in module.answer(made, judged)
        assert "On 0 the same method" in module.answer(made, judged)
