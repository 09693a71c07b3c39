"""The text that ships with Python: its language reference, as characters and as words.

`pydoc_data.topics` holds what `help()` shows. Topics quote one another, so a paragraph is
kept where it comes first and dropped where it is repeated: otherwise a held-out row would
often have been seen. Versions of Python differ in the text, not in the sizes used here.
"""

from __future__ import annotations

import collections
import functools
import re

import numpy as np

from gradlab._typing import Float, Int

__all__ = ["ALPHABET", "characters", "cooccurrences", "decode", "topic_words", "vocabulary"]

# 40 symbols; every digit is written 0, and whatever else there is, the last one.
ALPHABET = " abcdefghijklmnopqrstuvwxyz0.,:'\"()-_=*~"
_WORD = re.compile("[a-z]+")


@functools.cache
def _topics() -> dict[str, str]:
    """Return the topics in alphabetical order, in lower case, without what is repeated."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    kept = {}
    for name in sorted(topics):
        paragraphs = [" ".join(text.split()) for text in topics[name].lower().split("\n\n")]
        new = [text for text in dict.fromkeys(paragraphs) if text and text not in seen]
        seen.update(new)
        kept[name] = " ".join(new)
    return kept


@functools.cache
def characters() -> Int[np.ndarray, " N"]:
    """Return the whole text as places in `ALPHABET`, int32.

    Runs of four and more of one sign, which draw tables and rules, are shortened to three.

    Examples:
        >>> print(decode(characters()[:22]))
        the "assert" statement
    """
    text = re.sub(r"([^a-z0 ])\1{3,}", r"\1\1\1", " ".join(_topics().values()))
    text = re.sub("[0-9]", "0", text)
    place = {symbol: i for i, symbol in enumerate(ALPHABET)}
    other = len(ALPHABET) - 1
    found = np.array([place.get(symbol, other) for symbol in text], np.int32)
    found.setflags(write=False)
    return found


def decode(places: Int[np.ndarray, " N"]) -> str:
    """Return the characters at these places of `ALPHABET`."""
    return "".join(ALPHABET[place] for place in places)


@functools.cache
def _words() -> list[str]:
    """Return all words in the order of the text."""
    return [word for text in _topics().values() for word in _WORD.findall(text)]


@functools.cache
def vocabulary(size: int) -> tuple[str, ...]:
    """Return the most frequent words, the most frequent first.

    Args:
        size: How many.

    Raises:
        ValueError: If the text has not so many, or `size` is not positive.

    Examples:
        >>> vocabulary(3)[0]
        'the'
    """
    counted = collections.Counter(_words())
    if not 1 <= size <= len(counted):
        raise ValueError(f"`words` must be from 1 to {len(counted)}, got {size}.")
    # Words of equal frequency come in alphabetical order.
    return tuple(sorted(counted, key=lambda word: (-counted[word], word))[:size])


@functools.cache
def cooccurrences(
    size: int, window: int
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Return all pairs of words of the vocabulary that stand within `window` words.

    Args:
        size: Size of the vocabulary.
        window: Largest distance, other words counted.

    Returns:
        Places in `vocabulary(size)` of the first and of the second word of each pair, in the
        order of the text; every pair occurs in both directions.
    """
    place = {word: i for i, word in enumerate(vocabulary(size))}
    ids = np.array([place.get(word, -1) for word in _words()], np.int32)
    first, second = [], []
    for distance in range(1, window + 1):
        left, right = ids[:-distance], ids[distance:]
        both = (left >= 0) & (right >= 0)
        first += [left[both], right[both]]
        second += [right[both], left[both]]
    return np.concatenate(first), np.concatenate(second)


@functools.cache
def topic_words(
    topics: int, words: int
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Return how often the longest topics use the most frequent words.

    Args:
        topics: How many topics.
        words: Size of the vocabulary.

    Returns:
        The topic, the word and the count of every pair that occurs.

    Raises:
        ValueError: If the text has not so many topics or words.
    """
    every = _topics()
    if not 1 <= topics <= len(every):
        raise ValueError(f"`topics` must be from 1 to {len(every)}, got {topics}.")
    chosen = sorted(every, key=lambda name: (-len(every[name]), name))[:topics]
    place = {word: i for i, word in enumerate(vocabulary(words))}
    found = [
        (row, place[word], count)
        for row, name in enumerate(chosen)
        for word, count in collections.Counter(_WORD.findall(every[name])).items()
        if word in place
    ]
    rows, columns, counts = zip(*found, strict=True)
    return np.array(rows, np.int32), np.array(columns, np.int32), np.array(counts, np.float64)
