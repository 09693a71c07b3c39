"""The networks compute what NumPy computes step by step, on data that are kept apart."""

import inspect
import itertools
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.signal
import scipy.special
import scipy.stats
from support import assert_close

import gradlab as gl
from gradlab import _cli_names, problems
from gradlab.problems import data, text
from gradlab.problems.networks import (
    attention,
    autoencoder,
    convolution,
    embeddings,
    language,
    layers,
    physics,
    recurrent,
)

# Sizes at which every problem compiles and runs at once.
SMALL = {
    "burgers": {"width": 4, "rows": 3},
    "cnn": {"channels": 2, "rows": 6},
    "glove": {"words": 10, "width": 2, "rows": 20},
    "lstm": {"width": 2, "length": 4, "rows": 5},
    "mlp": {"width": 4, "rows": 12},
    "poisson": {"width": 4, "rows": 8},
    "recommender": {"topics": 5, "words": 10, "rows": 20},
    "rnn": {"width": 3, "length": 4, "rows": 5},
    "skip_gram": {"words": 10, "width": 2, "rows": 20},
    "sunspots": {"width": 2, "length": 5},
    "transformer": {"width": 4, "length": 4, "rows": 5},
    "vae": {"width": 3, "latent": 2, "rows": 8},
}
SLOW_TO_COMPILE = ("burgers", "cnn", "lstm", "poisson", "rnn", "sunspots", "transformer")


def each(slow=()):
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in SMALL}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=marks[n]) for n in SMALL])


def small(name, **options):
    return problems.get(name, **SMALL[name], **options)


def numpy_of(tree):
    return jax.tree.map(np.asarray, tree)


def test_every_network_is_tried_here():
    assert list(SMALL) == problems.names(tag="network")


@each(slow=("cnn", "mlp"))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_and_gradient_keep_the_dtype_and_start_near_the_loss_of_guessing(name, dtype):
    problem = small(name, dtype=dtype)
    start = problem.init(jax.random.key(1))
    value, grad = jax.jit(jax.value_and_grad(problem.loss))(start, *problem.args)
    assert (value.shape, value.dtype) == ((), dtype)
    for leaf, rate in zip(jax.tree.leaves(start), jax.tree.leaves(grad), strict=True):
        assert leaf.dtype == rate.dtype == dtype
        assert jnp.all(jnp.isfinite(rate))
    assert 0 < value < 100
    if name in ("lstm", "mlp", "rnn", "transformer"):
        guess = math.log(10 if name == "mlp" else len(text.ALPHABET))
        assert 0.7 * guess < value < 1.5 * guess


@each(slow=SLOW_TO_COMPILE)
def test_gradient_and_hessian_products_are_right(name):
    problem = small(name)
    start = problem.init(jax.random.key(1))
    report = gl.check_derivatives(problem.loss, start, *problem.args, argnums=0)
    assert report.verdict == "right", str(report)


@each(slow=set(SMALL) - {"mlp", "recommender"})
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_methods_of_every_kind_lower_the_loss(name, dtype):
    problem = small(name, dtype=dtype)
    start = problem.init(jax.random.key(1))
    first = problem.loss(start, *problem.args)
    for method in ("gd", "adam", "newton_cg"):
        result = gl.minimize(problem.loss, start, method, args=problem.args, max_steps=3)
        assert result.fun < first, method
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(result.x))


@pytest.mark.parametrize("name", ["glove", "poisson", "recommender", "sunspots"])
def test_losses_that_are_sums_of_squares_say_so(name):
    problem = small(name)
    start = problem.init()
    residual = problem.residual(start, *problem.args)
    assert residual.shape == (problem.num_residuals,)
    assert_close(jnp.sum(residual**2), problem.loss(start, *problem.args))


@pytest.mark.slow
def test_least_squares_methods_take_the_residuals():
    problem = small("recommender")
    start = problem.init(jax.random.key(1))
    result = gl.least_squares(
        problem.residual, start, "levenberg_marquardt", args=problem.args, max_steps=30
    )
    fitted = problem.loss(result.x, *problem.args)
    newton = gl.minimize(problem.loss, start, "newton_cg", args=problem.args, max_steps=100)
    assert fitted == pytest.approx(float(newton.fun), rel=1e-6)


