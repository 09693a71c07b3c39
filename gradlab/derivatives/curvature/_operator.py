"""A product on pytrees as one on flat vectors, and what the estimators ask of their options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._equal_programs import computed
from gradlab._errors import check_choice
from gradlab._typing import Array, Params
from gradlab.derivatives._leaves import Layout, check_params, flatten, same_structure

__all__ = ["Operator", "Product", "checked_budget", "checked_key", "columns", "flat_operator"]

if TYPE_CHECKING:
    Product = Callable[[Params], Params]
else:  # what `flat_operator` checks itself, in the caller's words
    Product = Any
# Products made together: matrix products become efficient, and memory stays small.
_TOGETHER = 16


class Operator(NamedTuple):
    """A symmetric matrix by its products with flat vectors, shape (n,)."""

    apply: Callable[[Array], Array]
    n: int
    dtype: Any
    layout: Layout

    def compute(self, function: Callable[..., Any], *operands: Any) -> Any:
        """Return `function(operator, *operands)`, compiled once for products alike."""
        return computed(functools.partial(function, self), *operands)

    def images(self, vectors: Array) -> Array:
        """Return the products with vectors, shape (k, n), a few at a time."""
        return jax.lax.map(self.apply, vectors, batch_size=min(len(vectors), _TOGETHER))


def flat_operator(product: Product, x: Params) -> Operator:
    """Check a product at the door and flatten it."""
    if not callable(product):
        raise TypeError(
            "`product` must be a function of v to A v, as `hessian_vp(loss, x)`, got "
            f"{type(product).__name__}."
        )
    check_params(x, "x", holomorphic=False)
    flat, layout = flatten(x)
    like = jax.tree.map(jnp.asarray, x)
    image = jax.eval_shape(product, like)
    shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
    if not same_structure(image, like) or [v.shape for v in jax.tree.leaves(image)] != shapes:
        raise ValueError(
            "`product` must return what is shaped like `x`, "
            f"{jax.tree.map(jnp.shape, like)}, got {jax.tree.map(jnp.shape, image)}."
        )

    def apply(v: Array) -> Array:
        return flatten(product(layout.unflatten(v)))[0].astype(flat.dtype)

    return Operator(apply, flat.size, flat.dtype, layout)


def columns(operator: Operator, function: Callable[[Array, Array], Any]) -> Any:
    """Map `function(i, column i)` over all columns, a few at a time."""

    def one(i: Array) -> Any:
        unit = jnp.zeros(operator.n, operator.dtype).at[i].set(1)
        return function(i, operator.apply(unit))

    return jax.lax.map(one, jnp.arange(operator.n), batch_size=min(operator.n, _TOGETHER))


def checked_budget(num_products: Any, least: int) -> int:
    """Return the number of products, or raise."""
    whole = isinstance(num_products, int) and not isinstance(num_products, bool)
    if not whole or num_products < least:
        raise ValueError(
            f"`num_products` must be a whole number ≥ {least}, got {num_products!r}."
        )
    return num_products


def checked_key(key: Any, method: str) -> Array:
    """Return the key, or say that one is needed."""
    if key is None:
        raise ValueError(
            f"method={method!r} draws random vectors and needs a `key`: pass "
            "key=jax.random.key(0), or method='exact'."
        )
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        legacy = getattr(key, "dtype", None) == jnp.uint32 and jnp.shape(key) == (2,)
        if not legacy:
            raise TypeError(f"`key` must be a key of jax.random, got {key!r:.60}.")
    return key


def checked_method(method: Any, methods: tuple[str, ...], n: int, num_products: Any) -> str:
    """Return the method: "exact" where as many products are allowed as there are columns."""
    check_choice("method", method, methods)
    return "exact" if n <= num_products else method
