"""Second order for models and minibatches: against dense solves, closed forms and laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_close, follow

import gradlab as gl
from gradlab.optimizers import minibatches
from gradlab.optimizers.diagonal import adahessian, sophia
from gradlab.result import Status

RNG = np.random.default_rng(3)
ROWS, WIDTH, CLASSES = 24, 4, 3
INPUTS = jnp.asarray(RNG.normal(size=(ROWS, WIDTH)))
TARGETS = jnp.asarray(RNG.normal(size=ROWS))
LABELS = jnp.asarray(RNG.integers(0, CLASSES, ROWS))


def linear(w, inputs=INPUTS, targets=None):
    return inputs @ w


def squares(z, inputs=INPUTS, targets=TARGETS):
    return jnp.mean((z - targets) ** 2) / 2


def network(params, inputs=INPUTS, labels=None):
    hidden = jnp.tanh(inputs @ params["in"] + params["shift"][None])
    return hidden @ params["out"]


def entropy(z, inputs=INPUTS, labels=LABELS):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], 1))


def weights(seed=0, dtype=jnp.float64):
    random = np.random.default_rng(seed)
    shapes = {"in": (WIDTH, 5), "shift": (5,), "out": (5, CLASSES)}
    return {k: jnp.asarray(random.normal(size=s), dtype) for k, s in shapes.items()}


def total(params, inputs=INPUTS, labels=LABELS):
    return entropy(network(params, inputs), inputs, labels)


def one_update(method, fun, params, state=None, **extra):
    """Updates and the next state, compiled."""

    @jax.jit
    def update(params, state):
        value, grad = jax.value_and_grad(fun)(params)
        return method.update(grad, state, params, value=value, grad=grad, value_fn=fun, **extra)

    return update(params, method.init(params) if state is None else state)


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def gauss_newton_matrix(params):
    """Gauss-Newton matrix, gradient and outputs' Jacobian of the network, by jax alone."""
    x, unravel = jax.flatten_util.ravel_pytree(params)
    jacobian = jax.jacobian(lambda x: network(unravel(x)).ravel())(x)
    z = network(params).ravel()
    hessian = jax.hessian(lambda z: entropy(z.reshape(ROWS, CLASSES)))(z)
    return np.asarray(jacobian.T @ hessian @ jacobian), flat(jax.grad(total)(params))


def relative_shift(matrix, vector):
    return vector @ matrix @ vector / (vector @ vector)


# --- the natural gradient -------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["cg", "kernel"])
def test_on_a_linear_gaussian_model_it_is_the_newton_step(solver):
    few = slice(0, WIDTH) if solver == "kernel" else slice(None)  # full rank in either space
    x, y = INPUTS[few], TARGETS[few]
    method = gl.natural_gradient(
        linear, squares, damping=0.0, solver=solver, rtol=1e-14, args=(x, y)
    )

    def fun(w):
        return squares(linear(w, x), x, y)

    updates, state = one_update(method, fun, jnp.ones(WIDTH))
    hessian = np.asarray(jax.hessian(fun)(jnp.ones(WIDTH)))
    newton = -np.linalg.solve(hessian, np.asarray(jax.grad(fun)(jnp.ones(WIDTH))))
    assert_close(updates, newton, factor=1e6)
    assert state.count == 1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.slow
def test_the_kernel_trick_solves_the_same_system_as_the_parameter_space(rows, momentum):
    params, matrix_and_gradient = weights(), gauss_newton_matrix(weights())
    matrix, gradient = matrix_and_gradient
    last = jax.tree.map(lambda x: 0.1 * jnp.cos(x), params)
    found = {}
    for solver in ("cg", "kernel"):
        method = gl.natural_gradient(
            network, entropy, damping=0.1, momentum=momentum, solver=solver, rows=rows,
            rtol=1e-13, max_products=200,
        )  # fmt: skip
        state = method.init(params)._replace(direction=last)
        args = (INPUTS, LABELS)
        found[solver] = flat(one_update(method, total, params, state, args=args)[0])
    shift = 0.1 * relative_shift(matrix, gradient)
    before = momentum * flat(last)
    solved = np.linalg.solve(matrix + shift * np.eye(len(gradient)), gradient - matrix @ before)
    assert_close(found["kernel"], -(before + solved), factor=1e5)
    assert_close(found["cg"], -(before + solved), factor=1e5)