class TestData:
    @pytest.mark.parametrize("name", SMALL)
    def test_the_listing_tells_size_and_source(self, name):
        """The figures in the listing, which is read from the source text, are true."""
        entry, problem = _cli_names.problems()[name], problems.get(name)
        told = re.search(r"([\d,]+) parameters, ([\d,]+) rows", entry.summary)
        assert int(told[1].replace(",", "")) == problem.num_params
        assert int(told[2].replace(",", "")) == problem.num_rows
        assert entry.source == problem.source

    @pytest.mark.parametrize("name", ["linear", "logistic", "softmax"])
    def test_so_it_does_for_the_regressions(self, name):
        entry, problem = _cli_names.problems()[name], problems.get(name)
        sizes = f"{problem.num_params} parameters, {problem.num_rows:,} rows"
        assert entry.summary.endswith(sizes)
        assert entry.source == problem.source

    @pytest.mark.parametrize("name", ["mlp", "rnn", "skip_gram", "recommender", "logistic"])
    def test_no_row_is_both_trained_on_and_held_out(self, name):
        problem = problems.get(name, held_out=0.2)
        count = len(problem.held_out[0])
        assert count == pytest.approx(0.25 * problem.num_rows, rel=0.01)
        if name in ("mlp", "logistic", "rnn"):  # where equal rows would be the same one
            seen = {row.tobytes() for row in np.asarray(problem.args[0])}
            kept = [row.tobytes() for row in np.asarray(problem.held_out[0])]
            assert sum(row in seen for row in kept) == 0

    def test_the_split_is_a_partition_and_always_the_same(self):
        train, test = data.split((np.arange(50), 2 * np.arange(50)), 0.3)
        assert sorted([*train[0], *test[0]]) == list(range(50))
        assert np.array_equal(train[1], 2 * train[0])
        assert np.array_equal(data.split((np.arange(50),), 0.3)[0][0], train[0])
        assert data.split((np.arange(5),), 0.0)[1] == ()

    def test_the_years_held_out_come_last(self):
        problem = problems.get("sunspots")
        assert_close(problem.held_out[0][0, -1], problem.args[1][-1])
        spots = data.sunspots()
        assert (len(spots), spots[0], spots[-1]) == (309, 5.0, 2.9)

    def test_rows_picks_batches_and_leaves_the_rest(self):
        problem = problems.get("mlp")
        pixels, labels, l2 = problem.rows(np.array([3, 1]))
        assert_close(pixels, problem.args[0][jnp.array([3, 1])])
        assert labels.shape == (2,)
        assert l2 == problem.args[2]
        with pytest.raises(ValueError, match="hold no rows"):
            problems.get("booth").rows(slice(3))

    def test_evaluate_uses_the_held_out_rows(self):
        problem = problems.get("logistic", held_out=0.2)
        features, signs, _ = numpy_of(problem.held_out)
        weights = np.linspace(-1, 1, features.shape[1])
        params = {"bias": jnp.asarray(0.3), "weights": jnp.asarray(weights)}
        right = np.mean(np.sign(features @ weights + 0.3) == signs)
        assert problem.evaluate(params)["accuracy"] == pytest.approx(right, rel=1e-12)
        with pytest.raises(ValueError, match="'booth' has no metrics"):
            problems.get("booth").evaluate(jnp.zeros(2))

    def test_ridge_on_part_of_the_rows_solves_its_normal_equations(self):
        problem = problems.get("linear", l2=0.2, held_out=0.25)
        features, targets, _ = numpy_of(problem.args)
        matrix = np.column_stack([np.ones(len(targets)), features])
        gram = matrix.T @ matrix / len(targets) + 0.1 * np.eye(11)
        solution = np.linalg.solve(gram, matrix.T @ targets / len(targets))
        found = np.append(problem.minimizer["bias"], problem.minimizer["weights"])
        np.testing.assert_allclose(found, solution, rtol=1e-10)
        grad = jax.grad(problem.loss)(problem.minimizer, *problem.args)
        assert max(float(jnp.max(jnp.abs(leaf))) for leaf in grad.values()) < 1e-10

    def test_wine_is_separated_by_softmax(self):
        problem = problems.get("softmax", dataset="wine", held_out=0.25)
        result = gl.minimize(problem.loss, problem.init(), "newton", args=problem.args)
        assert problem.num_params == 42
        assert problem.evaluate(result.x)["accuracy"] > 0.9
        assert "Wine" not in problems.get("softmax").source
        assert "Aeberhard" in problem.source

    def test_the_text_is_what_python_ships(self):
        places = text.characters()
        assert len(places) > 250_000
        assert len(text.ALPHABET) == 40 == len(set(text.ALPHABET))
        assert places.max() < 40
        assert "assignment statements are used to (re)bind names to values" in text.decode(
            places
        )

    def test_no_paragraph_occurs_twice(self):
        whole = text.decode(text.characters())
        sentence = "the module name is assigned"  # quoted by several topics
        assert whole.count("assignment statements are used to (re)bind names") == 1
        assert whole.count(sentence) <= 1

    def test_entropies_are_those_of_scipy(self):
        symbols = text.characters()[:250_000]
        found = language.entropies()
        unigram = scipy.stats.entropy(np.bincount(symbols))
        assert found["unigram"] == pytest.approx(unigram, rel=1e-4)  # but for one character
        pairs = list(itertools.pairwise(symbols[:2000]))
        assert len(set(pairs)) < len(pairs)
        assert 0.6 * unigram < found["bigram"] < 0.9 * unigram

    def test_cooccurrences_are_counted_as_by_hand(self):
        words = text._words()
        place = {word: i for i, word in enumerate(text.vocabulary(20))}
        by_hand = np.zeros((20, 20), int)
        for here, word in enumerate(words):
            for other in range(max(0, here - 2), min(len(words), here + 3)):
                if other != here and word in place and words[other] in place:
                    by_hand[place[word], place[words[other]]] += 1
        first, second = text.cooccurrences(20, 2)
        counted = np.zeros((20, 20), int)
        np.add.at(counted, (first, second), 1)
        assert np.array_equal(counted, by_hand)


