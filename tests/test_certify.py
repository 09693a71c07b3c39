import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import slowly

import gradlab as gl
from gradlab import _certify
from gradlab._certify_kind import Side, _falls_by_values, _heard
from gradlab.certificate import Kind

DTYPES = [jnp.float32, jnp.float64]


def valley(x):
    """Saddle at 0, minima at (±1, 0)."""
    return x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2


def monkey(x):
    return x[0] ** 3 - 3 * x[0] * x[1] ** 2


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def singular(x):
    return (x[0] + 2 * x[1] - 3) ** 2 + 0.7


CASES = {
    "minimum": (valley, [1.0, 0.0], Kind.MINIMUM),
    "saddle": (valley, [0.0, 0.0], Kind.SADDLE),
    "saddle of third order": (monkey, [0.0, 0.0], Kind.SADDLE),
    "inflection": (lambda x: x[0] ** 3 + (x[1] - 1) ** 2, [0.0, 1.0], Kind.SADDLE),
    "maximum": (lambda x: -jnp.sum(x**2), [0.0, 0.0], Kind.MAXIMUM),
    "top of a cosine": (lambda x: jnp.sum(jnp.cos(x)), [0.0, 0.0], Kind.MAXIMUM),
    "slope": (lambda x: jnp.sum(x**2), [1.0, 2.0], Kind.SLOPE),
    "straight slope": (jnp.sum, [1.0, 2.0], Kind.SLOPE),
    "in a valley": (rosenbrock, [0.5, 0.25], Kind.SLOPE),
    "end of a valley": (rosenbrock, [1.0, 1.0], Kind.MINIMUM),
    "fourth order": (lambda x: jnp.sum((x - 1) ** 4), [1.0, 1.0], Kind.MINIMUM),
    "line of minima": (singular, [1.0, 1.0], Kind.MINIMUM),
    "constant": (lambda x: 0 * x[0] + 3.0, [1.0, 2.0], Kind.FLAT),
    "dead unit": (lambda x: jnp.maximum(0, jnp.sum(x**2) - 1) ** 2, [0.1, 0.1], Kind.FLAT),
    "bottomless": (lambda x: jnp.log(jnp.sum(x**2) - 2), [1.0, 1.0], Kind.UNBOUNDED),
    "outside the domain": (lambda x: jnp.log(x[0]) + x[1], [-1.0, 1.0], Kind.NOT_FINITE),
}


