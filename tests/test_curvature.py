"""Curvature: products against dense matrices, estimates against truth, intervals that hold."""

import functools
import itertools

import jax
import jax.numpy as jnp
import matfree.decomp
import matfree.funm
import matfree.stochtrace
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree
from support import assert_close, slowly

from gradlab.derivatives import curvature
from gradlab.derivatives.curvature._intervals import interval, student
from gradlab.derivatives.curvature._krylov import lanczos
from gradlab.derivatives.curvature._leave_out import xdiag_terms, xtrace_terms
from gradlab.derivatives.curvature._operator import flat_operator
from gradlab.derivatives.curvature._trace import on_sphere

RANDOM = np.random.default_rng(3)
N = 120
# Eigenvalues of six kinds, from flat to one that dominates.
SPECTRA = {
    "flat": RANDOM.uniform(0.5, 1.5, N),
    "power law": np.arange(1, N + 1) ** -2.0,
    "slow decay": np.arange(1, N + 1) ** -1.0,
    "indefinite": RANDOM.normal(size=N),
    "dominant": np.append(RANDOM.uniform(0, 1, N - 1), 100.0),
    "network": np.append(RANDOM.normal(size=N - 5) * 0.3, [50.0, 30.0, 10.0, 8.0, 5.0]),
}
BASIS = np.linalg.qr(RANDOM.normal(size=(N, N)))[0]


def matrix(name, dtype=jnp.float64):
    return jnp.asarray(BASIS @ np.diag(SPECTRA[name]) @ BASIS.T, dtype)


def network(x):
    """A loss of a small network from a pytree of parameters, with its model and targets."""
    inputs, targets = jnp.linspace(-1.0, 1.0, 14).reshape(7, 2), jnp.arange(7) % 3
    hidden = jnp.tanh(inputs @ x["a"] + x["b"][None])
    return hidden @ x["c"], targets


PARAMS = {
    "a": jnp.asarray(RANDOM.normal(size=(2, 3))),
    "b": jnp.asarray(RANDOM.normal(size=3)),
    "c": jnp.asarray(RANDOM.normal(size=(3, 3))),
}
FLAT, UNFLATTEN = ravel_pytree(PARAMS)


def outputs(x):
    return network(x)[0]


def losses(z):
    """Cross-entropy of each sample."""
    return -jnp.take_along_axis(jax.nn.log_softmax(z), (jnp.arange(7) % 3)[:, None], 1)[:, 0]


def cross_entropy(z):
    return jnp.mean(losses(z))


def dense(product, x=PARAMS):
    """Build the matrix of a product from its columns."""
    flat, unflatten = ravel_pytree(x)
    columns = [ravel_pytree(product(unflatten(e)))[0] for e in np.eye(flat.size)]
    return jnp.stack(columns, axis=1)


JACOBIAN = jax.jacobian(lambda x: outputs(UNFLATTEN(x)))(FLAT)  # (7, 3, n)


def test_gauss_newton_products_are_those_of_the_dense_matrix():
    H = jax.hessian(cross_entropy)(outputs(PARAMS))
    expected = jnp.einsum("ain,aibj,bjm->nm", JACOBIAN, H, JACOBIAN)
    G = dense(curvature.ggn_vp(outputs, cross_entropy, PARAMS))
    assert_close(G, expected)
    assert np.linalg.eigvalsh(G).min() > -1e-12


def test_gauss_newton_is_the_hessian_of_a_linear_model(random):
    A = jnp.asarray(random.normal(size=(9, 4)))
    model, loss = lambda x: A @ x, lambda z: jnp.sum(jnp.cosh(z))
    x, v = jnp.ones(4) / 3, jnp.arange(4.0)
    expected = curvature.hessian_vp(lambda x: loss(model(x)), x)(v)
    assert_close(curvature.ggn_vp(model, loss, x)(v), expected)


def test_gauss_newton_of_a_custom_vjp_goes_in_reverse():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (cube(x), x), lambda x, t: (3 * x**2 * t,))
    loss = lambda z: jnp.sum(z**2)  # noqa: E731
    x, v = jnp.arange(1.0, 4.0), jnp.array([1.0, -1.0, 2.0])
    product = curvature.ggn_vp(cube, loss, x)
    assert_close(product(v), curvature.ggn_vp(lambda x: x**3, loss, x)(v))