class TestOracles:
    def test_convolution_is_that_of_scipy(self):
        rng = np.random.default_rng(0)
        images, kernel = rng.normal(size=(2, 8, 8, 3)), rng.normal(size=(3, 3, 3, 4))
        found = convolution.convolve(jnp.asarray(images), jnp.asarray(kernel))
        for n, d in np.ndindex(2, 4):
            expected = sum(
                scipy.signal.correlate2d(images[n, :, :, c], kernel[:, :, c, d], "same")
                for c in range(3)
            )
            assert_close(found[n, :, :, d], expected)

    @pytest.mark.parametrize("cell", ["rnn", "lstm"])
    def test_cells_take_the_steps_of_their_equations(self, cell):
        problem = small(cell)
        params = numpy_of(problem.init(jax.random.key(2)))
        rows = np.asarray(problem.args[0])
        expected = []
        for row in rows:
            h = c = np.zeros(len(params["cell"]["recurrent"]))
            for token in row[:-1]:
                z = params["cell"]["input"][token] + h @ params["cell"]["recurrent"]
                z = z + params["cell"]["bias"]
                if cell == "rnn":
                    h = np.tanh(z)
                else:
                    i, f, g, o = np.split(z, 4)
                    sigma = scipy.special.expit
                    c = sigma(f) * c + sigma(i) * np.tanh(g)
                    h = sigma(o) * np.tanh(c)
                expected.append(h @ params["readout"]["weights"] + params["readout"]["bias"])
        scores = problem.predict(params, rows)
        assert_close(scores, np.reshape(expected, scores.shape))
        logs = scipy.special.log_softmax(np.asarray(scores), axis=2)
        chosen = np.take_along_axis(logs, rows[:, 1:, None], axis=2)
        assert_close(problem.loss(params, *problem.args), -chosen.mean())

    def test_the_forget_gate_starts_open(self):
        bias = np.reshape(small("lstm").init()["cell"]["bias"], (4, -1))
        assert bias.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]

    def test_attention_is_the_formula_place_by_place(self):
        rng = np.random.default_rng(0)
        shapes = {"query": (4, 2, 3), "key": (4, 2, 3), "value": (4, 2, 3), "output": (2, 3, 4)}
        layer = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        x = rng.normal(size=(5, 4))
        expected = np.zeros((5, 4))
        for h, t in np.ndindex(2, 5):
            q = x[t] @ layer["query"][:, h]
            scores = [q @ (x[s] @ layer["key"][:, h]) / np.sqrt(3) for s in range(t + 1)]
            weights = np.exp(scores) / np.sum(np.exp(scores))
            values = [x[s] @ layer["value"][:, h] for s in range(t + 1)]
            expected[t] += np.sum(weights[:, None] * values, axis=0) @ layer["output"][h]
        assert_close(attention.attend(layer, jnp.asarray(x)[None])[0], expected)

    def test_a_transformer_does_not_see_what_comes_later(self):
        problem = small("transformer")
        params = problem.init()
        rows = np.asarray(problem.args[0])
        changed = rows.copy()
        changed[:, 2] = (changed[:, 2] + 1) % 40
        before, after = problem.predict(params, rows), problem.predict(params, changed)
        assert_close(after[:, :2], before[:, :2])
        assert jnp.max(jnp.abs(after[:, 2:] - before[:, 2:])) > 1e-3

    def test_layer_norm_leaves_mean_zero_and_variance_one(self):
        x = jnp.asarray(np.random.default_rng(0).normal(3.0, 10.0, (2, 5, 64)))
        layer = {"scale": jnp.ones(64), "shift": jnp.zeros(64)}
        normed = layers.layer_norm(layer, x)
        np.testing.assert_allclose(normed.mean(axis=-1), 0, atol=1e-12)
        np.testing.assert_allclose(normed.std(axis=-1), 1, rtol=1e-6)

    def test_skip_gram_is_the_sum_over_pairs(self):
        problem = small("skip_gram")
        params = numpy_of(problem.init())
        total = 0.0
        for center, near, far in zip(*numpy_of(problem.args), strict=True):
            v, u = params["centers"][center], params["contexts"]
            total -= np.log(scipy.special.expit(u[near] @ v))
            total -= sum(np.log(scipy.special.expit(-u[n] @ v)) for n in far)
        assert_close(problem.loss(params, *problem.args), total / problem.num_rows)

    def test_glove_is_the_sum_over_pairs(self):
        problem = small("glove")
        params = numpy_of(problem.init())
        params["rows"] = params["rows"] + 0.3
        *arrays, l2 = numpy_of(problem.args)
        total = 0.0
        for i, j, log_count, weight in zip(*arrays, strict=True):
            assert weight == pytest.approx(min(1, math.exp(log_count) / 20) ** 0.75)
            told = params["centers"][i] @ params["contexts"][j]
            told += params["rows"][i] + params["columns"][j]
            total += weight * (told - log_count) ** 2 / problem.num_rows
        total += l2 / 2 * np.sum(params["centers"] ** 2 + params["contexts"] ** 2)
        assert_close(problem.loss(params, *problem.args), total)

    def test_the_recommenders_biases_are_a_linear_regression(self):
        """Without factors the problem is ridge regression on indicators, but for the mean."""
        problem = small("recommender", rank=0, l2=0.1)
        rows, columns, ratings, _ = numpy_of(problem.args)
        count = len(ratings)
        matrix = np.column_stack([np.ones(count), np.eye(5)[rows], np.eye(10)[columns]])
        gram = matrix.T @ matrix / count + 0.05 * np.diag([0.0] + [1.0] * 15)
        solution = np.linalg.solve(gram, matrix.T @ ratings / count)
        result = gl.minimize(problem.loss, problem.init(), "newton", args=problem.args)
        x = result.x
        found = np.concatenate([[x["mean"]], x["rows"], x["columns"]])
        np.testing.assert_allclose(found, solution, rtol=1e-7)

    def test_the_bound_of_an_autoencoder_is_likelihood_minus_divergence(self):
        problem = small("vae")
        params = numpy_of(problem.init(jax.random.key(3)))
        pixels, noise = numpy_of(problem.args)
        (e0, e1), (d0, d1) = params["encoder"], params["decoder"]
        out = np.tanh(pixels @ e0["weights"] + e0["bias"]) @ e1["weights"] + e1["bias"]
        mean, spread = out[:, :2], np.exp(out[:, 2:] / 2)
        z = mean + spread * noise
        logits = np.tanh(z @ d0["weights"] + d0["bias"]) @ d1["weights"] + d1["bias"]
        likelihood = scipy.stats.bernoulli(scipy.special.expit(logits)).logpmf(pixels).sum()
        divergence = sum(map(divergence_by_quadrature, mean.ravel(), spread.ravel()))
        expected = (divergence - likelihood) / len(pixels)
        assert problem.loss(params, *problem.args) == pytest.approx(expected, rel=1e-8)

    def test_the_bound_of_a_decoder_that_ignores_z_is_that_of_single_pixels(self):
        """With weights zero, log-odds as biases, and the prior as posterior: no divergence."""
        problem = problems.get("vae")
        params = jax.tree.map(jnp.zeros_like, problem.init())
        train, test = np.asarray(problem.args[0]), np.asarray(problem.held_out[0])
        share = (1 + train.sum(axis=0)) / (2 + len(train))
        params["decoder"][1]["bias"] = jnp.asarray(np.log(share / (1 - share)))
        assert problem.evaluate(params)["elbo"] == pytest.approx(
            autoencoder.factorised_bound(train, test), rel=1e-12
        )

    def test_the_exact_solutions_solve_their_equations(self):
        problem = small("poisson")
        points, forcing, _ = problem.args
        second = jax.vmap(
            jax.grad(jax.grad(lambda x: physics.poisson_solution(x[None, None])[0]))
        )
        assert_close(second(points[:, 0]), -forcing, factor=1000)

        points, known, values, viscosity = small("burgers").args

        def u(t, x):
            return physics.burgers_solution(jnp.stack([t, x])[None], viscosity)[0]

        t, x = points.T
        rate, slope = jax.vmap(jax.grad(u))(t, x), jax.vmap(jax.grad(u, 1))(t, x)
        second = jax.vmap(jax.grad(jax.grad(u, 1), 1))(t, x)
        left = rate + jax.vmap(u)(t, x) * slope - viscosity * second
        assert jnp.max(jnp.abs(left)) < 1e-12 * jnp.max(jnp.abs(rate))
        assert_close(jax.vmap(u)(*known.T), values)

    def test_the_front_of_burgers_is_one_tanh_unit_and_leaves_no_residual(self):
        problem = small("burgers")
        slope = 0.5 / (2 * problem.args[3])
        front = [
            {"weights": jnp.stack([-0.5 * slope, slope])[:, None], "bias": jnp.zeros(1)},
            {"weights": jnp.full((1, 1), -0.5), "bias": jnp.full(1, 0.5)},
        ]
        left = problem.residual(front, *problem.args)
        scale = jnp.max(jnp.abs(problem.residual(problem.init(), *problem.args)))
        assert jnp.max(jnp.abs(left)) < 1e-12 * scale
        assert problem.evaluate(front)["relative_error"] < 1e-14
        # A front of another speed is none.
        front[0]["weights"] *= jnp.asarray([[1.5], [1.0]])
        assert jnp.max(jnp.abs(problem.residual(front, *problem.args))) > 1e-2

    def test_the_residual_of_a_network_is_that_of_its_closed_form(self):
        """One tanh unit: u = a tanh(w x + b) has u'' = -2 a w² tanh (1 - tanh²)."""
        w, b, a = 1.3, -0.4, 0.7
        params = [
            {"weights": jnp.array([[w]]), "bias": jnp.array([b])},
            {"weights": jnp.array([[a]]), "bias": jnp.zeros(1)},
        ]
        problem = small("poisson")
        points, forcing, _ = numpy_of(problem.args)
        t = np.tanh(w * points[:, 0] + b)
        inside = (-2 * a * w**2 * t * (1 - t**2) + forcing) / (np.pi**2 * np.sqrt(8))
        expected = np.append(inside, a * np.tanh([b, w + b]))
        assert_close(problem.residual(params, *problem.args), expected)

    def test_nearest_words_are_those_of_largest_cosine(self):
        vectors = np.random.default_rng(0).normal(size=(30, 4))
        words = text.vocabulary(30)
        found = embeddings.nearest_words(vectors, words[7], count=3)
        unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
        cosines = unit @ unit[7]
        cosines[7] = -2
        assert [word for word, _ in found] == [words[i] for i in np.argsort(-cosines)[:3]]
        assert found[0][1] == pytest.approx(cosines.max())