@functools.cache
def certificates(dtype):
    """Certify every case, in the loss's own units and two others, by one program."""
    losses = [loss for loss, _, _ in CASES.values()]

    def loss(x, which, scale):
        return scale * jax.lax.switch(which, losses, x)

    def certified(x, which, scale):
        return gl.certify(loss, x, args=(which, scale))

    points = jnp.array([x for _, x, _ in CASES.values()], dtype)
    over_cases = jax.vmap(certified, in_axes=(0, 0, None))
    over_scales = jax.jit(jax.vmap(over_cases, in_axes=(None, None, 0)))
    scales = jnp.array([1.0, 2.0**-30, 2.0**30], dtype)
    found = jax.device_get(over_scales(points, jnp.arange(len(CASES)), scales))
    return {
        name: [jax.tree.map(lambda v: v[i, j], found) for i in range(3)]  # noqa: B023
        for j, name in enumerate(CASES)
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_point_is_named_whatever_the_units_of_the_loss(name, dtype):
    kind = CASES[name][2]
    for certificate in certificates(dtype)[name]:
        assert Kind(int(certificate.kind)) == kind
        assert bool(certificate.is_minimum) == (kind in (Kind.MINIMUM, Kind.AT_NOISE))
        assert certificate.message.startswith(kind.name)
        assert kind.name in repr(certificate)


def test_a_dip_below_the_noise_of_a_large_constant_is_told():
    certificate = gl.certify(lambda x: 1e4 + 1e-9 * jnp.sum((x - 1) ** 2), jnp.ones(2))
    assert certificate.kind == Kind.AT_NOISE


def test_the_noise_given_is_believed():
    loss, x = CASES["saddle"][:2]
    assert gl.certify(loss, jnp.array(x), noise=1.0).kind == Kind.FLAT


def test_curvatures_and_decrement_are_those_of_the_dense_hessian():
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    eigenvalues = np.linspace(0.5, 20, 12)
    matrix, shift = (q * eigenvalues) @ q.T, rng.normal(size=12)
    x = rng.normal(size=12)
    certificate = gl.certify(
        lambda x: 0.5 * (x - shift) @ jnp.asarray(matrix) @ (x - shift), jnp.asarray(x)
    )
    np.testing.assert_allclose(certificate.curvature, 0.5, rtol=1e-9)
    np.testing.assert_allclose(certificate.stiffness, 20.0, rtol=1e-9)
    exact = 0.5 * (x - shift) @ matrix @ (x - shift)
    np.testing.assert_allclose(certificate.decrement, exact, rtol=1e-2)
    np.testing.assert_allclose(
        certificate.grad_norm, np.max(np.abs(matrix @ (x - shift))), rtol=1e-12
    )


def test_a_saddle_hidden_among_many_directions_is_found():
    curvatures = jnp.ones(200).at[77].set(-0.05)
    certificate = gl.certify(
        lambda p: jnp.sum(curvatures * p["w"] ** 2) + jnp.sum(p["w"] ** 4),
        {"w": jnp.zeros(200)},
    )
    assert certificate.kind == Kind.SADDLE
    np.testing.assert_allclose(certificate.curvature, -0.1, rtol=1e-6)


def test_the_cost_claimed_is_the_cost_paid():
    calls = []

    def loss(x):
        jax.debug.callback(lambda: calls.append("f"))
        return rosenbrock(x)

    certificate = gl.certify(loss, jnp.full(4, 0.9))
    jax.effects_barrier()
    # One gradient, which is the first loss too, and one pass to make the products from.
    assert certificate.nfev <= len(calls) <= certificate.nfev + 1
    assert 4 <= certificate.nhvp <= 12


def test_a_batch_of_points_is_one_program():
    points = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    batch = jax.jit(jax.vmap(lambda x: gl.certify(valley, x)))(points)
    assert list(map(Kind, batch.kind.tolist())) == [
        Kind.SADDLE,
        Kind.MINIMUM,
        Kind.SLOPE,
    ]
    assert [m.split(":")[0] for m in batch.message] == ["SADDLE", "MINIMUM", "SLOPE"]
    assert "batch of shape (3,)" in repr(batch)


def test_data_and_structured_parameters_are_passed_on():
    params = {"w": jnp.zeros(2), "b": (jnp.array(2.0),)}
    certificate = gl.certify(
        lambda p, t: jnp.sum(p["w"] ** 2) + (p["b"][0] - t) ** 2, params, args=(2.0,)
    )
    assert certificate.kind == Kind.MINIMUM


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"x": jnp.arange(2)}, TypeError, "floating"),
        ({"loss": lambda x: x}, TypeError, "scalar"),
        ({"loss": 3}, TypeError, "loss"),
        ({"args": [1]}, TypeError, "tuple"),
        ({"noise": -1.0}, ValueError, "noise"),
        ({"length": -1.0}, ValueError, "length"),
    ],
)
def test_mistakes_are_explained(change, error, says):
    given = {"loss": valley, "x": jnp.zeros(2), **change}
    with pytest.raises(error, match=says):
        gl.certify(**given)


# --- what a result says of its answer


@pytest.mark.parametrize("method", ["gd", "lbfgs"])
def test_a_first_order_run_that_rests_on_a_saddle_is_no_success(method):
    result = gl.minimize(valley, jnp.array([0.0, 1.0]), method, max_steps=2000)
    assert not result.success
    assert result.certificate.kind in (Kind.SADDLE, Kind.NOT_EXAMINED)