def test_true_fisher_of_logits_is_gauss_newton_of_their_cross_entropy():
    F = dense(curvature.fisher_vp(outputs, "categorical", PARAMS))
    assert_close(F, dense(curvature.ggn_vp(outputs, cross_entropy, PARAMS)))


def test_true_fisher_is_the_mean_over_targets_that_the_model_draws():
    p = jax.nn.softmax(outputs(PARAMS))
    expected = np.zeros((FLAT.size, FLAT.size))
    for label in range(3):
        score = (jnp.eye(3)[label][None] - p)[:, :, None] * JACOBIAN
        g = jnp.sum(score, axis=1)
        expected += np.einsum("a,an,am->nm", p[:, label], g, g) / 7
    assert_close(dense(curvature.fisher_vp(outputs, "categorical", PARAMS)), expected)


@pytest.mark.parametrize(
    ("likelihood", "loss"),
    [
        ("gaussian", lambda z: 0.5 * (z - 0.3) ** 2),
        ("bernoulli", lambda z: jnp.logaddexp(0.0, z) - 0.7 * z),
        ("poisson", lambda z: jnp.exp(z) - 2.0 * z),
    ],
)
def test_true_fisher_is_gauss_newton_of_the_mean_negative_logarithm(likelihood, loss):
    F = dense(curvature.fisher_vp(outputs, likelihood, PARAMS))
    mean = lambda z: jnp.sum(loss(z)) / len(z)  # noqa: E731
    assert_close(F, dense(curvature.ggn_vp(outputs, mean, PARAMS)))


def test_empirical_fisher_is_the_mean_of_outer_products_of_gradients():
    g = jax.jacobian(lambda x: losses(outputs(UNFLATTEN(x))))(FLAT)
    product = curvature.fisher_vp(outputs, losses, PARAMS, kind="empirical")
    assert_close(dense(product), g.T @ g / 7)


def test_blocks_are_those_of_the_dense_hessian():
    f = lambda x: cross_entropy(outputs(x))  # noqa: E731
    H = jax.jit(jax.hessian(f))(PARAMS)
    blocks = jax.jit(lambda x: curvature.hessian_blocks(f, x))(PARAMS)
    assert_close(blocks, {name: H[name][name] for name in PARAMS})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_exact_diagonal_and_trace_are_those_of_the_matrix(dtype):
    A = matrix("indefinite", dtype)
    x = jnp.zeros(N, dtype)
    diagonal = curvature.diagonal(lambda v: A @ v, x)
    assert_close(diagonal.value, jnp.diag(A))
    trace = curvature.trace(lambda v: A @ v, x, method="exact")
    assert_close(trace.value, jnp.trace(A), scale=float(jnp.sum(jnp.abs(jnp.diag(A)))))
    assert trace.lower == trace.value == trace.upper
    assert trace.num_products == diagonal.num_products == N


def test_more_probes_than_dimensions_are_exact():
    x = jnp.arange(5.0)
    f = lambda x: jnp.sum(x**3)  # noqa: E731
    key = jax.random.key(0)
    for found in (
        curvature.hessian_trace(f, x, key=key),
        curvature.hessian_trace(f, x, method="hutchinson"),
    ):
        assert (found.value, found.lower, found.upper, found.num_products) == (60, 60, 60, 5)
    found = curvature.hessian_diagonal(f, x, method="xdiag")
    assert_close(found.value, 6 * x)
    assert found.num_products == 5
    s = curvature.spectrum(curvature.hessian_vp(f, x), x)
    assert_close(s.nodes, 6 * x[None])
    assert jnp.all((s.lower == s.density) & (s.density == s.upper))


@pytest.mark.slow
def test_trees_come_back_as_trees():
    f = lambda x: cross_entropy(outputs(x))  # noqa: E731
    H = dense(curvature.hessian_vp(f, PARAMS))
    found = curvature.hessian_diagonal(f, PARAMS)
    assert_close(found.value, UNFLATTEN(jnp.diag(H)))
    pairs = curvature.top_eigenpairs(curvature.hessian_vp(f, PARAMS), PARAMS, num_pairs=2)
    vector = jax.tree.map(lambda v: v[1], pairs.vectors)
    image = curvature.hessian_vp(f, PARAMS)(vector)
    assert_close(image, jax.tree.map(lambda v: pairs.values[1] * v, vector), scale=1.0)