def test_for_a_classifier_the_matrix_is_the_fisher_matrix():
    params = weights()
    fisher = gl.curvature.fisher_vp(network, "categorical", params)
    matrix, _ = gauss_newton_matrix(params)
    v = weights(1)
    assert_close(flat(fisher(v)), matrix @ flat(v), factor=1e4)


@pytest.mark.slow
def test_units_of_the_loss_cancel_in_the_natural_gradient():
    params = weights()
    for solver in ("cg", "kernel"):
        made = [
            one_update(
                gl.natural_gradient(
                    network, lambda z, s=s: s * entropy(z), solver=solver, damping=0.1
                ),
                lambda p, s=s: s * total(p), params,
            )[0]
            for s in (1.0, 1e-9, 1e9)
        ]  # fmt: skip
        for other in made[1:]:
            assert_close(other, made[0], factor=1e5)


def test_auto_takes_the_kernel_for_few_outputs_only():
    params = weights()  # 40 parameters, 72 outputs in all
    few = INPUTS[:8], LABELS[:8]

    def passes(data, rows):
        method = gl.natural_gradient(network, entropy, rows=rows)
        _, state = one_update(method, lambda p: total(p, *data), params, args=data)
        return np.asarray(state.calls)

    assert_close(passes(few, True), np.array([0, CLASSES, 0, 0]))
    assert_close(passes(few, False), np.array([0, 8 * CLASSES, 0, 0]))
    assert passes((INPUTS, LABELS), True)[2] > 0


def test_rows_of_a_model_that_returns_a_tree_are_refused():
    method = gl.natural_gradient(
        lambda p: {"z": linear(p)}, lambda z: squares(z["z"]), rows=True, solver="kernel"
    )
    with pytest.raises(TypeError, match="`model` must return one array of outputs"):
        one_update(method, lambda w: squares(linear(w)), jnp.ones(WIDTH))


def test_data_that_the_model_closes_over_have_no_rows():
    for method in (
        gl.natural_gradient(linear, squares, rows=True, solver="kernel"),
        gl.averaged_natural_gradient(linear, squares, 0.1),
    ):
        with pytest.raises(ValueError, match=r"24 rows of outputs and no of `args`.*Pass the"):
            one_update(method, lambda w: squares(linear(w)), jnp.ones(WIDTH))


# --- Gauss-Newton by conjugate gradients ------------------------------------------------------


def test_on_a_quadratic_one_step_is_the_exact_solution():
    method = gl.gauss_newton_cg(linear, squares, damping=0.0, rtol=1e-14)

    def fun(w):
        return squares(linear(w))

    updates, state = one_update(method, fun, jnp.ones(WIDTH))
    best = np.linalg.lstsq(np.asarray(INPUTS), np.asarray(TARGETS))[0]
    assert_close(1 + updates, best, factor=1e4)
    assert_close(state.value, fun(jnp.asarray(best)), factor=1e3)
    assert_close(state.ratio, 1.0, factor=1e4)
    assert not state.failed


def test_a_damped_step_solves_the_damped_system():
    params = weights()
    matrix, gradient = gauss_newton_matrix(params)
    method = gl.gauss_newton_cg(network, entropy, damping=0.5, rtol=1e-13, max_products=200)
    updates, state = one_update(method, total, params)
    shift = 0.5 * relative_shift(matrix, gradient)
    expected = -np.linalg.solve(matrix + shift * np.eye(len(gradient)), gradient)
    assert_close(flat(updates), expected, factor=1e6)
    decrease = -(gradient @ expected + expected @ matrix @ expected / 2)
    reached = total(optax.apply_updates(params, updates))
    assert_close(state.ratio, (total(params) - reached) / decrease, factor=1e6)


def test_damping_follows_how_well_the_model_foretold_the_loss():
    good = gl.gauss_newton_cg(linear, squares, damping=0.3)
    _, state = one_update(good, lambda w: squares(linear(w)), jnp.ones(WIDTH))
    assert_close(state.damping, 0.3 * 2 / 3)

    # |w|^1.2: Newton's step overshoots by five times the distance.
    bad = gl.gauss_newton_cg(lambda w: w, lambda z: jnp.sum(jnp.abs(z) ** 1.2), damping=0.01)
    _, state = one_update(bad, lambda w: jnp.sum(jnp.abs(w) ** 1.2), jnp.array([1.0, -4.0]))
    assert state.ratio < 0.25
    assert state.damping > 0.01