def test_a_success_carries_its_certificate():
    result = gl.minimize(valley, jnp.array([0.5, 1.0]), "lbfgs")
    assert result.success
    assert result.certificate.kind == Kind.MINIMUM
    np.testing.assert_allclose(result.certificate.curvature, 2.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "scale", "method"),
    [
        ("meyer", 10, "newton_cg"),
        ("meyer", 10, "lbfgs"),
        ("meyer", 100, "lbfgs"),
        ("osborne_1", 10, "lbfgs"),
        ("biggs_exp6", 1, "lbfgs"),
    ],
)
def test_runs_that_end_in_a_valley_or_on_a_saddle_claim_no_success(name, scale, method):
    # Variables from 1e-3 to 1e6: the gradient is small beside the first one and beside the
    # rounding of the largest curvature, and far from small for the variable it belongs to.
    # The saddle is published as a minimum of Biggs' function.
    problem = gl.problems.get(name)
    result = gl.minimize(problem.loss, scale * problem.init(), method, args=problem.args)
    at_minimum = abs(result.fun - problem.minimum) <= 1e-8 * max(abs(result.fun), 1)
    assert at_minimum or not result.success


@pytest.mark.parametrize(
    ("name", "options", "scale"),
    slowly(("osborne_1", {}, 1), ("chebyquad", {"n": 8}, 10), ("box_3d", {}, 100)),
)
def test_float32_runs_from_far_claim_no_success_short_of_the_minimum(name, options, scale):
    # From so far that the first gradient is 10²⁰ times the last, or where the method's own
    # model promises nothing although the Hessian does.
    problem = gl.problems.get(name, dtype=jnp.float32, **options)
    loss, args = problem.loss, problem.args
    result = gl.minimize(loss, scale * problem.init(), "lbfgs", args=args)
    exact = gl.problems.get(name, dtype=jnp.float64, **options)
    value = exact.loss(result.x.astype(jnp.float64), *exact.args)
    close = abs(value - exact.minimum) <= 1e-5 * max(1, abs(exact.minimum))
    gradient = jnp.max(jnp.abs(jax.grad(exact.loss)(result.x.astype(jnp.float64), *exact.args)))
    assert result.x.dtype == jnp.float32
    assert not result.success or close or gradient <= 1e-5


def test_a_slope_too_slight_for_the_values_is_no_minimum():
    """Curvature is lost along x₀ = x₁, and 0.1 of a length there is 20 times the noise."""

    def loss(x):
        return 1 + 1e3 * (x[0] - x[1]) ** 2 - 1e-4 * (x[0] + x[1])

    point = jnp.full(2, 1e-6, jnp.float32)
    assert gl.certify(loss, point, length=1.0).kind == Kind.SLOPE
    assert gl.certify(lambda x: loss(x) + 1e-4 * jnp.sum(x), point, length=1.0).is_minimum


def test_a_gradient_clear_entry_by_entry_is_heard_though_no_eigenvector_hears_it():
    # An entry is 29 times what rounding the point makes of it; along each eigenvector the
    # roundings of all entries add up, to more.
    point = [-0.00051253, 0.99889368, 0.025649, 0.19902356, 0.22789739, 0.07131298]
    point += [-0.08092697, -0.07226894, 0.18670619]  # where L-BFGS once ended
    watson = gl.problems.get("watson", n=9, dtype=jnp.float32)
    found = gl.certify(watson.loss, jnp.asarray(point, jnp.float32), args=watson.args)
    assert found.kind in (Kind.SLOPE, Kind.NOT_STATIONARY)


def test_negative_curvature_is_no_minimum_where_the_point_still_slopes():
    # The slope is nothing beside what the loss does a length away, so the point passes for
    # stationary; along its slope the loss falls faster than that, as curvature says.
    def loss(x):
        return x[0] ** 8 - 0.4 * x[0] ** 2 + 0.07 * x[0] + 40 * x[1] ** 2

    certificate = gl.certify(loss, jnp.zeros(2), length=160.0)
    assert certificate.kind == Kind.SADDLE


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_variable_that_does_not_matter_at_the_point_promises_nothing(dtype):
    def loss(x):
        return (x[0] - 1) ** 2 + 0.3 + 1e-30 * x[1]

    certificate = gl.certify(loss, jnp.array([1.0, 60.0], dtype))
    assert certificate.kind in (Kind.MINIMUM, Kind.AT_NOISE)
    assert certificate.decrement <= certificate.noise


def test_negative_curvature_beyond_doubt_is_a_saddle_though_far_away_all_rises():
    certificate = gl.certify(lambda x: x[0] ** 4 - 1e-3 * x[0] ** 2 + x[1] ** 2, jnp.zeros(2))
    assert certificate.kind == Kind.SADDLE