DRAWS = 600


def coverage(found, truth):
    return float(jnp.mean((found.lower <= truth) & (truth <= found.upper)))


@functools.cache
def traces(method, num_products):
    """Compile many draws of the trace of a diagonal matrix."""

    def draw(d, key):
        return curvature.trace(
            lambda v: d * v, d, key=key, method=method, num_products=num_products
        )

    return jax.jit(jax.vmap(draw, (None, 0)))


@pytest.mark.parametrize("num_products", [15, 30])
@pytest.mark.parametrize("method", ["hutch++", "hutchinson", "xtrace"])
@pytest.mark.parametrize("name", SPECTRA)
def test_interval_of_the_trace_holds_in_95_percent_of_the_draws(name, method, num_products):
    # Random directions make every basis alike, so that A may be diagonal.
    d = jnp.asarray(SPECTRA[name])
    found = traces(method, num_products)(d, jax.random.split(jax.random.key(1), DRAWS))
    assert 0.92 <= coverage(found, jnp.sum(d)) <= 0.98
    mean = jnp.mean(found.value)
    assert abs(mean - jnp.sum(d)) < 4 * jnp.std(found.value) / DRAWS**0.5  # no bias


@functools.cache
def diagonals(method):
    """Compile many draws of the diagonal of a matrix."""

    def draw(A, key):
        return curvature.diagonal(lambda v: A @ v, A[0], key=key, method=method)

    return jax.jit(jax.vmap(draw, (None, 0)))


@pytest.mark.parametrize("method", ["xdiag", "hutchinson"])
@pytest.mark.parametrize("name", SPECTRA)
def test_interval_of_the_diagonal_holds_in_95_percent_of_the_draws(name, method):
    A = matrix(name)
    found = diagonals(method)(A, jax.random.split(jax.random.key(2), 60))
    assert 0.92 <= coverage(found, jnp.diag(A)[None]) <= 0.98
    bias = jnp.mean(found.value, axis=0) - jnp.diag(A)
    assert jnp.all(jnp.abs(bias) < 6 * jnp.std(found.value, axis=0) / 60**0.5)


@jax.jit
def densities(eigenvalues, keys):
    """Count where the interval of the density holds, and where there is any."""

    def draw(key):
        s = curvature.spectrum(
            lambda v: eigenvalues * v, eigenvalues, key=key, num_points=60, num_steps=25
        )
        away = (s.grid[:, None] - eigenvalues[None]) / s.width
        pdf = jax.scipy.stats.norm.pdf(away)
        true = jnp.sum(pdf, axis=1) / (eigenvalues.size * s.width)
        held = (s.lower <= true) & (true <= s.upper)
        there = true > 1e-3 * jnp.max(true)  # elsewhere there is next to nothing
        return jnp.sum(held & there), jnp.sum(there), jnp.trapezoid(s.density, s.grid)

    return jax.lax.map(draw, keys)


@pytest.mark.parametrize("name", SPECTRA)
def test_interval_of_the_density_holds_in_95_percent_of_the_draws(name):
    eigenvalues = jnp.sort(jnp.tile(jnp.asarray(SPECTRA[name]), 4))
    keys = jax.random.split(jax.random.key(3), 40)
    held, there, integral = densities(eigenvalues, keys)
    assert 0.92 <= jnp.sum(held) / jnp.sum(there) <= 0.98
    assert jnp.all(jnp.abs(integral - 1) < 0.02)


def test_deflation_pays_where_eigenvalues_decay():
    keys = jax.random.split(jax.random.key(0), DRAWS)
    d = jnp.asarray(SPECTRA["power law"])
    found = {m: traces(m, 30)(d, keys) for m in TRACES}
    width = {m: float(jnp.median(f.upper - f.lower)) for m, f in found.items()}
    assert width["hutch++"] < width["hutchinson"] / 10
    assert width["xtrace"] < width["hutch++"] / 1.3


TRACES = ("hutch++", "hutchinson", "xtrace")