def test_a_refused_step_is_halved_and_hardens_the_damping():
    def loss(z):
        return jnp.sum(jnp.sqrt(1 + z**2))  # far out, Newton's step overshoots

    method = gl.gauss_newton_cg(lambda w: w, loss, damping=1e-3)
    updates, state = one_update(method, loss, jnp.array([5.0, -9.0]))
    assert loss(jnp.array([5.0, -9.0]) + updates) < loss(jnp.array([5.0, -9.0]))
    assert state.calls[0] > 1
    assert_close(state.damping, 4e-3)


@pytest.mark.slow
def test_minimize_trains_to_a_minimum_and_says_so():
    def penalty(p):
        return 1e-2 * sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

    # The parameters are outputs too: so the penalty is a part of the loss of the outputs.
    method = gl.gauss_newton_cg(
        lambda p: (network(p), p), lambda z: entropy(z[0]) + penalty(z[1]), rtol=1e-3
    )
    result = gl.minimize(lambda p: total(p) + penalty(p), weights(), method, max_steps=200)
    assert result.success, result.message
    assert np.max(np.abs(flat(result.grad))) < 1e-7
    assert gl.certify(lambda p: total(p) + penalty(p), result.x).kind == gl.Kind.MINIMUM


def test_it_is_an_optax_transformation_with_count_value_and_gradient():
    method = optax.chain(gl.gauss_newton_cg(network, entropy))
    points, states = follow(method, total, weights(), 3)
    losses = [float(total(p)) for p in points]
    assert losses == sorted(losses, reverse=True)
    assert_close(optax.tree.get(states[-1], "value"), total(points[-1]))
    assert_close(optax.tree.get(states[-1], "grad"), jax.grad(total)(points[-1]), factor=1e4)
    assert optax.tree.get(states[-1], "count") == 3


def test_nowhere_to_go_is_a_zero_update_and_failed():
    best = jnp.asarray(np.linalg.lstsq(np.asarray(INPUTS[:4]), np.asarray(TARGETS[:4]))[0])
    data = INPUTS[:4], TARGETS[:4]
    method = gl.gauss_newton_cg(linear, squares, args=data)

    def wall(w):
        return jnp.where(jnp.all(w == best), squares(linear(w, data[0]), *data), jnp.nan)

    updates, state = one_update(method, wall, best)
    assert state.failed
    assert np.all(updates == 0)
    assert state.count == 0


# --- diagonals --------------------------------------------------------------------------------


def test_on_a_diagonal_quadratic_adahessians_first_step_is_newtons():
    curvature = jnp.array([1.0, 4.0, 100.0])
    start = jnp.array([3.0, -1.0, 0.5])

    def fun(x):
        return 0.5 * jnp.sum(curvature * x**2)

    updates, state = one_update(adahessian(1.0, eps=0.0), fun, start)
    assert_close(updates, -start)
    assert_close(jnp.sqrt(state[0].square / (1 - 0.999)), curvature, factor=1e3)
    assert_close(state[0].calls, np.array([0, 0, 1, 0]))


def test_where_nothing_curves_adahessians_steps_are_as_long_as_the_rate_from_the_first():
    result = gl.minimize(
        lambda x: x @ jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3), adahessian(0.1), max_steps=20
    )
    np.testing.assert_allclose(result.trace.step_norm[1:], 0.1 * np.sqrt(3), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: adahessian(0.1, b1=1.0), "`b1` must be below 1"),
        (lambda: adahessian(0.1, b2=-1.0), "`b2` must be a number ≥ 0"),
        (
            lambda: gl.averaged_natural_gradient(jnp.sum, jnp.sum, 0.1, momentum=1.0),
            "`momentum` must be below 1",
        ),
        (
            lambda: gl.averaged_natural_gradient(jnp.sum, jnp.sum, 0.1, decay=1.5),
            "`decay` must be below 1",
        ),
    ],
)
def test_decays_that_never_forget_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_adahessians_estimate_is_hutchinsons_mean_over_draws(random):
    root = random.normal(size=(5, 5))
    matrix = jnp.asarray(root @ root.T)

    def fun(x):
        return 0.5 * x @ matrix @ x

    method = adahessian(1.0)

    def estimate(count):  # each update draws its own signs
        first, last = method.init(jnp.ones(5))
        state = (first._replace(count=count), last)
        _, state = method.update(jnp.ones(5), state, jnp.ones(5), value_fn=fun)
        return state[0].square / (1 - 0.999)

    squares_ = np.mean(jax.jit(jax.vmap(estimate))(jnp.arange(200)), axis=0)
    off = np.sum(np.asarray(matrix) ** 2, axis=1) - np.diag(matrix) ** 2
    expected = np.diag(matrix) ** 2 + off  # E[(u ∘ Hu)²] of random signs
    assert np.all(np.abs(squares_ / expected - 1) < 0.3)


