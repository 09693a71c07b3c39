"""Second derivatives by automatic differentiation: closed forms, modes, memory."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close

from gradlab.derivatives import autodiff
from gradlab.derivatives._memory import columns_together, peak_bytes
from gradlab.derivatives.with_derivative import with_derivative

MODES = ("forward_over_reverse", "reverse_over_forward", "reverse_over_reverse", "finite")


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_hessian(x):
    diagonal = np.zeros_like(x)
    diagonal[:-1] = 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
    diagonal[1:] += 200
    off = np.diag(-400 * x[:-1], 1)
    return np.diag(diagonal) + off + off.T


START = np.array([-1.2, 1.0, 0.7, 1.3])
DIRECTION = np.array([1.0, -0.5, 2.0, 0.1])


@jax.custom_vjp
def cube(x):
    return x**3


# A forward pass that calls the function itself, as most do: the value then meets forward mode.
cube.defvjp(lambda x: (cube(x), x), lambda x, t: (3 * x**2 * t,))


@jax.custom_vjp
def exponential(x):
    return jnp.exp(x)


def _exponential_forward(x):
    y = exponential(x)
    return y, y


exponential.defvjp(_exponential_forward, lambda y, t: (y * t,))


def tree_loss(p):
    return jnp.sum(jnp.sin(p["w"]) ** 2) * p["b"][0]


TREE = {"w": jnp.arange(6.0).reshape(2, 3), "b": [jnp.asarray(2.0), None]}
TANGENT = {"w": jnp.ones((2, 3)), "b": [jnp.asarray(0.5), None]}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("mode", MODES)
def test_product_is_that_of_the_closed_form(mode, dtype):
    x, v = jnp.asarray(START, dtype), jnp.asarray(DIRECTION, dtype)
    expected = rosenbrock_hessian(np.asarray(x, float)) @ np.asarray(v, float)
    product = autodiff.hvp(rosenbrock, x, v, mode=mode)
    assert product.dtype == dtype
    factor = 20 * float(jnp.finfo(dtype).eps) ** (-1 / 3) if mode == "finite" else 10
    assert_close(product, jnp.asarray(expected, dtype), factor=factor)


@pytest.mark.parametrize("mode", MODES)
def test_modes_work_on_trees_under_jit_and_vmap(mode):
    product = lambda x, v: autodiff.hvp(tree_loss, x, v, mode=mode)  # noqa: E731
    expected = jax.jvp(jax.grad(tree_loss), (TREE,), (TANGENT,))[1]
    factor = 1e9 if mode == "finite" else 10
    assert_close(jax.jit(product)(TREE, TANGENT), expected, factor=factor)
    batch = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), TANGENT)
    second = jax.tree.map(lambda a: a[1], jax.vmap(product, (None, 0))(TREE, batch))
    assert_close(second, jax.tree.map(lambda a: 2 * a, expected), factor=factor)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_finite_mode_scales_with_direction_point_and_loss(factor):
    x, v = jnp.asarray(START), jnp.asarray(DIRECTION)
    plain = autodiff.hvp(rosenbrock, x, v, mode="finite")
    scaled = autodiff.hvp(rosenbrock, x, factor * v, mode="finite")
    assert_close(scaled / factor, plain, factor=1e7)
    moved = autodiff.hvp(lambda x: rosenbrock(x / factor), factor * x, v, mode="finite")
    assert_close(moved * factor**2, plain, factor=1e7)
    loss = autodiff.hvp(lambda x: factor * rosenbrock(x), x, v, mode="finite")
    assert_close(loss / factor, plain, factor=1e7)
    assert jnp.all(autodiff.hvp(rosenbrock, x, 0 * v, mode="finite") == 0)


def test_further_arguments_are_passed_on():
    f = lambda x, a, b: a * jnp.sum(x**3) + b["c"]  # noqa: E731
    x, v, args = jnp.array([1.0, 2.0]), jnp.ones(2), (2.0, {"c": 1.0})
    assert_close(autodiff.hvp(f, x, v, *args), jnp.array([12.0, 24.0]))
    value, g, product = autodiff.value_grad_hvp(f, x, *args)
    assert_close(
        (value, g, product(v)), (19.0, jnp.array([6.0, 24.0]), jnp.array([12.0, 24.0]))
    )
    assert_close(autodiff.hessian(f)(x, *args), jnp.diag(12 * x))


def test_one_linearisation_serves_many_products():
    traces = []

    def f(p):
        traces.append(1)
        return tree_loss(p)

    value, g, product = autodiff.value_grad_hvp(f, TREE)
    after = len(traces)
    assert_close(value, tree_loss(TREE))
    assert_close(g, jax.grad(tree_loss)(TREE))
    for v in (TANGENT, TREE):
        assert_close(product(v), jax.jvp(jax.grad(tree_loss), (TREE,), (v,))[1])
    assert len(traces) == after


def test_product_accepts_what_looks_like_x():
    product = autodiff.value_grad_hvp(lambda x: jnp.sum(x**3), np.ones(2, np.float32))[2]
    assert_close(product([1.0, 2.0][0] * np.ones(2)), 6 * jnp.ones(2, jnp.float32))
    with pytest.raises(ValueError, match=r"`v` must have the structure of `x`"):
        product([1.0, 2.0])
    with pytest.raises(ValueError, match=r"`v\['a'\]` must have the shape of `x\['a'\]`"):
        autodiff.hvp(lambda p: jnp.sum(p["a"]), {"a": jnp.ones(2)}, {"a": jnp.ones(3)})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("chunk_size", [None, 1, 3, 4, 100])
def test_hessian_is_that_of_the_closed_form_in_any_chunks(chunk_size, dtype):
    x = jnp.asarray(START, dtype)
    H = autodiff.hessian(rosenbrock, chunk_size=chunk_size)(x)
    assert H.dtype == dtype
    assert jnp.all(H.T == H)
    assert_close(H, jnp.asarray(rosenbrock_hessian(np.asarray(x, float)), dtype), factor=10)
    assert jnp.all(autodiff.flat_hessian(rosenbrock, x, chunk_size) == H)


def test_hessian_is_symmetric_to_the_last_bit():
    A = jax.random.normal(jax.random.key(0), (20, 12))
    f = lambda x: jnp.sum(jnp.tanh(A @ x) ** 3)  # noqa: E731
    x = jnp.linspace(-1.0, 1.0, 12)
    plain, H = jax.hessian(f)(x), autodiff.hessian(f)(x)
    assert jnp.any(plain != plain.T)  # the reason to take the mean with the transpose
    assert jnp.all(H.T == H)
    assert_close(H, plain)


@pytest.mark.slow
def test_hessian_is_shaped_like_that_of_jax():
    H, expected = autodiff.hessian(tree_loss)(TREE), jax.hessian(tree_loss)(TREE)
    assert_close(H, expected)
    f = lambda a, x, b: a * jnp.sum(x**3) * b  # noqa: E731
    args = (2.0, jnp.ones((2, 1)), 3.0)
    for argnums in (0, 1, (0, 1)):
        H, expected = (h(f, argnums=argnums)(*args) for h in (autodiff.hessian, jax.hessian))
        assert_close(H, expected)


def test_hessian_works_under_jit_and_vmap():
    dense = autodiff.hessian(rosenbrock, chunk_size=3)
    points = jnp.stack([START, 2 * START])
    expected = jnp.stack([rosenbrock_hessian(np.asarray(p)) for p in points])
    assert_close(jax.vmap(dense)(points), expected)
    assert_close(jax.jit(dense)(points[1]), expected[1])


def test_half_precision_hessian_is_computed_in_float32():
    x = jnp.ones(3, jnp.bfloat16)
    H = autodiff.hessian(lambda x: jnp.sum(x.astype(jnp.float32) ** 3))(x)
    assert H.dtype == jnp.bfloat16
    assert jnp.all(6 * jnp.eye(3) == H)


def test_chunks_bound_the_memory():
    n, width = 400, 500
    A = jnp.ones((width, n))
    f = lambda x: jnp.sum(jnp.tanh(A @ x))  # noqa: E731

    def temporary(h):
        compiled = jax.jit(h).lower(jnp.ones(n)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small = temporary(autodiff.hessian(f, chunk_size=8))
    assert small < 3 * 8 * n * n
    assert small < temporary(autodiff.hessian(f, chunk_size=n)) / 1.5


@pytest.mark.parametrize(
    ("function", "second"), [(cube, lambda x: 6 * x), (exponential, jnp.exp)]
)
def test_loss_without_forward_mode_is_differentiated_in_reverse(function, second):
    f = lambda x: jnp.sum(function(x))  # noqa: E731
    x, v = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
    with pytest.raises(TypeError, match="forward-mode"):
        jax.hessian(f)(x)
    for mode in MODES:
        product = lambda x, v, mode=mode: autodiff.hvp(f, x, v, mode=mode)  # noqa: E731
        assert_close(product(x, v), second(x) * v, factor=1e7)
        assert_close(jax.jit(product)(x, v), second(x) * v, factor=1e7)
    for transform in (lambda g: g, jax.jit):
        assert_close(transform(autodiff.hessian(f))(x), jnp.diag(second(x)))
        products = transform(lambda x: autodiff.value_grad_hvp(f, x)[2](v))
        assert_close(products(x), second(x) * v)
    value, g, _ = autodiff.value_grad_hvp(f, x)
    assert_close((value, g), jax.value_and_grad(f)(x))


def test_other_operators_are_used_where_installed():
    # The rule of jax.grad itself is autodiff: the same bits.
    f = with_derivative(rosenbrock, grad=jax.grad)
    x = jnp.asarray(START)
    assert jnp.all(autodiff.hessian(f)(x) == autodiff.hessian(rosenbrock)(x))


def test_unknown_mode_and_chunk_are_refused():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="Did you mean 'finite'"):
        autodiff.hvp(jnp.sum, x, x, mode="finit")
    for chunk_size in (0, -1, True):
        with pytest.raises(ValueError, match="`chunk_size` must be a positive integer"):
            autodiff.hessian(jnp.sum, chunk_size=chunk_size)


def test_more_than_max_bytes_is_refused_with_the_gigabytes():
    f = lambda x: jnp.sum(x**2)  # noqa: E731
    x = jnp.ones(10**4)
    with pytest.raises(ValueError, match=r"takes 0\.8 GB.*`max_bytes` is 1 GB"):
        autodiff.hessian(f, max_bytes=1e9)(x)
    assert jax.eval_shape(autodiff.hessian(f, max_bytes=1.7e9), x).shape == (10**4, 10**4)
    for max_bytes in (0, -1, "1 GB", True, float("inf")):
        with pytest.raises(ValueError, match="`max_bytes` must be a positive number"):
            autodiff.hessian(f, max_bytes=max_bytes)


def test_memory_beside_the_hessian_is_that_of_the_result():
    n, width = 1500, 600
    A = jnp.linspace(-1.0, 1.0, width * n, dtype=jnp.float32).reshape(width, n)
    f = lambda x: jnp.sum(jnp.tanh(jnp.tanh(A @ x)))  # noqa: E731
    compiled = jax.jit(autodiff.hessian(f)).lower(jnp.ones(n, jnp.float32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 1.5 * 4 * n * n


def test_the_chunk_shrinks_to_what_is_left_of_max_bytes():
    result = 8 * 100**2
    columns = lambda bytes_: columns_together(100, 8, 1000, bytes_)  # noqa: E731
    assert columns(10**9) == 20  # a quarter of the result; divides 100
    assert columns(2 * result + 5500) == 5
    assert columns(2 * result + 10) == 1
    assert columns_together(101, 8, 1, 10**9) == 32
    assert columns_together(3, 8, 10**6, 10**9) == 3


def test_peak_counts_what_is_alive_at_once():
    def f(x):  # two vectors at the most: each is dropped when the next is made
        for _ in range(10):
            x = jnp.sin(x)
        return x

    assert peak_bytes(jax.make_jaxpr(f)(jnp.ones(1000)).jaxpr) == 2 * 8000
    keeps = lambda x: jnp.sum(jnp.stack([jnp.sin(x), jnp.cos(x), x]))  # noqa: E731
    assert peak_bytes(jax.make_jaxpr(keeps)(jnp.ones(1000)).jaxpr) >= 5 * 8000


SPREAD = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import gradlab as gl

mesh = jax.make_mesh((4,), ("d",))
for n in (12, 13):
    A = jax.random.normal(jax.random.key(0), (20, n))
    f = lambda x, A: jnp.sum(jnp.tanh(A @ x) ** 3)
    x = jnp.linspace(-1.0, 1.0, n)
    H = jax.jit(gl.hessian(f, mesh=mesh, chunk_size=2))(x, A)
    np.testing.assert_allclose(H, gl.hessian(f)(x, A), rtol=1e-5, atol=1e-5)
    if n == 12:
        assert [s.data.shape for s in H.addressable_shards] == 4 * [(3, 12)], H.sharding
        auto = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
        A = jax.device_put(A, NamedSharding(auto, P("d")))
        spread = gl.hessian(f, mesh=auto)(jax.device_put(x, NamedSharding(auto, P())), A)
        np.testing.assert_allclose(spread, H, rtol=1e-5, atol=1e-5)
print("spread")
"""