@pytest.mark.parametrize("power", [-25, -16, 16, 25])
def test_units_of_the_matrix_do_not_matter_in_float32(power):
    random, unit = np.random.default_rng(0), 2.0 ** (3 * power)
    Q = np.linalg.qr(random.normal(size=(60, 60)))[0]
    plain = jnp.asarray(Q @ np.diag(10.0 ** (-np.arange(60) / 4)) @ Q.T, "float32")
    scaled, x, key = plain * unit, jnp.zeros(60, "float32"), jax.random.key(0)
    for estimate in (
        lambda A: curvature.top_eigenpairs(lambda v: A @ v, x, key=key, num_pairs=2)[::2],
        lambda A: curvature.trace(lambda v: A @ v, x, key=key)[:3],
        lambda A: curvature.trace(lambda v: A @ v, x, key=key, method="hutchinson")[:3],
        lambda A: curvature.diagonal(lambda v: A @ v, x, key=key, method="xdiag")[:3],
        lambda A: curvature.spectrum(lambda v: A @ v, x, key=key, num_steps=6).nodes,
    ):
        for one, other in zip(estimate(plain), estimate(scaled), strict=True):
            size = float(jnp.max(jnp.abs(one)))
            np.testing.assert_allclose(other / unit, one, atol=1e-4 * max(size, 1e-2))


def test_curvature_along_a_run_is_compiled_once():
    traces = []

    def loss(x):
        traces.append(None)
        return jnp.sum(x**4) + x[0] * x[-1]

    @jax.jit
    def sharpness(x):
        product = curvature.hessian_vp(loss, x)
        pairs = curvature.top_eigenpairs(product, x)
        density = curvature.spectrum(
            product, x, key=jax.random.key(0), num_probes=2, num_steps=4
        )
        trace = curvature.trace(product, x, key=jax.random.key(0), num_products=8)
        return pairs.values[0], density.nodes, trace.value

    x = jnp.arange(1.0, 31.0)
    first = sharpness(x)
    made = len(traces)
    for shift in (0.5, 1.0):
        top = sharpness(x + shift)[0]
        exact = jnp.linalg.eigvalsh(jax.hessian(loss)(x + shift))[-1]
        np.testing.assert_allclose(top, exact, rtol=1e-9)
    assert len(traces) == made + 2  # those of jax.hessian
    assert np.all(np.isfinite(first[1]))


def test_identity_is_estimated_without_error():
    x = jnp.zeros(200)
    for method in TRACES:
        found = curvature.trace(lambda v: v, x, key=jax.random.key(0), method=method)
        assert_close(jnp.stack([found.value, found.lower, found.upper]), 200 * jnp.ones(3))


def projector(A, vectors):
    """Project on the range of A times vectors, by another factorisation."""
    basis = np.linalg.svd(A @ vectors, full_matrices=False)[0]
    return basis @ basis.T


def left_out_terms(A, vectors):
    """XTrace and XDiag by their definition: term i without vector j too, dense projectors."""
    n, k = vectors.shape
    trace, diagonal = np.zeros((k, k)), np.zeros((k, k, n))
    for i, j in itertools.product(range(k), repeat=2):
        P = projector(A, np.delete(vectors, [i, j], axis=1))
        rest = np.eye(n) - P
        left, beyond = rest @ A @ rest, rest @ vectors[:, i]
        scale = (n - k + len({i, j})) / (beyond @ beyond)
        trace[i, j] = np.trace(P @ A) + scale * vectors[:, i] @ left @ vectors[:, i]
        diagonal[i, j] = np.diag(A - left) + vectors[:, i] * (left @ vectors[:, i])
    return trace, diagonal


def covariance_of(terms):
    k = len(terms)
    own = terms[np.arange(k), np.arange(k)]
    shift = own[:, None] - terms
    return own, np.sum(shift * np.swapaxes(shift, 0, 1), axis=(0, 1)) / (k * (k - 1))


@pytest.mark.parametrize("name", ["flat", "power law", "indefinite", "network"])
@pytest.mark.slow
def test_terms_are_those_of_bases_that_leave_out_one_vector_or_two(name, random):
    A = np.asarray(matrix(name))
    operator = flat_operator(lambda v: A @ v, jnp.zeros(N))
    vectors = random.choice([-1.0, 1.0], size=(N, 7))
    trace, diagonal = left_out_terms(A, vectors)
    for found, expected in [
        (xtrace_terms(operator, jnp.asarray(vectors.T)), covariance_of(trace)),
        (xdiag_terms(operator, jnp.asarray(vectors.T)), covariance_of(diagonal)),
    ]:
        terms, covariance = expected
        scale = np.abs(terms).max()
        assert_close(found[0], jnp.asarray(terms), scale=scale, factor=1e3)
        signed = jnp.sign(found[1]) * found[1] ** 2
        assert_close(signed, jnp.asarray(covariance), scale=scale**2, factor=1e3)