def test_what_is_promised_does_not_depend_on_the_units_of_the_variables():
    """Beside 1e20 the curvatures 3600 and 0.01 are rounding, but not for their variables."""

    def loss(x):
        return 0.5e20 * x[0] ** 2 + jnp.exp(60 * (1 - x[1])) + 0.005 * x[2] ** 2

    certificate = gl.certify(loss, jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(certificate.decrement, 60**2 / (2 * 3600), rtol=1e-12)


@pytest.mark.parametrize("method", ["newton", "newton_cg", "lbfgs"])
def test_a_program_that_wants_the_answer_alone_has_no_certificate_in_it(method):
    def cost(wanted):
        def run(x0):
            result = gl.minimize(lambda x: jnp.sum((x - 3) ** 4), x0, method, trace=None)
            return getattr(result, wanted)

        return jax.jit(run).lower(jnp.zeros(3)).compile().cost_analysis()["flops"]

    # Five lengths along nine directions on both sides, nine operations a loss at least:
    # nothing but the certificate asks for them.
    assert cost("success") - cost("x") > 5 * 9 * 2 * 9


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.slow
def test_the_very_minimum_of_residuals_that_cancel_is_a_minimum(dtype):
    # There the loss is rounding alone, 1e-31 in float64, and another compiled copy of it gives
    # another number: no direction leads down for that.
    problem = gl.problems.get("gulf", dtype=dtype)
    found = gl.certify(problem.loss, problem.minimizer, args=problem.args)
    assert found.is_minimum, found.message
    for method in ("newton", "newton_cg", "lbfgs"):
        result = gl.minimize(problem.loss, problem.minimizer, method, args=problem.args)
        assert result.success, (method, result.message)


def test_what_two_compiled_copies_of_a_loss_differ_by_counts_as_noise():
    # The copies are told apart by their trace; one of them errs by a millionth.
    traces = []

    def loss(x):
        traces.append(1)
        return jnp.sum(x**2) - (1e-6 if len(traces) > 1 else 0.0)

    found = _certify.examine(loss, jnp.zeros(2), None, jnp.asarray(1.0), smooth=False)
    assert len(traces) == 2
    assert found.noise == pytest.approx(1e-6)
    assert found.lowest >= 0
    assert found.nfev == 100


def test_values_must_fall_further_than_they_scatter():
    # Rows: 24 levels of scatter at the shortest lengths, a fall in proportion, a jump.
    changes = jnp.array(
        [[-50.0, -60, 12, -9, 15], [-1e6, -1e5, -1e4, -1e3, -1e2], [-99.0, -99, -99, -99, -99]]
    )
    heard = _heard(changes, jnp.ones(()))
    lower = jnp.sum(changes < -heard, axis=1) >= 2
    assert lower.tolist() == [False, True, True]


def test_a_point_that_rounding_lifts_above_its_neighbours_is_no_saddle():
    """As seen beside a solved fit of rank one in three variables: all falls are as deep."""
    ahead = jnp.array([[-3.888, -0.662, -4.301, -3.970, -4.405]]) * 1e-23
    behind = jnp.array([[-4.549, 0.083, -4.384, -4.632, -3.660]]) * 1e-23
    sides = (Side(ahead, jnp.zeros((1, 5))), Side(behind, jnp.zeros((1, 5))))
    assert not _falls_by_values(sides, jnp.asarray(5.5e-38))


def test_what_is_not_known_is_not_printed():
    result = gl.minimize(lambda x: jnp.sum(x**2), jnp.ones(2), "adam", max_steps=3)
    assert "NOT_EXAMINED" in repr(result.certificate)
    assert "nan" not in repr(result.certificate)


# --- constants, plateaus, directions between the axes --------------------------------------


@pytest.mark.parametrize("offset", [1.0, 100.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_does_not_hide_a_negative_curvature(offset, dtype):
    def saddle(x):
        return x[0] ** 2 / 2 - 0.005 * x[1] ** 2 + 0.0025 * x[1] ** 4 + offset

    def top(x):
        return offset - jnp.sum(x**2)

    # Beside 10⁶ float32 sees no change at all: flat, which is no success either.
    seen = {Kind.SADDLE, Kind.FLAT} if offset > 1e5 else {Kind.SADDLE}
    assert int(gl.certify(saddle, jnp.zeros(2, dtype)).kind) in seen
    assert not gl.certify(top, jnp.zeros(2, dtype)).is_minimum
    result = gl.minimize(saddle, jnp.array([1.0, 0.0], dtype), "lbfgs")
    assert not result.success


@pytest.mark.parametrize("n", [257, 1000])
def test_a_slight_negative_curvature_is_seen_in_float32_beside_a_loss_of_one(n):
    d = jnp.ones(n, jnp.float32).at[n // 3].set(-1e-3)
    certificate = gl.certify(lambda x: 1 + jnp.sum(d * x**2) / 2, jnp.zeros(n, jnp.float32))
    assert certificate.kind == Kind.SADDLE


def test_ripples_within_a_stated_noise_are_no_saddles():
    def rippled(x):
        return jnp.sum(x**2) + 1e-4 * jnp.sum(jnp.cos(300 * x))

    assert not gl.certify(rippled, jnp.zeros(2)).is_minimum
    for noise in (1e-3, 1e-2):
        assert gl.certify(lambda x: rippled(x) + 1.0, jnp.zeros(2), noise=noise).is_minimum


@pytest.mark.parametrize(
    ("offset", "dtype"), [(1.0, np.float32), (10.0, np.float32), (1e8, np.float64)]
)
def test_a_saddle_of_third_order_is_seen_beside_a_constant(offset, dtype):
    def monkey(x):
        return x[0] ** 3 - 3 * x[0] * x[1] ** 2 + offset

    assert gl.certify(monkey, jnp.zeros(2, dtype)).kind == Kind.SADDLE
    assert gl.certify(lambda x: x[0] ** 3 + offset, jnp.zeros(1, dtype)).kind == Kind.SADDLE


@pytest.mark.parametrize(
    ("loss", "n"),
    [
        (lambda x: x[0] ** 4 + x[1] ** 4 - 6 * x[0] ** 2 * x[1] ** 2, 2),
        (lambda x: x[0] * x[1] * x[2], 3),
        (lambda x: x[0] * x[1] * x[2] * x[3], 4),
    ],
)
def test_falls_between_the_axes_are_found(loss, n):
    assert gl.certify(loss, jnp.zeros(n)).kind == Kind.SADDLE


@pytest.mark.parametrize("power", [4, 6, 10])
@pytest.mark.parametrize("offset", [0.0, 1e-3])
def test_minima_of_high_order_are_no_plateaus(power, offset):
    certificate = gl.certify(lambda x: jnp.sum(x**power) + offset, jnp.zeros(2))
    assert certificate.is_minimum == (power < 10 or offset == 0)  # else lost in rounding
    if not certificate.is_minimum:
        assert certificate.kind == Kind.FLAT


@pytest.mark.slow
def test_steps_between_plateaus_are_never_minima(random):
    inputs, w = random.standard_normal((200, 3)), random.standard_normal(3)
    labels = inputs @ w > 0

    def wrong(v):
        return jnp.mean(jnp.where((inputs @ v > 0) == labels, 0.0, 1.0))

    for _ in range(5):
        assert not gl.certify(wrong, jnp.asarray(random.standard_normal(3))).is_minimum
    for x in (0.5, 2.5, 3.1, 3.9, 10.4, -2.4):
        for stairs in (jnp.floor, jnp.round):
            assert not gl.certify(lambda x, s=stairs: jnp.sum(s(x)), jnp.array([x])).is_minimum
    assert not gl.minimize(lambda x: jnp.sum(jnp.floor(x)), jnp.array([3.1]), "lbfgs").success


# --- directions without curvature ------------------------------------------------------------


def products(z):
    """A bowl in y, and in x products of three of its entries with random factors."""
    x, y = z["x"], z["y"]
    generator = np.random.default_rng(len(x))
    places = np.array([generator.choice(len(x), 3, replace=False) for _ in range(20)])
    factors = generator.standard_normal(20).astype(x.dtype)
    return jnp.sum((y - 1) ** 2) + jnp.sum(factors * jnp.prod(x[places], axis=1)) + 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 10, 300])
def test_falls_of_third_order_are_found_where_there_is_no_curvature(n, dtype):
    point = {"x": jnp.zeros(n, dtype), "y": jnp.ones(2, dtype)}
    certificate = gl.certify(products, point)
    assert certificate.kind == Kind.SADDLE
    assert certificate.nfev == 1 + 17 * 11


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_falls_of_third_order_are_found_in_any_units(unit):
    def loss(x):
        y = x[1:] / unit
        fall = (y[0] - 1) * (y[1] - 1) * (y[2] - 1)
        return 1e12 * (x[0] - 1) ** 2 + fall + jnp.sum((y[3:] - 1) ** 2) + 1

    point = jnp.concatenate([jnp.ones(1), jnp.full(12, unit)])
    assert gl.certify(loss, point).kind == Kind.SADDLE


def test_a_minimum_of_fourth_order_is_one_though_the_loss_falls_beyond():
    def loss(x):
        square = jnp.sum(x**2)
        return square**2 - 20 * square**3

    assert gl.certify(loss, jnp.zeros(12)).is_minimum


def test_a_fall_seen_only_far_away_is_no_plateau():
    """In float32, beside a constant, where a tenth of the variables' sizes shows nothing."""
    certificate = gl.certify(lambda x: 1 + jnp.prod(x), jnp.zeros(5, jnp.float32))
    assert certificate.kind == Kind.SADDLE
    assert certificate.lowest < -1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("method", "hidden"),
    slowly(
        ("lbfgs", (3, 3, 3)),
        ("lbfgs", (16, 16)),
        *(("newton_cg", hidden) for hidden in ((3, 3), (3, 3, 3), (16, 16))),
        quick=[("lbfgs", (16, 16)), ("newton_cg", (3, 3))],
    ),
)
def test_a_network_started_at_zero_claims_no_success(hidden, method, dtype, random):
    """Only its last bias has a gradient: the constant that fits best is a saddle."""
    sizes = (4, *hidden, 1)
    inputs = jnp.asarray(random.standard_normal((50, 4)), dtype)
    targets = jnp.sin(inputs @ jnp.array([1, -0.5, 0.3, 2], dtype)) + 0.3

    def loss(params):
        h = inputs
        for w, b in params[:-1]:
            h = jnp.tanh(h @ w + b[None, :])
        w, b = params[-1]
        return jnp.mean((h @ w + b[None, :] - targets[:, None]) ** 2)

    zeros = [
        (jnp.zeros((a, b), dtype), jnp.zeros(b, dtype)) for a, b in itertools.pairwise(sizes)
    ]
    result = gl.minimize(loss, zeros, method)
    assert result.fun == pytest.approx(float(jnp.var(targets)), rel=1e-5)
    assert result.status == gl.Status.STATIONARY_NOT_MINIMUM
    assert result.certificate.kind == Kind.SADDLE


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize(("rank", "n"), slowly((8, 10), (1, 3), (5, 40), (10, 300)))
def test_minima_of_redundant_models_are_minima(rank, n, offset, random):
    """Along directions that change no residual the values scatter, and are no falls."""
    factors = random.standard_normal((3 * n, rank)), random.standard_normal((rank, n))
    matrix = factors[0] @ factors[1]

    def loss(x, matrix, data):
        return jnp.sum((matrix @ x - data) ** 2)

    for shift in (0, 10, 1e4):
        truth = random.standard_normal(n) + shift
        outside = random.standard_normal(3 * n)
        orthogonal, _ = np.linalg.qr(factors[0])
        for _ in range(2):
            outside -= orthogonal @ (orthogonal.T @ outside)
        data = matrix @ truth + offset * outside
        fitted, *_ = np.linalg.lstsq(matrix, data, rcond=1e-10)
        for dtype in DTYPES:
            args = jnp.asarray(matrix, dtype), jnp.asarray(data, dtype)
            assert gl.certify(loss, jnp.asarray(fitted, dtype), args=args).is_minimum
            assert gl.minimize(loss, jnp.zeros(n, dtype), "newton", args=args).success
