"""Methods by name: options, schedules, and one battery for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_close, slowly

import gradlab as gl
from gradlab._tree import after
from gradlab.optimizers import first_order, learning_rate_schedule, make, schedules
from gradlab.optimizers.method import as_method
from gradlab.result import Status

RATES = {
    "gd": 0.1, "momentum": 0.02, "nesterov": 0.02, "adagrad": 0.5, "rmsprop": 0.01,
    "adam": 0.1, "adamw": 0.1, "nadam": 0.1, "lion": 0.02, "adahessian": 0.2, "sophia": 0.01,
}  # fmt: skip


def curved(p):
    """Strictly convex over a tree, not quadratic; its minimiser is w = 1, b = -1/2."""
    return jnp.sum(jnp.cosh(p["w"] - 1)) + jnp.cosh(2 * (p["b"] + 0.5))


def tuned(name):
    return make(name, learning_rate=RATES[name]) if name in RATES else make(name)


def start(dtype):
    return {"w": jnp.array([0.0, 2.5], dtype), "b": jnp.asarray(0.5, dtype)}


# Of each kind of loop: by gradients, by curvature, by a search.
ONE_OF_EACH_KIND = ("newton_cg", "adam", "lbfgs")
IN_THAT_ORDER = sorted(gl.methods(), key=lambda name: name not in ONE_OF_EACH_KIND)

# --- the battery ------------------------------------------------------------------------


@pytest.mark.parametrize("name", gl.methods())
def test_each_method_lowers_the_loss_and_gets_to_the_minimiser(name):
    result = gl.minimize(curved, start(jnp.float64), tuned(name), max_steps=400, gtol=1e-5)
    assert result.trace.loss[-1] < result.trace.loss[0]
    assert result.fun == np.min(result.trace.loss) or result.success
    assert_near_the_minimiser(name, result.x)
    assert_close(result.fun, curved(result.x), factor=4)


def assert_near_the_minimiser(name, x):
    # Signs and decays hold lion, rmsprop, adamw and sophia a little off the minimiser.
    near = {"lion": 0.03, "rmsprop": 0.02, "sophia": 0.01, "adamw": 0.01, "adagrad": 0.01}.get(
        name, 2e-3
    )
    assert np.max(np.abs(x["w"] - 1)) < near
    assert abs(x["b"] + 0.5) < near


@pytest.mark.parametrize("name", slowly(*IN_THAT_ORDER, quick=ONE_OF_EACH_KIND))
def test_each_method_keeps_float32_under_jit_and_vmap_and_stays_at_a_minimiser(name):
    method, minimiser = tuned(name), {"w": jnp.ones(2), "b": -0.5 * jnp.ones(())}

    @jax.jit
    @jax.vmap
    def run(x):
        return gl.minimize(curved, x, method, max_steps=400, gtol=1e-4)

    starts = jax.tree.map(lambda a, b: jnp.stack([a, b]).astype(jnp.float32),
                          start(jnp.float32), minimiser)  # fmt: skip
    both = run(starts)
    leaves = jax.tree.leaves((both.x, both.grad, both.fun, both.trace.loss))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert_near_the_minimiser(name, jax.tree.map(lambda x: x[0], both.x))
    assert both.status[1] == Status.CONVERGED_GRADIENT
    assert both.nit[1] == 0
    assert_close(jax.tree.map(lambda x: x[1], both.x), minimiser, factor=0)


# --- names and options --------------------------------------------------------------------


def test_the_methods_are_listed_in_order_and_each_can_be_made():
    names = gl.methods()
    assert names == sorted(names)
    assert {"gd", "adam", "lbfgs", "newton", "newton_cg"} <= set(names)
    for name in names:
        method = make(name)
        assert method.name == method.label == name
        assert method.takes_learning_rate == (name in RATES)
        assert not method.tuned


def test_adam_by_name_is_optaxs_adam():
    ours = gl.minimize(curved, start(jnp.float64), make("adam", learning_rate=0.3), max_steps=7)
    theirs = gl.minimize(curved, start(jnp.float64), optax.adam(0.3), max_steps=7)
    assert_close(ours.x, theirs.x)
    transformation, params = optax.adam(0.3), start(jnp.float64)
    state = transformation.init(params)
    for _ in range(7):
        updates, state = transformation.update(jax.grad(curved)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(theirs.trace.loss[-1], curved(params))


def test_unknown_names_and_options_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"`method` must be one of .*got 'newtn'.*'newton'\?"):
        make("newtn")
    with pytest.raises(
        TypeError, match=r"method 'gd' has no option 'learning_rat'.*'learning_"
    ):
        make("gd", learning_rat=0.1)
    with pytest.raises(TypeError, match=r"method 'newton' has no option 'learning_rate'"):
        make("newton", learning_rate=0.1)
    with pytest.raises(
        ValueError, match=r"`schedule` must be one of .*got 'cosin'.*'cosine'\?"
    ):
        make("gd", schedule="cosin", num_steps=3)
    with pytest.raises(TypeError, match="takes a number as `learning_rate`"):
        make("gd", learning_rate=lambda k: 0.1, schedule="cosine", num_steps=3)
    assert dict(make("gd", schedule="cosine", num_steps=100.0).static)["num_steps"] == 100
    with pytest.raises(TypeError, match="`schedule` and `num_steps` come together"):
        make("gd", schedule="cosine")


def test_numbers_are_traced_and_flags_shape_the_code():
    method = make("adam", learning_rate=0.1, b1=0.8, nesterov=True)
    assert method.hyperparams == {"learning_rate": 0.1, "b1": 0.8}
    assert dict(method.static) == {"nesterov": True}
    assert method.tuned
    assert method == make("adam", learning_rate=0.7, b1=0.1, nesterov=True)
    assert hash(method) == hash(make("adam", learning_rate=0.7, b1=0.1, nesterov=True))
    assert method != make("adam", learning_rate=0.1, b1=0.8, nesterov=False)
    assert make("gd", learning_rate=1).hyperparams == {"learning_rate": 1.0}


def test_what_minimize_accepts_becomes_a_method():
    assert as_method("gd") == make("gd")
    method = make("gd")
    assert as_method(method) is method
    given = optax.sgd(0.1)
    assert as_method(given) == as_method(given)
    assert as_method(given) == as_method(optax.sgd(0.1))
    assert as_method(given) != as_method(optax.sgd(0.2))


def test_other_optax_transformations_run_as_they_are():
    for transformation in (optax.adabelief(0.1), optax.sgd(0.1), optax.chain(optax.clip(1.0),
                           optax.adam(optax.cosine_decay_schedule(0.3, 20)))):  # fmt: skip
        result = gl.minimize(curved, start(jnp.float64), transformation, max_steps=20)
        assert result.fun < curved(start(jnp.float64))


def test_newtons_noise_is_an_option_of_the_method_and_of_the_run():
    def noisy(x):
        return jnp.sum((x - 1) ** 2) + 1e-5 * jnp.sum(jnp.sin(1e4 * x))

    for method, options in ((make("newton", noise=1e-3), {}), ("newton", {"noise": 1e-3})):
        result = gl.minimize(noisy, jnp.full(2, 3.0), method, max_steps=5, **options)
        assert result.nit <= 5


# --- sweeps -------------------------------------------------------------------------------


def test_a_sweep_of_learning_rates_traces_once_and_equals_single_runs():
    traces = []

    def loss(x):
        traces.append(1)
        return jnp.sum(jnp.cosh(x - 1))

    def run(rate):
        return gl.minimize(loss, jnp.zeros(2), make("adam", learning_rate=rate), max_steps=5).x

    rates = jnp.array([0.01, 0.1, 0.5])
    sweep = jax.jit(jax.vmap(run))
    together = sweep(rates)
    first = len(traces)
    sweep(2 * rates)
    assert len(traces) == first
    singles = [run(rate) for rate in rates]
    assert_close(together, jnp.stack(singles), factor=1e3)
    after_singles = len(traces)
    run(jnp.asarray(0.3))
    assert len(traces) == after_singles


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_rate_of_another_dtype_does_not_change_the_parameters(dtype):
    for rate in (0.1, np.float64(0.1), np.float32(0.1), jnp.asarray(0.1)):
        method = make("gd", learning_rate=rate)
        result = gl.minimize(lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(2, dtype), method,
                             max_steps=2)  # fmt: skip
        assert result.x.dtype == result.fun.dtype == dtype


# --- schedules ----------------------------------------------------------------------------


def test_schedules_start_and_end_where_they_say():
    first_last = {
        "constant": (1.0, 1.0), "linear": (1.0, 0.0), "cosine": (1.0, 0.0),
        "exponential": (1.0, 1e-3), "warmup_cosine": (0.0, 0.0),
    }  # fmt: skip
    assert schedules() == sorted(first_last)
    for name, (first, last) in first_last.items():
        rate = learning_rate_schedule(name, 0.5, num_steps=40)
        assert_close(rate(0), 0.5 * first, scale=1.0)
        for beyond in (40, 1000):
            assert_close(rate(beyond), 0.5 * last, scale=1.0)
        values = np.array([float(rate(k)) for k in range(41)])
        assert np.all(values <= 0.5 * (1 + 1e-12))
        falling = values[4:] if name == "warmup_cosine" else values
        assert np.all(np.diff(falling) <= 1e-12)
    assert_close(learning_rate_schedule("warmup_cosine", 0.5, num_steps=40)(4), 0.5)
    assert_close(learning_rate_schedule("cosine", 2.0, num_steps=40)(20), 1.0)
    assert_close(learning_rate_schedule("exponential", 1.0, num_steps=2)(1), 10**-1.5)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, float("nan"), float("inf"), "ten"])
def test_a_schedule_has_a_positive_number_of_steps(steps):
    with pytest.raises(ValueError, match="`num_steps` must be a whole number ≥ 1, got"):
        learning_rate_schedule("cosine", 0.1, steps)


def test_a_run_follows_its_schedule_and_sweeps_over_its_peak():
    # On a linear loss of slope 1 each step is the learning rate itself.
    def slope(x):
        return jnp.sum(x)

    method = make("gd", learning_rate=0.4, schedule="linear", num_steps=4)
    result = gl.minimize(slope, jnp.zeros(1), method, max_steps=4, trace="params")
    assert_close(-np.diff(result.trace.params[:, 0]), np.array([0.4, 0.3, 0.2, 0.1]))

    def final(peak):
        method = make("gd", learning_rate=peak, schedule="linear", num_steps=4)
        return gl.minimize(slope, jnp.zeros(1), method, max_steps=4).fun

    assert_close(jax.jit(jax.vmap(final))(jnp.array([0.4, 0.8])), np.array([-1.0, -2.0]))


def test_optaxs_own_schedules_pass_as_learning_rates():
    rate = optax.linear_schedule(0.4, 0.0, 4)
    result = gl.minimize(lambda x: jnp.sum(x), jnp.zeros(1), make("gd", learning_rate=rate),
                         max_steps=4, trace="params")  # fmt: skip
    # optax counts in float32
    steps = -np.diff(result.trace.params[:, 0])
    assert_close(steps, np.array([0.4, 0.3, 0.2, 0.1]), factor=1e9)


# --- decompositions ---------------------------------------------------------------------

DECOMPOSITIONS = {
    "cholesky",
    "eig",
    "eigh",
    "geqrf",
    "lu",
    "qr",
    "schur",
    "svd",
    "triangular_solve",
}


def programs_within(equation):
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def side_by_side(program):
    """Pairs of decompositions that a compiler may run at once, and whether there are any."""
    found, known, pairs = [], {}, []
    for index, equation in enumerate(program.eqns):
        variables = [v for v in equation.invars if not hasattr(v, "val")]  # no literals
        before = set().union(*(known.get(v, ()) for v in variables))
        inner = [side_by_side(part) for part in programs_within(equation)]
        pairs += [pair for within, _ in inner for pair in within]
        if equation.primitive.name in DECOMPOSITIONS or any(holds for _, holds in inner):
            names = [(program.eqns[k].primitive.name, equation.primitive.name) for k in found]
            pairs += [name for k, name in zip(found, names, strict=True) if k not in before]
            found.append(index)
            before = before | {index}
        known |= dict.fromkeys(equation.outvars, before)
        if "qr" in (equation.primitive.name, equation.params.get("name")):
            basis, *factor = equation.outvars
            if factor and type(basis).__name__ != "DropVar":  # R is there before Q
                known[factor[0]] = before - {index}
    return pairs, bool(found)


def test_two_decompositions_side_by_side_are_noticed():
    def both(x):
        return jnp.linalg.eigvalsh(x), jnp.linalg.cholesky(x)

    def ordered(x):
        values = jnp.linalg.eigvalsh(x)
        return values, jnp.linalg.cholesky(after(values, x))

    def early(x):
        basis, factor = jnp.linalg.qr(x)
        return basis, jnp.linalg.eigvalsh(factor)

    assert len(side_by_side(jax.make_jaxpr(both)(jnp.eye(2)).jaxpr)[0]) == 1
    assert len(side_by_side(jax.make_jaxpr(early)(jnp.eye(2)).jaxpr)[0]) == 1
    assert side_by_side(jax.make_jaxpr(ordered)(jnp.eye(2)).jaxpr) == ([], True)


@pytest.mark.parametrize("name", sorted(set(gl.methods()) - set(first_order.FACTORIES)))
def test_no_batch_of_decompositions_waits_for_the_threads_of_another(name):
    # On two cores XLA's LAPACK kernels for batches, run side by side, wait for ever.
    def lane(x0):
        return gl.minimize(lambda x: jnp.sum(jnp.cosh(x - 1)), x0, tuned(name), max_steps=3)

    traced = jax.make_jaxpr(jax.vmap(lane))(jnp.ones((2, 3)))
    assert side_by_side(traced.jaxpr)[0] == []


@pytest.mark.parametrize("estimate", [gl.curvature.trace, gl.curvature.diagonal])
def test_nor_does_any_of_an_estimate_of_curvature(estimate):
    def lane(key):
        method = "xtrace" if estimate is gl.curvature.trace else "xdiag"
        return estimate(lambda v: v, jnp.ones(9), key=key, method=method, num_products=6)

    traced = jax.make_jaxpr(jax.vmap(lane))(jax.random.split(jax.random.key(0), 2))
    pairs, holds = side_by_side(traced.jaxpr)
    assert holds
    assert pairs == []


@pytest.mark.parametrize("name", ["levenberg_marquardt", "gauss_newton", "dogleg", "newton"])
def test_nor_does_any_of_a_fit(name):
    def lane(x0):
        return gl.least_squares(lambda x: jnp.array([x[0] - 1, x[1] ** 2]), x0, name)

    traced = jax.make_jaxpr(jax.vmap(lane))(jnp.ones((2, 2)))
    pairs, holds = side_by_side(traced.jaxpr)
    assert holds
    assert pairs == []
