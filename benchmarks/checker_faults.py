"""Functions of which one derivative is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
from checker_parts import (
    Case,
    bf16,
    cos_sign,
    f16,
    f32,
    jvp_rule,
    newton_sqrt,
    normal,
    one_of,
    staircase,
    tree_100,
    vjp_rule,
)
from jax import lax
from jax.scipy.special import logsumexp

square_one_wrong = jvp_rule(
    lambda w: w**2, lambda p, t: 2 * p[0] * t[0] * one_of(p[0], 4321, 1 + 1e-4)
)
sin_vjp_one_wrong = vjp_rule(
    jnp.sin, lambda p, g: (g * jnp.cos(p[0]) * one_of(p[0], 777, 1 + 1e-4),)
)
tanh_close = jvp_rule(jnp.tanh, lambda p, t: (1 + 1e-4) * (1 - jnp.tanh(p[0]) ** 2) * t[0])
square_half = jvp_rule(lambda x: x**2, lambda p, t: p[0] * t[0])
mean_as_sum = vjp_rule(lambda x: jnp.mean(x), lambda p, g: (g * jnp.ones_like(p[0]),))
matmul_wrong_transpose = vjp_rule(lambda x, w: x @ w, lambda p, g: (g @ p[1], p[0].T @ g))
quadratic_transposed = vjp_rule(
    lambda a, v: v @ a @ jnp.sin(v),
    lambda p, g: (
        g * jnp.outer(jnp.sin(p[1]), p[1]),
        g * (p[0] @ jnp.sin(p[1]) + jnp.cos(p[1]) * (p[0].T @ p[1])),
    ),
)
sin_flat_rule = jvp_rule(jnp.sin, lambda p, t: lax.stop_gradient(jnp.cos(p[0])) * t[0])
X0 = 0.7
sin_at_one_point = jvp_rule(jnp.sin, lambda p, t: np.cos(X0) * t[0])
product_half_rule = jvp_rule(
    lambda x, y: x * y, lambda p, t: lax.stop_gradient(p[1]) * t[0] + p[0] * t[1]
)
exp_vjp_flat = vjp_rule(jnp.exp, lambda p, g: (g * lax.stop_gradient(jnp.exp(p[0])),))
cube_slope = jvp_rule(lambda x: 3 * x**2, lambda p, t: 3 * p[0] * t[0])
cube_second = jvp_rule(lambda x: x**3, lambda p, t: cube_slope(p[0]) * t[0])
relu_leaky = jvp_rule(jax.nn.relu, lambda p, t: jnp.where(p[0] > 0, 1.0, 0.01) * t[0])
square_missing_conj = vjp_rule(lambda z: z**2 * 1j, lambda p, g: (g * jnp.conj(2j * p[0]),))
abs2_half = vjp_rule(
    lambda z: jnp.real(z) ** 2 + jnp.imag(z) ** 2, lambda p, g: (g * jnp.conj(p[0]),)
)
cumsum_wrong = vjp_rule(lambda x: jnp.cumsum(x), lambda p, g: (jnp.cumsum(g),))
log_near = jvp_rule(jnp.log, lambda p, t: 1.01 * t[0] / p[0])
square_far = jvp_rule(lambda x: x**2, lambda p, t: 2.002 * p[0] * t[0])
lse_unnormalised = vjp_rule(
    lambda x: logsumexp(x), lambda p, g: (g * jnp.exp(p[0] - jnp.max(p[0])),)
)
clip_through = vjp_rule(lambda x: jnp.clip(x, -1, 1), lambda p, g: (g,))
row_wrong = jvp_rule(jnp.sin, lambda p, t: jnp.cos(p[0]) * t[0] * one_of(p[0], 4, 1.1))
output_wrong = jvp_rule(
    jnp.tanh, lambda p, t: (1 - jnp.tanh(p[0]) ** 2) * t[0] * one_of(p[0], 321, 1.01)
)

gradient_reversed = vjp_rule(lambda x: x * 1.0, lambda p, g: (-0.1 * g,))
square_conj = jvp_rule(lambda z: z**2, lambda p, t: 2 * jnp.conj(p[0]) * t[0])
cell_bias_off = jvp_rule(
    lambda h, b: jnp.tanh(h + b),
    lambda p, t: (1 - jnp.tanh(p[0] + p[1]) ** 2) * (t[0] + 0.99 * t[1]),
)
BIASED = ({"w": normal(8, 4), "b": normal(8, seed=4), "v": normal(2, 8)},)


def biased_network(p):
    """A perceptron whose bias has a derivative 1 % off."""
    return jnp.sum(
        jnp.tanh(p["v"] @ cell_bias_off(p["w"] @ normal(4).astype(p["w"].dtype), p["b"]))
    )


@jax.custom_vjp
def cross_entropy(logits, labels):
    """Cross-entropy whose gradient forgets the one-hot part."""
    return jnp.mean(logsumexp(logits, axis=1) - logits[jnp.arange(len(labels)), labels])


cross_entropy.defvjp(
    lambda z, y: (cross_entropy(z, y), (z, y)),
    lambda r, g: (g * jax.nn.softmax(r[0]) / len(r[1]), None),
)


@jax.custom_vjp
def take_rows(table, rows):
    """Embedding whose gradient is scattered one row too far."""
    return table[rows]


take_rows.defvjp(
    lambda t, r: (t[r], (t, r)),
    lambda res, g: (jnp.zeros_like(res[0]).at[res[1] + 1].add(g), None),
)


def layer_norm_constant(x, gain):
    """Layer norm whose gradient takes the variance as constant."""
    centred = x - jnp.mean(x)
    return jnp.sum(jnp.sin(gain * centred / jnp.sqrt(lax.stop_gradient(jnp.mean(centred**2)))))


def wrong_linear_transpose(x):
    """A linear call whose transpose is not its transpose."""
    a = normal(4, 4, seed=3)
    y = jax.custom_derivatives.linear_call(
        lambda r, v: r @ v, lambda r, v: r @ v, a, jnp.sin(x)
    )
    return jnp.sum(y**2)


def unsymmetric_solve(b):
    """A solve that claims a symmetric matrix."""
    a = jnp.eye(5, dtype=b.dtype) * 3 + normal(5, 5, seed=1).astype(b.dtype) * 0.5
    x = lax.custom_linear_solve(
        lambda v: a @ v, b, lambda _, r: jnp.linalg.solve(a, r), symmetric=True
    )
    return jnp.sum(jnp.sin(x))


def fixed_point(a):
    """X = cos(a x), whose implicit derivative misses a term."""

    @jax.custom_vjp
    def solve(a):
        return lax.fori_loop(
            0, 60, lambda i, x: 0.5 * x + 0.5 * jnp.cos(a * x), jnp.ones_like(a)
        )

    def pull(res, g):
        a, x = res
        return (-g * jnp.sin(a * x) * x,)

    solve.defvjp(lambda a: (solve(a), (a, solve(a))), pull)
    return jnp.sum(solve(a) ** 2)


def only_under_vmap(gradient_only):
    """Build a function that doubles itself, or its gradient, in a batch."""

    @jax.custom_batching.custom_vmap
    def double(x):
        return x * 1.0

    @double.def_vmap
    def _(size, batched, x):
        return 2.0 * x, batched[0]

    shown = jvp_rule(double, lambda p, t: t[0])
    slope = vjp_rule(jnp.sin, lambda p, g: (shown(g * jnp.cos(p[0])),))
    if gradient_only:
        return lambda x: jnp.sum(slope(x))
    return lambda x: jnp.sum(shown(jnp.sin(x)))


def rnn_late(w, x0):
    """A recurrence whose cell is wrong after step 7."""
    cell = jvp_rule(
        lambda h, k: jnp.tanh(h),
        lambda p, t: (1 - jnp.tanh(p[0]) ** 2) * t[0] * jnp.where(p[1] > 7, 1.05, 1.0),
    )

    def step(h, k):
        return cell(w @ h, k.astype(h.dtype)), None

    return jnp.sum(lax.scan(step, x0, jnp.arange(10))[0])


def callback_sine(x):
    """Sine by callback, its derivative with the wrong sign."""
    call = jvp_rule(
        lambda x: jax.pure_callback(
            lambda v: np.sin(v),
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            x,
            vmap_method="expand_dims",
        ),
        lambda p, t: -jnp.cos(p[0]) * t[0],
    )
    return jnp.sum(call(x))


FAULTS = [
    Case(
        "one of 1e4, 1e-4 off",
        lambda p: jnp.sum(square_one_wrong(p["w"])) + jnp.sum(p["b"] ** 3),
        ({"w": normal(100, 100), "b": normal(10)},),
        "p['w'][43, 21]",
    ),
    Case(
        "one of 1e4, 1e-4 off, float32",
        lambda p: jnp.sum(square_one_wrong(p["w"])),
        ({"w": normal(100, 100, dtype=f32)},),
        "p['w'][43, 21]",
    ),
    Case(
        "one of 1e4, 1e-4 off, custom_vjp",
        lambda w: jnp.sum(sin_vjp_one_wrong(w) ** 2),
        (normal(10000),),
        "w[777]",
    ),
    Case(
        "all 1e-4 off",
        lambda p: jnp.sum(tanh_close(p["a"]) ** 2 * p["b"]),
        ({"a": normal(20), "b": normal(20, seed=1)},),
        "p['a']",
    ),
    Case("sign", lambda x, y: jnp.sum(cos_sign(x)) * y, (normal(7), 2.0), "x"),
    Case("factor", lambda x: jnp.sum(square_half(x)), (normal(7),), "x"),
    Case("mean without 1/n", lambda x: mean_as_sum(jnp.sin(x)), (normal(12),), "x"),
    Case(
        "wrong transpose",
        lambda x, w: jnp.sum(matmul_wrong_transpose(x, w) ** 2),
        (normal(3, 4), normal(4, 4, seed=1)),
        "x",
    ),
    Case(
        "transposed gradient",
        lambda a, v: quadratic_transposed(a, v),
        (normal(5, 5), normal(5, seed=2)),
        "a",
    ),
    Case(
        "stop_gradient on 3e5",
        lambda p: jnp.sum(jnp.tanh(lax.stop_gradient(p["big"]))) + jnp.sum(p["small"] ** 2),
        ({"big": normal(300000, dtype=f32), "small": normal(3, dtype=f32)},),
        "p['big']",
    ),
    Case(
        "stop_gradient in a product",
        lambda x: jnp.sum(x * lax.stop_gradient(jnp.sin(x))),
        (normal(5),),
        "x",
    ),
    Case(
        "one leaf of five",
        lambda p: sum(jnp.sum((square_half if k == "d" else jnp.sin)(v)) for k, v in p.items()),
        ({k: normal(6, seed=i) for i, k in enumerate("abcde")},),
        "p['d']",
    ),
    Case(
        "tiny leaf by a big one",
        lambda p: jnp.sum(p["big"] ** 2) + jnp.sum(cos_sign(1e6 * p["tiny"])),
        ({"big": normal(50, scale=1e6), "tiny": normal(5, scale=1e-6)},),
        "p['tiny']",
    ),
    Case(
        "one leaf of a hundred",
        lambda p: tree_100(p, True),
        ({f"w{k:02d}": normal(4, seed=k) for k in range(100)},),
        "p['w61']",
    ),
    Case("value only under vmap", only_under_vmap(False), (normal(3),), ""),
    Case("gradient only under vmap", only_under_vmap(True), (normal(3),), ""),
    Case(
        "one branch of cond",
        lambda x: jnp.sum(lax.cond(x[0] > 0, lambda v: square_half(v), jnp.cos, x)),
        (jnp.abs(normal(4)),),
        "x",
    ),
    Case(
        "one branch of where",
        lambda x: jnp.sum(jnp.where(x > 1, square_half(x), jnp.sin(x))),
        (normal(40),),
        "x",
    ),
    Case(
        "norm at 0",
        lambda p: jnp.linalg.norm(p["u"]) + jnp.sum(p["v"] ** 2),
        ({"u": jnp.zeros(3), "v": normal(3)},),
        "p['u']",
    ),
    Case(
        "where trap, log",
        lambda x: jnp.sum(jnp.where(x > 0, jnp.log(x), 0.0)),
        (jnp.array([1.0, 0.0, 2.0]),),
        "x[1]",
    ),
    Case(
        "where trap, sqrt",
        lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0)),
        (jnp.array([1.0, 0.0, 2.0], f32),),
        "x[1]",
    ),
    Case(
        "arctan2 at 0",
        lambda x: jnp.where(x[0] > -1, x[1] ** 2 + 0 * jnp.arctan2(x[0] * 0, x[1] * 0), 0.0),
        (jnp.array([0.5, 2.0]),),
        "x",
    ),
    Case("second order: flat rule", lambda x: jnp.sum(sin_flat_rule(x)), (normal(5),), "x", 2),
    Case(
        "second order: right at one point",
        lambda x: jnp.sum(sin_at_one_point(x)),
        (jnp.full(3, X0),),
        "x",
        2,
    ),
    Case(
        "second order: off-diagonal",
        lambda x, y: jnp.sum(product_half_rule(x, y)),
        (normal(3), normal(3, seed=1)),
        "x",
        2,
    ),
    Case("second order: custom_vjp", lambda x: jnp.sum(exp_vjp_flat(x)), (normal(4),), "x", 2),
    Case(
        "second order: factor",
        lambda p: jnp.sum(cube_second(p["a"])) + jnp.sum(p["b"]) ** 2,
        ({"a": normal(4), "b": normal(4, seed=1)},),
        "p['a']",
        2,
    ),
    Case(
        "second order: one of 900",
        lambda w: jnp.sum(
            jvp_rule(
                jnp.sin,
                lambda p, t: (
                    jnp.where(
                        jnp.arange(900) == 123, lax.stop_gradient(jnp.cos(p[0])), jnp.cos(p[0])
                    )
                    * t[0]
                ),
            )(w)
        ),
        (normal(900),),
        "w[123]",
        2,
    ),
    Case("linear_call transpose", wrong_linear_transpose, (normal(4),), "x"),
    Case("solve not symmetric", unsymmetric_solve, (normal(5),), "b"),
    Case("implicit function", fixed_point, (jnp.array([0.8, 1.1]),), "a"),
    Case(
        "complex without conj",
        lambda z: jnp.abs(square_missing_conj(z)) ** 2 + jnp.real(square_missing_conj(z)),
        (jnp.asarray(1.0 + 0.5j),),
        "z",
    ),
    Case(
        "complex, half",
        lambda z: jnp.sum(abs2_half(z)),
        (normal(3) + 1j * normal(3, seed=1),),
        "z",
    ),
    Case("bfloat16, factor", lambda x: jnp.sum(square_half(x)), (normal(6, dtype=bf16),), "x"),
    Case("float16, sign", lambda x: jnp.sum(cos_sign(x)), (normal(6, dtype=f16),), "x"),
    Case(
        "one row of a Jacobian",
        lambda x: row_wrong(normal(6, 4, seed=1).astype(x.dtype) @ x),
        (normal(4),),
        "x",
    ),
    Case(
        "one of 500 outputs",
        lambda x: output_wrong(normal(500, 4, seed=1).astype(x.dtype) @ x),
        (normal(4),),
        "x",
    ),
    Case(
        "one output leaf",
        lambda x, y: {"a": jnp.sin(x), "b": cos_sign(y) * x},
        (normal(3), normal(3, seed=1)),
        "y",
    ),
    Case(
        "x near 1e-6, 1 % off", lambda x: jnp.sum(log_near(x)), (jnp.array([1e-6, 3e-6]),), "x"
    ),
    Case(
        "x near 1e6, 0.1 % off",
        lambda x: jnp.sum(square_far(x)),
        (jnp.array([1e6, 3e6], f32),),
        "x",
    ),
    Case(
        "noise 1e-6, factor",
        lambda x: jnp.sum(square_half(x)) + staircase(x, 1e-6),
        (normal(3),),
        "x",
    ),
    Case(
        "while loop, forward only",
        lambda x: jnp.sum(cos_sign(newton_sqrt(x))),
        (jnp.array([2.0, 3.0]),),
        "x",
    ),
    Case(
        "scatter one row off",
        lambda t, rows: jnp.sum(take_rows(t, rows) ** 2),
        (normal(6, 3), jnp.array([0, 2, 3])),
        "t",
    ),
    Case("cumsum not reversed", lambda x: jnp.sum(cumsum_wrong(x) ** 2), (normal(8),), "x"),
    Case(
        "cross-entropy without one-hot",
        lambda w, y: cross_entropy(normal(8, 4, seed=1).astype(w.dtype) @ w, y),
        (normal(4, 3), jnp.array([0, 1, 2, 0, 1, 2, 0, 1])),
        "w",
    ),
    Case("logsumexp not normalised", lambda x: lse_unnormalised(x) ** 2, (normal(5),), "x"),
    Case(
        "layer norm, constant variance",
        layer_norm_constant,
        (normal(6), normal(6, seed=1)),
        "x",
    ),
    Case(
        "clip passes through",
        lambda x: jnp.sum(jnp.sin(clip_through(x))),
        (2 * normal(9),),
        "x",
    ),
    Case("relu leaks", lambda x: jnp.sum(relu_leaky(x) ** 1), (normal(9, dtype=f32),), "x"),
    Case("callback, sign", callback_sine, (normal(3),), "x"),
    Case("recurrence wrong late", rnn_late, (normal(4, 4), normal(4, seed=1)), "w"),
    Case(
        "float32 inside, factor",
        lambda x: jnp.sum(square_half(x.astype(f32))),
        (normal(5),),
        "x",
    ),
    Case(
        "target detached",
        lambda p: jnp.sum((p["q"] - lax.stop_gradient(2 * p["t"])) ** 2),
        ({"q": normal(3), "t": normal(3, seed=1)},),
        "p['t']",
    ),
    Case(
        "gradient reversed",
        lambda x: jnp.sum(gradient_reversed(x) ** 2),
        (normal(3),),
        "x",
    ),
    Case("bias 1 % off", biased_network, BIASED, "p['b']"),
    Case(
        "complex conj, forward",
        lambda z: jnp.real(square_conj(z)),
        (jnp.asarray(1.0 + 2.0j),),
        "z",
    ),
]
