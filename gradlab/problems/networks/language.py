"""What the models of characters share: windows of the text, loss, and the simple rivals.

A row is a window of T + 1 characters: the model reads the first T and tells, at each place,
the next one. The rivals are entropies counted from the text itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradlab._typing import AnyArray, Int, Params
from gradlab.problems import data, text
from gradlab.problems._types import Value
from gradlab.problems.networks import layers
from gradlab.problems.registry import check_size

__all__ = ["NextCharacter", "entropies", "next_character", "windows"]

Windows = Int[AnyArray, "N T"]
# Both of Python 3.11 and of 3.14 have more: the rows are as many in each.
_USED = 250_000


class NextCharacter(NamedTuple):
    """The functions of a model of characters, all of `(params, windows)`."""

    loss: Callable[..., Any]
    predict: Callable[..., Any]
    accuracy: Callable[..., Any]

    @property
    def metrics(self) -> dict[str, Callable[..., Any]]:
        """What is measured on held-out data."""
        return {"accuracy": self.accuracy, "cross_entropy": self.loss}


def next_character(scores: Callable[[Params, Any], Any]) -> NextCharacter:
    """Build the functions of the model with these scores.

    Args:
        scores: Function of the parameters and characters, shape (N, T), to the scores of the
            next character at each place, shape (N, T, symbols).
    """

    def loss(params: Params, rows: Windows) -> Value:
        return layers.cross_entropy(scores(params, rows[:, :-1]), rows[:, 1:])

    def predict(params: Params, rows: Windows) -> Any:
        return scores(params, rows[:, :-1])

    def accuracy(params: Params, rows: Windows) -> Value:
        return layers.accuracy(scores(params, rows[:, :-1]), rows[:, 1:])

    loss.__name__ = loss.__qualname__ = f"loss_of_{scores.__name__}"
    return NextCharacter(loss, predict, accuracy)


def windows(
    length: int, rows: int, held_out: float
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Cut the text into windows of `length` + 1 characters that do not overlap.

    Args:
        length: Characters that are read, T.
        rows: Windows to train on.
        held_out: Held-out windows for each window that is used.

    Returns:
        The training windows, shape (rows, T + 1), int32, and the held-out ones.

    Raises:
        ValueError: If the text has not so many windows, or the share is impossible.
    """
    length = check_size("length", length, at_least=1)
    whole = text.characters()[:_USED]
    count = len(whole) // (length + 1)
    cut = whole[: count * (length + 1)].reshape(count, length + 1)
    return data.sample((cut,), rows, held_out)


@functools.cache
def entropies() -> dict[str, float]:
    r"""Return the entropies of the text in nats a character, which a model has to beat.

    "unigram" $-\sum_b p(b) \ln p(b)$ knows how frequent each character is, "bigram"
    $-\sum_{a,b} p(a, b) \ln p(b | a)$ also the character before. Both are counted on the
    whole text, held-out parts included, so that they are lower than a rival could be that
    has not seen these.

    Examples:
        >>> found = entropies()
        >>> print(found["bigram"] < found["unigram"] < np.log(40))
        True
    """
    symbols = text.characters()[:_USED]
    size = len(text.ALPHABET)
    joint = np.bincount(symbols[:-1] * size + symbols[1:], minlength=size**2) / (_USED - 1)
    joint = joint.reshape(size, size)
    before, after = joint.sum(axis=1), joint.sum(axis=0)
    return {
        "unigram": _entropy(after),
        "bigram": _entropy(joint) - _entropy(before),
    }


def _entropy(probabilities: np.ndarray) -> float:
    """Return the entropy of a distribution, in nats."""
    positive = probabilities[probabilities > 0]
    return float(-np.sum(positive * np.log(positive)))
