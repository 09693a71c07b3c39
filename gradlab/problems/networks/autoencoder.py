r"""A variational autoencoder of the digits, in black and white.

The encoder tells mean μ and standard deviation s of a few hidden numbers z, the decoder the
probability of each pixel to be white. The loss is minus the evidence lower bound,

$$ -\mathrm{E}\left[\ln p(x | z)\right]
   + \tfrac12 \sum_j \left(μ_j^2 + s_j^2 - 1 - \ln s_j^2\right), \qquad z = μ + s ⊙ ε, $$

with the noise ε drawn beforehand and passed as data: so the gradient goes through z, and the
loss is a function. Fresh noise for every batch makes it the usual stochastic gradient.

References:
    Kingma, D. P. and Welling, M. (2014). Auto-encoding variational Bayes. ICLR.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Params
from gradlab.problems import data
from gradlab.problems._types import Features, Known, Rows, Targets, Value
from gradlab.problems.networks import layers
from gradlab.problems.registry import Problem, check_size, register

__all__ = ["decode", "factorised_bound", "vae"]


def _encoded(params: Params, pixels: Features) -> tuple[Rows, Rows]:
    """Return the mean of the hidden numbers, and the logarithm of their variance."""
    hidden = jnp.tanh(layers.dense(params["encoder"][0], pixels))
    mean, log_variance = jnp.split(layers.dense(params["encoder"][1], hidden), 2, axis=1)
    return mean, log_variance


def _decoded(params: Params, z: Rows) -> Rows:
    """Return the log-odds of each pixel to be white."""
    hidden = jnp.tanh(layers.dense(params["decoder"][0], z))
    return layers.dense(params["decoder"][1], hidden)


def _bounds(params: Params, pixels: Features, noise: Rows) -> Targets:
    """Return minus the evidence lower bound of each picture, in nats."""
    mean, log_variance = _encoded(params, pixels)
    logits = _decoded(params, mean + jnp.exp(log_variance / 2) * noise)
    # -ln p(x | z) = softplus(l) - x l for a pixel with log-odds l
    misfit = jnp.sum(jax.nn.softplus(logits) - pixels * logits, axis=1)
    divergence = jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=1) / 2
    return misfit + divergence


def decode(params: Params, z: Rows) -> Rows:
    """Return the probabilities of the pixels to be white, of hidden numbers z.

    Args:
        params: Parameters of the problem "vae".
        z: Hidden numbers, shape (N, latent); of random normal ones it invents pictures.

    Returns:
        Probabilities, shape (N, 64).
    """
    return jax.nn.sigmoid(_decoded(params, z))


def _vae_loss(params: Params, pixels: Features, noise: Rows) -> Value:
    return jnp.mean(_bounds(params, pixels, noise))


def _reconstruction(params: Params, pixels: Features, *_: Any) -> Features:
    """Return the probabilities of the pixels, of the mean of the hidden numbers."""
    return decode(params, _encoded(params, pixels)[0])


def _elbo(params: Params, pixels: Features, noise: Rows) -> Value:
    return -_vae_loss(params, pixels, noise)


@functools.cache
def _start(pixels: int, width: int, latent: int) -> Callable[..., Params]:
    """Build the start."""
    sizes = {"decoder": (latent, width, pixels), "encoder": (pixels, width, 2 * latent)}
    return layers.start_from(
        {
            name: [layers.dense_weights(a, b) for a, b in itertools.pairwise(widths)]
            for name, widths in sizes.items()
        }
    )


@register("vae", tags=("network", "generative", "data", "random_start"))
def vae(
    *, width: int = 24, latent: int = 4, rows: int | None = None, held_out: float = 0.25
) -> Problem:
    """Build a variational autoencoder of the digits.

    Pixels of at least half the full brightness are white. Encoder and decoder have one
    hidden layer of `width` tanh units; `latent` hidden numbers, with a normal prior.
    """
    width = check_size("width", width, at_least=1)
    latent = check_size("latent", latent, at_least=1)
    white = (data.digits()[0] >= 0.5).astype(np.float64)
    noise = np.random.default_rng(3).standard_normal((len(white), latent))
    train, test = data.split((white, noise), held_out, rows=rows)
    return Problem(
        name="vae",
        loss=_vae_loss,
        init=_start(white.shape[1], width, latent),
        args=train,
        held_out=test,
        row_args=2,
        predict=_reconstruction,
        metrics={"elbo": _elbo},
        description="Variational autoencoder, digits: 3,480 parameters, 1,348 rows.",
        source=data.DIGITS,
    )


def factorised_bound(train: Features, test: Known) -> float:
    r"""Return the mean log-likelihood under one Bernoulli distribution a pixel, in nats.

    What a model without hidden numbers reaches: each pixel's probability is
    $(1 + \text{white in training}) / (2 + N)$, Laplace's rule, which is never 0 or 1.

    Args:
        train: Pixels 0 and 1 to count, shape (N, d).
        test: Pixels to judge, shape (M, d).

    Examples:
        >>> print(round(factorised_bound(np.zeros((0, 2)), np.ones((1, 2))), 3))
        -1.386
    """
    share = (1 + np.sum(np.asarray(train), axis=0)) / (2 + len(train))
    test = np.asarray(test)
    logs = test * np.log(share)[None, :] + (1 - test) * np.log1p(-share)[None, :]
    return float(np.mean(np.sum(logs, axis=1)))