def test_a_look_at_the_hessian_is_taken_every_few_updates_only():
    def fun(x):
        return jnp.sum(x**4)

    _, states = follow(adahessian(0.01, every=3), fun, jnp.array([1.0, 2.0]), 7)
    assert [int(state[0].calls[2]) for state in states] == [0, 1, 1, 1, 2, 2, 2, 3]
    _, states = follow(sophia(0.01, update_interval=3), fun, jnp.array([1.0, 2.0]), 7)
    assert [int(state.calls[2]) for state in states] == [0, 1, 1, 1, 2, 2, 2, 3]


def test_the_diagonal_of_a_kernel_is_averaged_over_its_axes(random):
    curvature = jnp.asarray(random.uniform(1, 5, size=(3, 2)))

    def fun(p):
        return 0.5 * jnp.sum(curvature * p["w"] ** 2) + jnp.sum(p["b"] ** 2)

    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    updates, _ = one_update(adahessian(1.0, eps=0.0, spatial_axes=(0,)), fun, params)
    means = np.mean(np.asarray(curvature), axis=0, keepdims=True)
    assert_close(updates["w"], -np.asarray(curvature) / means)
    assert_close(updates["b"], -np.ones(2))  # one axis: nothing to average


def test_sophia_is_optaxs_with_the_loss_as_its_objective():
    theirs = optax.contrib.sophia(
        0.05, update_interval=2,
        hessian_diagonal_fn=optax.contrib.hutchinson_estimator_diag_hessian(jax.random.key(0)),
    )  # fmt: skip
    params = weights()

    @jax.jit
    def step(point, state):
        updates, state = theirs.update(jax.grad(total)(point), state, point, obj_fn=total)
        return optax.apply_updates(point, updates), state

    state, point = theirs.init(params), params
    for _ in range(5):
        point, state = step(point, state)
    result = gl.minimize(total, params, sophia(0.05, update_interval=2), max_steps=5, gtol=0.0)
    assert_close(result.trace.loss[-1], total(point), factor=1e4)
    assert result.nhvp == 3


def test_what_was_evaluated_for_a_step_into_a_wall_counts():
    """Every trial takes one product, one loss and one gradient, whether or not it led on."""

    def wall(x):
        return jnp.sum(x - jnp.log(x))

    result = gl.minimize(wall, jnp.array([3.0]), adahessian(5.0), max_steps=5, gtol=0.0)
    trials = result.trace.nfev[-1] - 1
    assert trials > result.nit
    assert result.nhvp == trials


def test_methods_by_name_take_their_options():
    method = gl.make("adahessian", learning_rate=0.2, every=2, spatial_axes=(0, 1))
    assert method.hyperparams == {"learning_rate": 0.2}
    assert gl.make("sophia", schedule="cosine", num_steps=10).takes_learning_rate
    with pytest.raises(ValueError, match="`every` must be a whole number ≥ 1"):
        adahessian(0.1, every=0)
    with pytest.raises(ValueError, match="`update_interval` must be a whole number ≥ 1"):
        sophia(0.1, update_interval=0)


# --- minibatches ------------------------------------------------------------------------------


def regression(w, inputs, targets):
    return jnp.mean((inputs @ w - targets) ** 2)


EXACT = INPUTS @ jnp.arange(1.0, WIDTH + 1)