def test_terms_of_the_trace_are_those_of_matfree(random):
    A = matrix("slow decay")
    vectors = jnp.asarray(random.normal(size=(9, N)))
    with jax.numpy_rank_promotion("allow"):
        peer = matfree.stochtrace.leave_one_out_xtrace()(lambda v: A @ v, vectors)
    found, _ = xtrace_terms(flat_operator(lambda v: A @ v, A[0]), vectors)
    assert_close(found, peer, factor=1e3)


@pytest.mark.parametrize("name", slowly(*SPECTRA, quick=("indefinite",)))
def test_variance_of_dependent_terms_is_estimated_without_bias(name):
    d = jnp.asarray(SPECTRA[name])
    operator = flat_operator(lambda v: d * v, d)

    def draw(key):
        terms, common = xtrace_terms(operator, on_sphere(key, 12, operator))
        return jnp.mean(terms), jnp.var(terms, ddof=1) / 12, jnp.sign(common) * common**2

    keys = jax.random.split(jax.random.key(5), 2000)
    mean, independent, covariance = jax.jit(jax.vmap(draw))(keys)
    true = float(jnp.var(mean))
    # A variance from 2,000 draws of these skewed means is good to some 6 %.
    assert float(jnp.mean(independent + covariance)) == pytest.approx(true, rel=0.2)
    assert jnp.mean(covariance) > 0.05 * true or name == "dominant"


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("eigenvalues", ["rank three", "beyond rounding", "zero"])
def test_what_the_range_captures_is_exact(eigenvalues, dtype):
    d = {
        "rank three": jnp.append(jnp.array([4.0, -2.0, 1.0]), jnp.zeros(N - 3)),
        "beyond rounding": 0.05 ** jnp.arange(N, dtype=float),
        "zero": jnp.zeros(N),
    }[eigenvalues]
    A = jnp.asarray((BASIS * np.asarray(d)) @ BASIS.T, dtype)
    key = jax.random.key(1)
    trace = curvature.trace(lambda v: A @ v, A[0], key=key)
    diagonal = curvature.diagonal(lambda v: A @ v, A[0], key=key, method="xdiag")
    for found, exact in [(trace, jnp.trace(A)), (diagonal, jnp.diag(A))]:
        assert found.value.dtype == dtype
        for part in (found.value, found.lower, found.upper):
            assert_close(part, jnp.broadcast_to(exact, part.shape), scale=4.0, factor=200)


def test_vectors_that_serve_twice_come_in_pairs_with_products():
    A = matrix("power law")
    calls = []

    def product(v):
        jax.debug.callback(lambda _: calls.append(1), v[0])
        return A @ v

    key = jax.random.key(0)
    trace = curvature.trace(product, A[0], key=key, num_products=15)
    diagonal = curvature.diagonal(product, A[0], key=key, method="xdiag", num_products=7)
    jax.effects_barrier()
    assert (trace.num_products, diagonal.num_products) == (14, 6)
    assert len(calls) == 20


@pytest.mark.parametrize("dof", [1, 2, 3, 5, 9, 30, 1000])
def test_quantiles_are_those_of_students_distribution(dof):
    exact = scipy.stats.t.ppf(scipy.stats.norm.cdf(2.0047), dof)
    assert student(dof) == pytest.approx(exact, rel=5e-3)