@pytest.mark.slow
def test_rows_are_spread_over_the_devices_of_a_mesh():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    call = [sys.executable, "-c", SPREAD]
    done = subprocess.run(call, env=os.environ | flags, capture_output=True, text=True)
    assert done.stdout == "spread\n", done.stderr


def test_hessian_larger_than_memory_is_refused_before_it_is_allocated():
    with pytest.raises(ValueError, match=r"8e\+03 GB.*newton_cg"):
        autodiff.hessian(lambda x: jnp.sum(x**2))(jnp.ones(10**6))
    with pytest.raises(ValueError, match=r"GB.*`hvp`"):
        jax.eval_shape(autodiff.hessian(lambda x: jnp.sum(x**2)), jnp.ones(10**6))


@pytest.mark.parametrize(
    ("f", "x", "match"),
    [
        (lambda x: x, jnp.ones(3), "must return a scalar"),
        (lambda x: x[:1], jnp.ones(3), r"Take its sum, or \[0\]"),
        (lambda x: 1, jnp.ones(3), "real floating scalar"),
        (lambda x: (x[0], 1.0), jnp.ones(3), "has_aux"),
        (lambda x: np.dot(x, x), jnp.ones(3), r"calls NumPy on a traced value.*gradlab.finite"),
        (lambda x: x[0] if x[0] > 0 else x[1], jnp.ones(3), r"decides in Python.*jnp.where"),
        (lambda x: jnp.sum(x["k"]), {"k": jnp.arange(3)}, r"`x\['k'\]` must be floating"),
        (lambda x: x, 1.0 + 1j, "`x` must be real"),
    ],
)
def test_what_cannot_be_differentiated_is_refused(f, x, match):
    v = jax.tree.map(lambda a: 1.0 * a, x)
    for call in (
        lambda: autodiff.hvp(f, x, v),
        lambda: autodiff.value_grad_hvp(f, x),
        lambda: autodiff.hessian(f)(x),
    ):
        with pytest.raises(TypeError, match=match.replace("`x", "`(x|params)")):
            call()


def test_own_exception_of_the_function_comes_out_unwrapped():
    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        autodiff.hessian(f)(jnp.ones(2))
