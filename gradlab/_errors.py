"""Errors in the caller's language: argument, rule, what arrived, remedy."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["accepts_only_its_keywords", "check_choice", "leaf_name", "nearest"]


def nearest(name: object, options: Iterable[str]) -> str:
    """Return `" Did you mean 'adam'?"` for the option closest to `name`, else `""`."""
    matches = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_choice(argument: str, value: object, options: Iterable[str]) -> None:
    """Raise `ValueError` with the nearest option unless `value` is one of `options`."""
    options = sorted(options)
    if value not in options:
        raise ValueError(
            f"`{argument}` must be one of {options}, got {value!r}.{nearest(value, options)}"
        )


def leaf_name(argument: str, path: tuple[Any, ...]) -> str:
    """Name a leaf as the caller would write it: `params['layer1']['w']`."""
    import jax

    return argument + jax.tree_util.keystr(path)


def accepts_only_its_keywords(function: F) -> F:
    """Answer an unknown keyword argument with the nearest known one."""
    signature = inspect.signature(function)
    known = [name for name, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"{function.__name__}() got an unknown keyword {name!r}."
                    f"{nearest(name, known)} Known keywords: {known}."
                )
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]