def test_interval_of_skewed_samples_reaches_further_up(random):
    skewed = jnp.asarray(random.exponential(size=(12,)))
    mean, lower, upper = interval(skewed)
    assert upper - mean > 1.2 * (mean - lower)
    mean, lower, upper = interval(jnp.array([1.0, -1.0, 2.0, -2.0]))  # symmetric
    assert upper == pytest.approx(-lower)
    spread = scipy.stats.t.ppf(scipy.stats.norm.cdf(2.0047), 3) * np.sqrt(10 / 3) / 2
    assert upper == pytest.approx(spread, rel=1e-2)
    assert interval(jnp.ones(5)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("which", "dtype"),
    [
        ("magnitude", jnp.float32),
        ("magnitude", jnp.float64),
        ("largest", jnp.float64),
        ("smallest", jnp.float64),
    ],
)
def test_eigenpairs_are_those_of_the_dense_matrix(which, dtype):
    A = matrix("network", dtype)
    pairs = curvature.top_eigenpairs(lambda v: A @ v, A[0], num_pairs=3, which=which)
    values = np.sort(SPECTRA["network"])
    expected = {
        "magnitude": values[np.argsort(-abs(values))][:3],
        "largest": values[::-1][:3],
        "smallest": values[:3],
    }[which]
    assert pairs.values.dtype == dtype
    eps = jnp.finfo(dtype).eps
    assert np.all(abs(pairs.values - expected) <= pairs.errors + 50 * eps * 50)
    assert np.all(pairs.errors <= 2 * eps ** (2 / 3) * 50)
    assert_close(pairs.vectors @ pairs.vectors.T, jnp.eye(3, dtype=dtype))
    assert pairs.num_products < 1.5 * N


@pytest.mark.slow
def test_one_variable_and_the_zero_matrix_are_matrices_too():
    one, many = jnp.ones(1), jnp.ones(50)
    pairs = curvature.top_eigenpairs(lambda v: -2 * v, one)
    assert (pairs.values, pairs.errors) == (-2, 0)
    assert curvature.condition_number(lambda v: -2 * v, one).value == 1
    nothing = curvature.top_eigenpairs(lambda v: 0 * v, many, num_pairs=2)
    assert jnp.all(nothing.values == 0)
    trace = curvature.trace(lambda v: 0 * v, many, key=jax.random.key(0))
    assert trace.lower == trace.value == trace.upper == 0


@pytest.mark.slow
def test_what_is_not_finite_is_not_hidden():
    nan = lambda v: jnp.nan * v  # noqa: E731
    x = jnp.ones(50)
    assert jnp.isnan(curvature.top_eigenpairs(nan, x).values[0])
    assert jnp.isnan(curvature.trace(nan, x, key=jax.random.key(0)).upper)
    assert jnp.isnan(curvature.diagonal(nan, x).value[0])


@pytest.mark.slow
def test_multiple_eigenvalues_are_found_as_often_as_they_are_there():
    d = jnp.asarray([3.0, 3.0, 3.0, 2.0, 1.0] + 100 * [0.5])
    pairs = curvature.top_eigenpairs(lambda v: d * v, d, num_pairs=5)
    assert_close(pairs.values, d[:5])


@pytest.mark.slow
def test_a_closed_space_adds_no_eigenvalue_of_its_own():
    d = jnp.asarray([3.0, 2.0] + 103 * [0.5])  # closed after three steps of 34
    pairs = curvature.top_eigenpairs(lambda v: d * v, d, num_pairs=4, which="smallest")
    assert_close(pairs.values, 0.5 * jnp.ones(4))
    start = jnp.linspace(1.0, 2.0, 105)
    nodes, weights = lanczos(lambda v: d * v, start, 8)
    assert jnp.all((nodes > 0.49) & (nodes < 3.01))
    assert_close(weights @ nodes**3, jnp.sum(start**2 * d**3) / jnp.sum(start**2))


@pytest.mark.slow
def test_more_pairs_than_the_space_holds_restart():
    d = jnp.linspace(1.0, 2.0, 500)  # gaps of 1/500: the first space does not resolve them
    pairs = curvature.top_eigenpairs(lambda v: d * v, d, num_pairs=4)
    assert pairs.num_products > 34
    assert np.all(abs(pairs.values - d[::-1][:4]) <= pairs.errors + 1e-13)


@jax.jit
def condition(d):
    """Compute the condition number of a diagonal matrix."""
    return curvature.condition_number(lambda v: d * v, d)


@pytest.mark.parametrize("sign", ["definite", "indefinite", "negative"])
@pytest.mark.parametrize("n", [40, pytest.param(1100, marks=pytest.mark.slow)])
def test_condition_number_is_that_of_the_eigenvalues(n, sign):
    d = jnp.linspace(1.0, 50.0, n)
    d = {"definite": d, "negative": -d, "indefinite": d * (-1.0) ** jnp.arange(n)}[sign]
    found = condition(d)
    assert found.lower <= 50 <= found.upper * (1 + 1e-12)
    assert found.value == pytest.approx(50, rel=1e-2)
    assert found.upper < 52