def divergence_by_quadrature(mean, spread):
    """KL divergence of a normal distribution from the standard one, by its integral."""
    p, q = scipy.stats.norm(mean, spread), scipy.stats.norm()
    ends = mean - 12 * spread, mean + 12 * spread
    return scipy.integrate.quad(
        lambda z: p.pdf(z) * (p.logpdf(z) - q.logpdf(z)), *ends, epsabs=1e-12
    )[0]


class TestStarts:
    @pytest.mark.parametrize("init", list(layers.INITIALIZATIONS))
    def test_weights_have_the_variance_of_their_rule(self, init):
        weights = problems.get("mlp", width=200, depth=2, init=init).init()[1]["weights"]
        variance = {"naive": 1, "small": 1e-4, "lecun": 1 / 200, "xavier": 1 / 200, "he": 0.01}
        assert float(weights.var()) == pytest.approx(variance[init], rel=0.03)
        assert abs(float(weights.mean())) < 4 * math.sqrt(variance[init]) / 200

    def test_xavier_takes_the_mean_of_inputs_and_outputs(self):
        weights = problems.get("mlp", width=300).init()[0]["weights"]
        assert float(weights.std()) == pytest.approx(math.sqrt(2 / 364), rel=0.03)

    def test_both_dtypes_start_at_the_same_point(self):
        single = problems.get("mlp", dtype="float32").init(jax.random.key(5))
        double = problems.get("mlp", dtype="float64").init(jax.random.key(5))
        same = jax.tree.map(
            lambda a, b: jnp.array_equal(a, b.astype(jnp.float32)), single, double
        )
        assert all(jax.tree.leaves(same))

    def test_equal_options_share_the_loss(self):
        for name in SMALL:
            assert small(name).loss is small(name).loss
        assert problems.get("mlp", activation="relu").loss is not problems.get("mlp").loss

    def test_layers_of_one_shape_start_apart(self):
        block = small("transformer").init()["blocks"][0]["attention"]
        assert not jnp.array_equal(block["key"], block["query"])


