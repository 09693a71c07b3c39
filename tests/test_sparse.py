"""Sparse derivatives: patterns found, colours known from theory, entries of closed forms."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.flatten_util import ravel_pytree
from support import assert_close

from gradlab.derivatives import sparse
from gradlab.derivatives.autodiff import hvp
from gradlab.derivatives.sparse._color import column_coloring, dense_rows, star_coloring
from gradlab.derivatives.sparse._detect import find_pattern


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def banded(width):
    def f(x):
        pairs = [jnp.sum(jnp.sin(x[k:] * x[: x.size - k])) for k in range(1, width + 1)]
        return sum(pairs)

    return f


def arrow(x):
    return jnp.sum(jnp.exp(-x[0] * x[1:] ** 2)) + x[0] ** 4


def laplacian_2d(rows, columns):
    def f(x):
        u = x.reshape(rows, columns)
        differences = jnp.sum((u[1:] - u[:-1]) ** 2) + jnp.sum((u[:, 1:] - u[:, :-1]) ** 2)
        return differences + jnp.sum(jnp.exp(u))

    return f


def chain(x):
    """A tridiagonal Hessian inside a loop, where static analysis sees a dense one."""
    body = lambda i, s: s + jnp.sin(x[i] * x[i - 1])  # noqa: E731
    return jax.lax.fori_loop(1, x.size, body, 0.0)


def blocks(x):
    return jnp.sum(jnp.prod(x.reshape(-1, 5), axis=1))


def at(n, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(7).uniform(0.5, 1.5, n), dtype)


# f, n, entries, colours that are known to be fewest (star colouring of a path 3, of the square
# grid 5 (Fertin, Raspaud and Reed 2004), of a band its width, of a star 2, of blocks theirs).
CASES = {
    "tridiagonal": (rosenbrock, 200, 598, 3),
    "pentadiagonal": (banded(2), 200, 994, 5),
    "band of 7": (banded(3), 100, 688, 7),
    "arrow": (arrow, 200, 598, 2),
    "grid": (laplacian_2d(12, 15), 180, 846, 5),
    "loop": (chain, 150, 448, 3),
    "blocks": (blocks, 100, 400, 5),
    "diagonal": (lambda x: jnp.sum(x**3), 200, 200, 1),
    "small": (rosenbrock, 9, 25, 3),
}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, jnp.float64) for case in CASES]
    + [(case, jnp.float32) for case in ("pentadiagonal", "arrow", "loop")],
)
def test_sparse_hessian_is_the_dense_one_with_the_fewest_products(case, dtype):
    f, n, entries, fewest = CASES[case]
    x = at(n, dtype)
    H = sparse.hessian(f, x)
    assert (H.nnz, H.num_products) == (entries, fewest)
    matrix = H(x)
    assert matrix.shape == (n, n)
    assert matrix.dtype == dtype
    assert_close(matrix.todense(), jax.hessian(f)(x))


def test_the_number_of_probes_hardly_grows_with_n():
    # 8 buckets with three weights, a few rounds, two points.
    few, many = (sparse.hessian(rosenbrock, at(n)).num_probes for n in (300, 6000))
    assert few < 300
    assert many < 2 * few


def test_the_evaluation_is_compiled_once_for_many_points():
    traces = []

    def f(x, scale):
        traces.append(1)
        return scale * rosenbrock(x)

    H = sparse.hessian(f, at(100), 2.0)
    x = at(100)
    H(x, 2.0)
    before = len(traces)
    for k in range(3):
        H(at(100), 3.0 + k)
    assert len(traces) == before
    assert_close(H(x, 5.0).todense(), 5 * jax.hessian(rosenbrock)(x))


@pytest.mark.slow
def test_values_work_under_jit_vmap_and_with_trees():
    def f(p):
        return rosenbrock(p["a"]) * p["b"][0] ** 2

    p = {"a": at(80), "b": at(1)}
    H = sparse.hessian(f, p)
    dense = jax.jit(lambda p: H(p).todense())(p)
    flat, unflatten = ravel_pytree(p)
    assert_close(dense, jax.hessian(lambda x: f(unflatten(x)))(flat))
    batch = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), p)
    values = jax.vmap(H.values)(batch)
    assert_close(values[0], H.values(p))
    assert_close(values[1], H.values(jax.tree.map(lambda a: 2 * a, p)))


def test_csr_is_that_of_scipy():
    x = at(100)
    H = sparse.hessian(rosenbrock, x, format="csr")(x)
    assert isinstance(H, scipy.sparse.csr_array)
    assert H.has_canonical_format
    assert_close(H.toarray(), np.asarray(jax.hessian(rosenbrock)(x)))


def test_entries_that_vanish_at_x_alone_are_found():
    f = lambda x: jnp.sum(x[1:] ** 2 * x[:-1] ** 2)  # noqa: E731
    assert sparse.hessian(f, jnp.zeros(90)).nnz == 268


def test_an_entry_beyond_the_pattern_is_an_error_not_a_wrong_matrix():
    def f(x):
        far = jnp.where(x[0] > 5.0, x[3] * x[70] ** 2, 0.0)
        return rosenbrock(x) + far

    H = sparse.hessian(f, at(100))
    there = at(100).at[0].set(6.0)
    with pytest.raises(ValueError, match="entries at this x that were zero"):
        H(there)
    assert np.all(np.isnan(jax.jit(H.values)(there)))
    assert sparse.hessian(f, there).nnz == H.nnz + 2  # an entry and its mirror image


@pytest.mark.parametrize("n", [40, 200])
def test_parameters_and_outputs_of_any_units_are_found_in_float32(n):
    random = np.random.default_rng(n)
    scales, units = (jnp.asarray(10 ** random.uniform(-3, 3, n), "float32") for _ in range(2))
    f = lambda x: scales[1:] * jnp.sin(units[1:] * x[1:]) * units[:-1] * x[:-1]  # noqa: E731
    x = jnp.asarray(random.uniform(0.5, 1.5, n), "float32") / units
    J = sparse.jacobian(f, x)
    assert (J.nnz, J.num_products) == (2 * n - 2, 2)
    expected = np.asarray(jax.jacobian(f)(x))
    np.testing.assert_allclose(J(x).todense(), expected, rtol=1e-5)


def test_every_other_parameter_in_units_ten_million_times_smaller_is_found():
    units = jnp.where(jnp.arange(200) % 2 == 0, 1e7, 1.0).astype("float32")
    f = lambda x: jnp.sin(units[1:] * x[1:]) + units[:-1] * x[:-1]  # noqa: E731
    x = at(200, "float32") / units
    J = sparse.jacobian(f, x)
    assert J.nnz == 398
    np.testing.assert_allclose(J(x).todense(), jax.jacobian(f)(x), rtol=1e-6)


def test_two_parameters_ten_million_apart_are_found_in_float32():
    t = jnp.linspace(0.1, 1, 12, dtype="float32")
    x = jnp.array([1e-7, 1.0], "float32")
    J = sparse.jacobian(lambda x: 1e7 * x[0] * t + x[1] * t**2, x)
    np.testing.assert_allclose(J(x).todense(), np.stack([1e7 * t, t**2], axis=1), rtol=1e-6)


def _off_then_on(x, first):
    """Where relu is off the pattern is one entry; `first` is an output beside the others."""
    return jnp.concatenate([first(x[:1]), jax.nn.relu(x[1:] - 3) * x[:-1]])


@pytest.mark.parametrize("first", [lambda x: 1e5 * x, jnp.sqrt], ids=["large", "nan"])
def test_entries_beyond_the_pattern_raise_beside_a_large_row_and_one_that_is_nan(first):
    f = lambda x: _off_then_on(x, first)  # noqa: E731
    J = sparse.jacobian(f, jnp.ones(20, "float32"))
    there = jnp.full(20, 3.5, "float32").at[0].set(-1.0)
    with pytest.raises(ValueError, match="entries at this x that were zero"):
        J(there)
    assert np.all(np.isnan(jax.jit(J.values)(there)))


def test_an_entry_beyond_the_pattern_raises_beside_a_parameter_in_other_units():
    f = lambda x: _off_then_on(x, lambda x: 1e7 * x).at[1:].add(x[1:])  # noqa: E731
    J = sparse.jacobian(f, jnp.ones(20, "float32"))
    with pytest.raises(ValueError, match="entries at this x that were zero"):
        J(jnp.full(20, 3.5, "float32"))


def test_small_entries_beside_large_ones_are_found():
    scales = 10.0 ** np.linspace(-12, 0, 101)
    f = lambda x: jnp.sum(scales[1:] * x[1:] ** 2 * x[:-1] ** 2)  # noqa: E731
    x = at(101)
    H = sparse.hessian(f, x)
    assert H.nnz == 301
    expected = np.asarray(jax.hessian(f)(x))
    values = np.asarray(H.values(x))
    np.testing.assert_allclose(values, expected[H.rows, H.columns], rtol=1e-10)


def test_a_given_pattern_saves_the_probing_in_any_form():
    x = at(120)
    found = sparse.hessian(rosenbrock, x)
    upper = found.rows <= found.columns
    pairs = found.rows[upper], found.columns[upper]
    matrix = scipy.sparse.coo_array((np.ones(len(pairs[0])), pairs), shape=(120, 120))
    for pattern in (pairs, matrix, matrix.toarray() != 0, found(x)):
        H = sparse.hessian(rosenbrock, x, pattern=pattern)
        assert (H.num_probes, H.nnz, H.num_products) == (0, 358, 3)
        assert_close(H(x).todense(), found(x).todense())


def test_wrong_patterns_are_refused():
    x = at(100)
    diagonal = np.arange(100), np.arange(100)
    with pytest.raises(ValueError, match="`pattern` misses entries"):
        sparse.hessian(rosenbrock, x, pattern=diagonal)
    with pytest.raises(ValueError, match=r"matrix of shape \(100, 100\)"):
        sparse.hessian(rosenbrock, x, pattern=np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"within shape \(100, 100\).*100 to 100"):
        sparse.hessian(rosenbrock, x, pattern=(np.array([100]), np.array([0])))
    with pytest.raises(ValueError, match="pair of integer arrays"):
        sparse.hessian(rosenbrock, x, pattern=(np.ones(2), np.arange(2)))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: sparse.hessian(lambda x: x, x), TypeError, "must return a scalar"),
        (lambda x: sparse.hessian(jnp.sum, jnp.arange(3)), TypeError, "must be floating"),
        (lambda x: sparse.hessian(jnp.sum, x, format="cs"), ValueError, "Did you mean 'csr'"),
        (lambda x: sparse.hessian(lambda x: jnp.sum(jnp.sqrt(x)), 0 * x), ValueError, "finite"),
        (
            lambda x: jax.jit(lambda x: sparse.hessian(rosenbrock, x)(x))(x),
            TypeError,
            "outside",
        ),
        (lambda x: sparse.hessian(rosenbrock, x)(x[:5]), ValueError, "must be shaped as"),
        (lambda x: sparse.jacobian(lambda x: 1, x), TypeError, "floating"),
        (lambda x: sparse.hessian(lambda x: np.sum(np.asarray(x)), x), TypeError, "jax.numpy"),
        (lambda x: sparse.jacobian(lambda x: np.sin(np.asarray(x)), x), TypeError, "jax.numpy"),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(at(20))


def test_a_matrix_of_zeros_has_no_entries():
    for n in (1, 200):
        H = sparse.hessian(lambda x: 3 * jnp.sum(x), at(n))
        assert (H.nnz, H(at(n)).todense().shape) == (0, (n, n))
        J = sparse.jacobian(lambda x: jnp.zeros(3) * x[0], at(n))
        assert (J.nnz, J(at(n)).todense().shape) == (0, (3, n))


def test_a_large_dense_hessian_is_refused_and_a_small_one_computed():
    f = lambda x: jnp.sum(x) ** 3  # noqa: E731
    with pytest.raises(ValueError, match="No sparse pattern was found"):
        sparse.hessian(f, at(5000))
    x = at(100)
    H = sparse.hessian(f, x)
    assert H.num_products == 100
    assert_close(H(x).todense(), jax.hessian(f)(x))


def test_a_loss_without_forward_mode_is_differentiated_in_reverse():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (cube(x), x), lambda x, t: (3 * x**2 * t,))
    x = at(90)
    H = sparse.hessian(lambda x: jnp.sum(cube(x[1:] * x[:-1])), x)
    assert H.num_products == 3
    assert_close(H(x).todense(), jax.hessian(lambda x: jnp.sum((x[1:] * x[:-1]) ** 3))(x))


JACOBIANS = {
    # name: f, n, colours
    "bidiagonal": (lambda x: x[1:] * x[:-1], 150, 2),
    "wide": (lambda x: x.reshape(-1, 3).sum(1) ** 2, 150, 1),  # by rows
    "tall": (lambda x: jnp.concatenate([x**2, x**3, jnp.sin(x)]), 100, 1),
    "dense row": (lambda x: jnp.append(x[1:] * x[:-1], jnp.sum(x**2)), 150, 3),
    "dense column": (lambda x: x[1:] * x[0] + x[:-1] ** 2, 150, 3),
    "arrow": (lambda x: jnp.append(jnp.sum(x**2), x[1:] ** 3 * x[0]), 150, 3),
}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, jnp.float64) for case in JACOBIANS] + [("arrow", jnp.float32)],
)
def test_sparse_jacobian_is_the_dense_one_with_the_fewest_products(case, dtype):
    f, n, products = JACOBIANS[case]
    x = at(n, dtype)
    J = sparse.jacobian(f, x)
    assert J.num_products == products
    assert_close(J(x).todense(), jax.jacrev(f)(x))


def test_jacobian_of_trees_is_in_the_order_of_the_leaves():
    f = lambda p: {"u": p["a"] ** 2, "v": [p["b"] * p["a"][:2]]}  # noqa: E731
    p = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array([4.0, 5.0])}
    expected = np.zeros((5, 5))
    expected[[0, 1, 2], [0, 1, 2]] = [2, 4, 6]
    expected[[3, 4, 3, 4], [0, 1, 3, 4]] = [4, 5, 1, 2]
    assert_close(sparse.jacobian(f, p)(p).todense(), expected)


def test_loops_without_reverse_mode_are_differentiated_forward():
    def f(x):
        body = lambda s: (s[0] + 1, jnp.sin(s[1] * x))  # noqa: E731
        return jax.lax.while_loop(lambda s: s[0] < 3, body, (0, x))[1]

    x = at(100)
    J = sparse.jacobian(f, x)
    assert J.num_products == 1
    assert_close(J(x).todense(), jax.jacfwd(f)(x))


def test_functions_without_forward_mode_have_reverse_jacobians():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (square(x), x), lambda x, t: (2 * x * t,))
    x = at(100)
    J = sparse.jacobian(lambda x: square(x[1:]) * x[:-1], x)
    assert_close(J(x).todense(), jax.jacrev(lambda x: x[1:] ** 2 * x[:-1])(x))


def random_symmetric(n, per_row, random):
    i = np.repeat(np.arange(n), per_row)
    j = random.integers(0, n, n * per_row)
    keys = np.unique(np.concatenate([i * n + j, j * n + i, np.arange(n) * (n + 1)]))
    return keys // n, keys % n


@pytest.mark.parametrize("seed", range(5))
def test_no_path_of_four_has_two_colours(seed):
    random = np.random.default_rng(seed)
    n = 60
    rows, columns = random_symmetric(n, 2, random)
    color = star_coloring(rows, columns, n)
    near = [set(columns[rows == v]) - {v} for v in range(n)]
    for a in range(n):
        for b in near[a]:
            assert color[a] != color[b]
            for c in near[b] - {a}:
                for d in near[c] - {a, b}:
                    assert len({color[v] for v in (a, b, c, d)}) > 2


@pytest.mark.parametrize("seed", range(3))
def test_columns_of_one_colour_share_no_row(seed):
    random = np.random.default_rng(seed)
    rows, columns = random_symmetric(80, 3, random)
    color = column_coloring(rows, columns, (80, 80))
    pairs = rows.astype(np.int64) * 80 + color[columns]
    assert len(np.unique(pairs)) == len(pairs)


def test_rows_worth_a_product_each_are_those_that_make_colours_many():
    rows = np.concatenate([np.repeat(3, 50), np.repeat(7, 40), np.arange(20), np.arange(20)])
    assert dense_rows(rows, 20).tolist() == [3, 7]
    assert dense_rows(np.arange(20), 20).tolist() == []


@pytest.mark.parametrize("eps", [2.0**-52, 2.0**-23])
@pytest.mark.parametrize("seed", range(4))
def test_probing_finds_random_patterns_through_noise(seed, eps):
    random = np.random.default_rng(seed)
    n = 1500
    rows, columns = random_symmetric(n, 3, random)
    values = random.normal(size=len(rows)) * 10 ** random.uniform(-1, 1, len(rows))
    A = scipy.sparse.coo_array((values, (rows, columns)), shape=(n, n)).tocsr()
    A = (A + A.T).tocsr()
    made = []

    def products(v):
        made.append(len(v))
        exact = (A @ v.T).T
        return exact * (1 + eps * random.uniform(-1, 1, exact.shape))

    transposed = lambda w: (A.T @ w.T).T  # noqa: E731
    found = find_pattern(products, transposed, (n, n), eps, random)
    assert sum(made) <= found[2]
    pairs = set(zip(found[0].tolist(), found[1].tolist(), strict=True))
    true = set(zip(*(part.tolist() for part in A.nonzero()), strict=True))
    assert true <= pairs
    assert len(pairs) <= 1.01 * len(true)
    assert found[2] < n / 2


def test_asdex_certifies_where_its_pattern_is_ours(monkeypatch):
    x = at(80)
    H = sparse.hessian(rosenbrock, x)
    keys = H.rows, H.columns
    fake = types.ModuleType("asdex")
    monkeypatch.setitem(sys.modules, "asdex", fake)

    def pattern(rows, columns):
        fake.hessian_sparsity = lambda f, x: types.SimpleNamespace(rows=rows, cols=columns)
        return H.certify()

    assert pattern(*keys)
    assert not pattern(np.append(keys[0], 0), np.append(keys[1], 79))
    fake.hessian_sparsity = lambda f, x: [][0]  # whatever it raises
    assert not H.certify()
    monkeypatch.setitem(sys.modules, "asdex", None)
    with pytest.raises(ImportError, match=r"gradlab-jax\[sparse\]"):
        H.certify()


def test_the_real_asdex_certifies_what_it_can_read():
    asdex = pytest.importorskip("asdex", exc_type=ImportError)
    assert asdex is not None
    x = at(40)
    assert sparse.hessian(rosenbrock, x).certify()
    assert not sparse.hessian(chain, x).certify()  # it sees a dense matrix
    assert sparse.jacobian(lambda x: x[1:] * x[:-1], x).certify()


LARGE = {
    "banded": (banded(2), 5),
    "arrow": (arrow, 2),
    "grid": (laplacian_2d(250, 400), 5),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE)
def test_a_hundred_thousand_variables_take_seconds(case):
    f, fewest = LARGE[case]
    x = at(10**5)
    H = sparse.hessian(f, x)
    assert H.num_products == fewest
    y, v = at(10**5), at(10**5)
    assert_close(H(y) @ v, hvp(f, y, v), factor=1e5)  # sums of 10⁵ terms