def test_condition_number_of_singular_matrices_is_infinite():
    d = jnp.arange(5.0)
    found = curvature.condition_number(lambda v: d * v, d)
    assert found.value == found.upper == jnp.inf
    zero = curvature.condition_number(lambda v: 0 * v, d)  # as `numpy.linalg.cond` has it
    assert (zero.lower, zero.value, zero.upper) == (1, jnp.inf, jnp.inf)


PRODUCT = lambda v: 2 * v  # noqa: E731


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: curvature.trace(PRODUCT, x), ValueError, "needs a `key`"),
        (
            lambda x: curvature.diagonal(PRODUCT, x, method="xdiag"),
            ValueError,
            "needs a `key`",
        ),
        (lambda x: curvature.spectrum(PRODUCT, x, num_steps=3), ValueError, "needs a `key`"),
        (lambda x: curvature.trace(PRODUCT, x, key=3), TypeError, "key of jax.random"),
        (lambda x: curvature.trace(PRODUCT, x, method="hutch+"), ValueError, "hutch\\+\\+"),
        (lambda x: curvature.trace(PRODUCT, x, num_products=2), ValueError, "whole number ≥ 6"),
        (lambda x: curvature.trace(3, x), TypeError, "`product` must be a function"),
        (lambda x: curvature.trace(lambda v: v[:3], x), ValueError, "shaped like `x`"),
        (lambda x: curvature.top_eigenpairs(PRODUCT, x, which="top"), ValueError, "`which`"),
        (lambda x: curvature.top_eigenpairs(PRODUCT, x, num_pairs=51), ValueError, "n = 50"),
        (lambda x: curvature.fisher_vp(outputs, "gausian", PARAMS), ValueError, "'gaussian'"),
        (lambda x: curvature.fisher_vp(outputs, losses, PARAMS), TypeError, "ggn_vp"),
        (
            lambda x: curvature.fisher_vp(outputs, cross_entropy, PARAMS, kind="empirical"),
            ValueError,
            r"shape \(N,\)",
        ),
        (lambda x: curvature.ggn_vp(outputs, losses, PARAMS), TypeError, "return a scalar"),
        (lambda x: curvature.hessian_blocks(lambda x: x, x), TypeError, "return a scalar"),
        (
            lambda x: curvature.ggn_vp(lambda x: np.asarray(x), jnp.sum, x),
            TypeError,
            "jax.numpy",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(jnp.zeros(50))


def test_matfree_agrees_on_quadrature(random):
    d = jnp.linspace(1.0, 5.0, 60)
    start = jnp.asarray(random.normal(size=60))
    tridiagonal = matfree.decomp.tridiag_sym(12, materialize=True)(lambda v: d * v, start)
    nodes = np.linalg.eigvalsh(tridiagonal.J_small)

    assert_close(
        jnp.sort(lanczos(lambda v: d * v, start, 12)[0]), jnp.asarray(nodes), factor=1e4
    )


def test_a_product_is_what_matfree_takes():
    product = curvature.ggn_vp(outputs, cross_entropy, PARAMS)

    def shifted(v):
        return jax.tree.map(jnp.add, v, product(v))

    integrand = matfree.funm.monte_carlo_funm_sym_logdet(matfree.decomp.tridiag_sym(10))
    sampler = matfree.stochtrace.sampler_signs(PARAMS, num=200)
    estimate = matfree.stochtrace.estimator_monte_carlo(integrand, sampler)
    with jax.numpy_rank_promotion("allow"):
        found = estimate(shifted, jax.random.key(0))
    exact = jnp.linalg.slogdet(jnp.eye(FLAT.size) + dense(product))[1]
    assert float(found) == pytest.approx(float(exact), rel=0.1)


def test_a_closed_space_is_left_with_a_fresh_vector(random):
    # matfree 0.6.3 finds 302 here, in the rounding errors of what is left.
    d = jnp.append(jnp.array([5.0, 3.0, 2.0]), jnp.zeros(297))
    start = jnp.asarray(random.normal(size=300))
    nodes, weights = lanczos(lambda v: d * v, start, 20)
    assert_close(jnp.max(nodes), jnp.asarray(5.0))
    mean = start @ (d * start) / (start @ start)
    assert_close(jnp.sum(weights * nodes), mean, scale=5.0)