class TestErrors:
    def test_unknown_names_answer_with_the_nearest(self):
        with pytest.raises(ValueError, match=r"got 'tahn'\. Did you mean 'tanh'\?"):
            problems.get("mlp", activation="tahn")
        with pytest.raises(ValueError, match=r"got 'xaviar'\. Did you mean 'xavier'\?"):
            problems.get("mlp", init="xaviar")
        with pytest.raises(ValueError, match=r"got 'lstn'\. Did you mean 'lstm'\?"):
            problems.get("sunspots", cell="lstn")
        with pytest.raises(ValueError, match=r"got 'wines'\. Did you mean 'wine'\?"):
            problems.get("softmax", dataset="wines")

    @pytest.mark.parametrize("name", ["mlp", "rnn", "skip_gram", "recommender"])
    def test_impossible_numbers_of_rows_are_refused(self, name):
        for rows in (0, 10_000_000):
            with pytest.raises(ValueError, match=r"`rows` must be from 1 to \d+, got"):
                problems.get(name, rows=rows)

    @pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
    @pytest.mark.parametrize("name", ["mlp", "rnn", "linear", "sunspots"])
    def test_impossible_shares_are_refused(self, name, share):
        with pytest.raises(ValueError, match="`held_out` must be at least 0 and below 1"):
            problems.get(name, held_out=share)

    @pytest.mark.parametrize("name", ["mlp", "cnn", "sunspots", "recommender"])
    def test_impossible_penalties_are_refused(self, name):
        with pytest.raises(ValueError, match="`l2` must be zero or positive and finite"):
            problems.get(name, l2=-1.0)

    @pytest.mark.parametrize(
        ("name", "options", "told"),
        [
            ("mlp", {"width": 0}, "`width` must be at least 1, got 0"),
            ("cnn", {"channels": 0}, "`channels` must be at least 1"),
            ("transformer", {"width": 5}, "`width` must be at least 2 and a multiple of 2"),
            ("transformer", {"heads": 0}, "`heads` must be at least 1"),
            ("rnn", {"length": 0}, "`length` must be at least 1"),
            ("sunspots", {"length": 200}, "`length` must be at most 154"),
            ("skip_gram", {"words": 10**6}, "`words` must be from 1 to"),
            ("recommender", {"topics": 500}, "`topics` must be from 1 to"),
            ("recommender", {"rank": -1}, "`rank` must be at least 0"),
            ("burgers", {"viscosity": 0.0}, "`viscosity` must be positive and finite"),
        ],
    )
    def test_impossible_sizes_are_refused(self, name, options, told):
        with pytest.raises(ValueError, match=told):
            problems.get(name, **options)

    def test_missing_statsmodels_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "statsmodels", None)
        monkeypatch.setitem(sys.modules, "statsmodels.datasets", None)
        monkeypatch.setitem(sys.modules, "statsmodels.datasets.sunspots", None)
        data.sunspots.cache_clear()
        with pytest.raises(ImportError, match=r'pip install "gradlab-jax\[experiments\]"'):
            problems.get("sunspots")

    def test_words_outside_the_vocabulary_are_refused(self):
        with pytest.raises(ValueError, match="`word` must be among the 3 most frequent"):
            embeddings.nearest_words(np.eye(3), "zebra")


def test_signatures_take_keywords_only():
    for name in SMALL:
        build = problems.registry._TABLE[name].build
        kinds = {parameter.kind for parameter in inspect.signature(build).parameters.values()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_cells_are_compiled_once_for_all_lengths_of_batch():
    assert recurrent._text_functions("rnn") is recurrent._text_functions("rnn")