@pytest.mark.parametrize("method", ["adam", "adahessian", "newton_cg", "lbfgs"])
def test_any_method_runs_on_minibatches_of_data_that_fit_exactly(method):
    chosen = gl.make(method, learning_rate=0.1) if method.startswith("ada") else method
    result = gl.minimize(
        regression, jnp.zeros(WIDTH), chosen, args=(INPUTS, EXACT), max_steps=300,
        batches=minibatches(6, key=jax.random.key(1)), gtol=1e-4,
    )  # fmt: skip
    assert result.success
    assert np.max(np.abs(result.x - np.arange(1.0, WIDTH + 1))) < 1e-2
    assert_close(result.fun, regression(result.x, INPUTS, EXACT))


def test_a_recorded_step_is_one_pass_in_the_order_of_the_key():
    rate, size, key = 0.05, 7, jax.random.key(5)
    result = gl.minimize(
        regression, jnp.zeros(WIDTH), gl.make("gd", learning_rate=rate),
        args=(INPUTS, TARGETS), batches=minibatches(size, key=key), max_steps=2, gtol=0.0,
    )  # fmt: skip
    w = jnp.zeros(WIDTH)
    for e in range(2):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, e), ROWS))
        for k in range(ROWS // size):
            rows = order[k * size : (k + 1) * size]
            w = w - rate * jax.grad(regression)(w, INPUTS[rows], TARGETS[rows])
    assert_close(result.trace.loss[-1], regression(w, INPUTS, TARGETS))
    assert_close(result.nit, np.int32(2))
    # 42 of 48 rows are 1.75 evaluations of all, rounded; and there are those at three points.
    assert_close(result.ngev, np.int32(2 + 3))


def test_costs_are_counted_in_evaluations_of_all_rows():
    batches = minibatches(6, key=jax.random.key(0))
    result = gl.minimize(
        regression, jnp.zeros(WIDTH), gl.make("adahessian", learning_rate=1e-3),
        args=(INPUTS, TARGETS), batches=batches, max_steps=5, gtol=0.0,
    )  # fmt: skip
    assert (result.nfev, result.ngev, result.nhvp) == (11, 11, 5)


def test_curvature_and_acceptance_see_the_same_batch():
    seen = []

    def spy(w, inputs, targets):
        seen.append(inputs.shape)
        return regression(w, inputs, targets)

    method = gl.gauss_newton_cg(linear, lambda z, x, y: jnp.mean((z - y) ** 2))
    result = gl.minimize(
        spy, jnp.zeros(WIDTH), method, args=(INPUTS, EXACT),
        batches=minibatches(8, key=jax.random.key(0)), max_steps=20, gtol=1e-6,
    )  # fmt: skip
    assert result.success
    assert {(8, WIDTH), (ROWS, WIDTH)} == set(seen)


@pytest.mark.slow
def test_a_batch_of_all_rows_is_the_method_itself():
    data = INPUTS, LABELS
    alone = gl.minimize(
        total, weights(), gl.gauss_newton_cg(network, entropy), args=data, max_steps=4
    )
    whole = minibatches(ROWS, key=jax.random.key(0))
    on_batches = gl.minimize(
        total, weights(), gl.gauss_newton_cg(network, entropy), args=data, max_steps=4,
        batches=whole,
    )  # fmt: skip
    assert_close(on_batches.trace.loss[:5], alone.trace.loss[:5], factor=1e6)


def test_a_run_on_minibatches_goes_on_from_its_state():
    options = {"args": (INPUTS, TARGETS), "gtol": 0.0}
    batches = minibatches(5, key=jax.random.key(2), steps=3)
    run = functools.partial(
        gl.minimize, regression, method=gl.make("adam", learning_rate=0.01), batches=batches,
        **options,
    )  # fmt: skip
    whole = run(x0=jnp.zeros(WIDTH), max_steps=8)
    first = run(x0=jnp.zeros(WIDTH), max_steps=3)
    second = run(x0=first.x, max_steps=5, state=first.state)
    assert_close(second.trace.loss[-1], whole.trace.loss[-1])
    assert whole.state.count == 24


def test_new_data_and_keys_do_not_trace_again():
    traced = []

    def counted(w, inputs, targets):
        traced.append(1)
        return regression(w, inputs, targets)

    adam = gl.make("adam", learning_rate=0.01)
    for seed in range(3):
        data = INPUTS + seed, TARGETS
        gl.minimize(counted, jnp.zeros(WIDTH), adam, args=data, max_steps=2,
                    batches=minibatches(6, key=jax.random.key(seed)))  # fmt: skip
        if seed == 0:
            first = len(traced)
    assert len(traced) == first


@pytest.mark.slow
def test_rates_are_swept_by_vmap_on_minibatches():
    def final(rate):
        return gl.minimize(
            regression, jnp.zeros(WIDTH), gl.make("adam", learning_rate=rate),
            args=(INPUTS, EXACT), batches=minibatches(6, key=jax.random.key(0)), max_steps=4,
        ).fun  # fmt: skip

    rates = jnp.array([0.01, 0.1])
    together = jax.jit(jax.vmap(final))(rates)
    assert_close(together, jnp.stack([final(float(rate)) for rate in rates]), factor=1e4)


@pytest.mark.slow
def test_comparisons_and_sweeps_run_on_the_batches_of_single_runs():
    on_batches = {"args": (INPUTS, EXACT), "batches": minibatches(6, key=jax.random.key(0))}
    rates = [0.01, 0.1]
    alone = [
        gl.minimize(regression, jnp.zeros(WIDTH), gl.make("adam", learning_rate=rate),
                    max_steps=4, gtol=0.0, **on_batches)
        for rate in rates
    ]  # fmt: skip
    found = gl.sweep(regression, "adam", {"learning_rate": rates}, starts=jnp.zeros(WIDTH),
                     max_steps=4, gtol=0.0, **on_batches)  # fmt: skip
    for result, row in zip(alone, found.table, strict=True):
        assert row["loss"] == pytest.approx(float(result.fun), rel=1e-10)
        assert row["cost"] == pytest.approx(float(result.cost))
    compared = gl.compare(regression, "adam", starts=jnp.zeros(WIDTH), max_steps=4, gtol=0.0,
                          tune=rates, tuning_steps=4, **on_batches)  # fmt: skip
    (sweep,), (run,) = compared.sweeps, compared.runs
    np.testing.assert_allclose(sweep.losses, [float(r.fun) for r in alone], rtol=1e-10)
    best = min(alone, key=lambda result: result.fun)
    assert run.learning_rate == rates[1]
    assert float(run.result.fun) == pytest.approx(float(best.fun), rel=1e-10)
    with pytest.raises(TypeError, match=r"`batches` must be gradlab.minibatches"):
        gl.compare(
            regression, "newton", starts=jnp.zeros(WIDTH), args=(INPUTS, EXACT), batches=6
        )


@pytest.mark.slow
def test_float32_is_kept_in_every_leaf():
    data = jnp.asarray(INPUTS, jnp.float32), LABELS
    params = weights(dtype=jnp.float32)
    for method in (
        gl.natural_gradient(network, entropy, rows=True, momentum=0.5, damping=0.1),
        gl.natural_gradient(network, entropy, solver="cg", momentum=0.5),
        gl.gauss_newton_cg(network, entropy),
        adahessian(0.01),
        sophia(0.01),
    ):
        result = gl.minimize(
            total, params, method, args=data, max_steps=3,
            batches=minibatches(6, key=jax.random.key(0)),
        )  # fmt: skip
        leaves = jax.tree.leaves((result.x, result.grad, result.fun))
        assert all(leaf.dtype == jnp.float32 for leaf in leaves)
        assert result.fun < total(params, *data)


def test_held_leaves_stay_on_minibatches_and_models_are_told_apart():
    result = gl.minimize(
        total, weights(), gl.make("adam", learning_rate=0.01), args=(INPUTS, LABELS),
        batches=minibatches(6, key=jax.random.key(0)), max_steps=2,
        trainable={"in": True, "shift": True, "out": False},
    )  # fmt: skip
    assert_close(result.x["out"], weights()["out"], factor=0)
    with pytest.raises(ValueError, match="`trainable` cannot be used with a method that was"):
        gl.minimize(total, weights(), gl.gauss_newton_cg(network, entropy), trainable=True)


def test_wrong_batches_are_told_in_the_callers_words():
    run = functools.partial(gl.minimize, regression, jnp.zeros(WIDTH), "adam")
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`size` must be at most the number of rows 24"):
        run(args=(INPUTS, TARGETS), batches=minibatches(25, key=key))
    with pytest.raises(ValueError, match=r"one row for each sample.*\[4, 24\]"):
        run(args=(INPUTS, TARGETS[:4]), batches=minibatches(2, key=key))
    with pytest.raises(ValueError, match="`size` must be a whole number ≥ 1"):
        minibatches(0, key=key)
    with pytest.raises(TypeError, match="`key` must be a key of jax"):
        minibatches(4, key=0)
    with pytest.raises(TypeError, match=r"`batches` must be gradlab.minibatches"):
        run(args=(INPUTS, TARGETS), batches=4)


def test_wrong_options_are_told():
    with pytest.raises(TypeError, match="`model` must be a function"):
        gl.natural_gradient(3, squares)
    with pytest.raises(ValueError, match=r"`solver` must be one of .*'kernel'\?"):
        gl.natural_gradient(linear, squares, solver="kernal")
    with pytest.raises(ValueError, match="`momentum` must be below 1"):
        gl.natural_gradient(linear, squares, momentum=1.0)
    with pytest.raises(ValueError, match="`damping` must be a number ≥ 0"):
        gl.gauss_newton_cg(linear, squares, damping=-1.0)


def test_a_start_that_is_not_finite_is_no_success():
    method = gl.gauss_newton_cg(linear, squares)
    result = gl.minimize(
        lambda w: squares(linear(w)), jnp.full(WIDTH, jnp.nan), method, max_steps=3
    )
    assert result.status == Status.NONFINITE_START


# --- the averaged natural gradient --------------------------------------------------------


def test_the_first_averaged_step_solves_with_the_damped_matrix_of_all_outputs():
    params = weights()
    matrix, gradient = gauss_newton_matrix(params)
    method = gl.averaged_natural_gradient(
        network, entropy, 1e-3, samples=None, damping=0.2, ridge=0.01
    )
    updates, state = one_update(method, total, params, args=(INPUTS, LABELS))
    shift = 0.2 * np.trace(matrix) / len(gradient) + 0.01
    expected = np.linalg.solve(matrix + shift * np.eye(len(gradient)), gradient)
    assert_close(flat(updates), -1e-3 * expected, factor=1e6)
    assert_close(state.matrix / (1 - 0.9), matrix, factor=1e5)
    assert_close(state.calls, np.array([0, CLASSES, 0, 0]))


def test_sampled_matrices_have_the_fisher_matrix_as_their_mean():
    from gradlab.optimizers.averaged import _fisher_root

    params = weights()
    matrix, _ = gauss_newton_matrix(params)

    @jax.jit
    @jax.vmap
    def sample(seed):
        root = _fisher_root(network, entropy, params, (INPUTS, LABELS), 2, jax.random.key(seed))
        return root.T @ root

    mean = np.mean(sample(jnp.arange(400)), axis=0)
    assert np.linalg.norm(mean - matrix) < 0.1 * np.linalg.norm(matrix)


def test_a_step_expects_no_more_than_its_share_of_the_loss():
    params, share = weights(), 1e-4
    matrix, gradient = gauss_newton_matrix(params)
    method = gl.averaged_natural_gradient(
        network, entropy, 1.0, samples=None, damping=0.2, share=share
    )
    updates, _ = one_update(method, total, params, args=(INPUTS, LABELS))
    shift = 0.2 * np.trace(matrix) / len(gradient)
    step = flat(updates)
    foretold = step @ (matrix + shift * np.eye(len(step))) @ step
    assert_close(foretold, share * float(total(params)), factor=1e7)


def test_curvature_is_looked_at_every_few_updates_and_averaged():
    def fun(w):
        return squares(linear(w))

    method = gl.averaged_natural_gradient(
        linear, squares, 0.1, every=3, samples=None, args=(INPUTS, TARGETS)
    )
    _, states = follow(method, fun, jnp.ones(WIDTH), 7)
    assert [int(state.calls[1]) for state in states] == [0, 1, 1, 1, 2, 2, 2, 3]
    # Of a linear model all looks are the same, and their corrected mean is the Hessian.
    hessian = jax.hessian(fun)(jnp.ones(WIDTH))
    assert_close(states[-1].matrix / (1 - 0.9**3), hessian, factor=1e4)


def test_a_network_beyond_memory_is_refused():
    method = gl.averaged_natural_gradient(linear, squares, 0.1)
    with pytest.raises(ValueError, match=r"The Fisher matrix of 10000000 parameters .* GB"):
        jax.eval_shape(method.init, jnp.zeros(10**7))
