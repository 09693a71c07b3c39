"""What a command is given as MODULE:NAME: a function, a point or data of the user's own."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradlab._cli_console import UsageError
from gradlab._errors import nearest

__all__ = ["arguments", "function", "load", "this_folder"]


@contextlib.contextmanager
def this_folder() -> Iterator[None]:
    """Look for modules in the current folder too."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def load(text: str, example: str) -> Any:
    """Import `module:name`, where name may have dots."""
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise UsageError(f"write MODULE:NAME, for example: {example}; got {text!r}.")
    try:
        value: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # a module that the user's module misses
        raise UsageError(f"there is no module {module!r} here or on the path.") from error
    for part in name.split("."):
        if not hasattr(value, part):
            known = [n for n in dir(value) if not n.startswith("_")]
            raise UsageError(f"{module} has no {part!r}.{nearest(part, known)}")
        value = getattr(value, part)
    return value


def function(text: str, example: str) -> Any:
    """Import a function."""
    found = load(text, example)
    if not callable(found):
        raise UsageError(f"{text} must be a function, got {found!r:.60}.")
    return found


def arguments(text: str, example: str) -> tuple[Any, ...]:
    """Import arguments: a tuple of them, one, or a function that returns either."""
    found = load(text, example)
    found = found() if callable(found) else found
    return found if isinstance(found, tuple) else (found,)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn the library's refusal of an argument into one line.

    The function's own fault keeps its traceback.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if "`" not in str(error):
            raise
        raise UsageError(str(error)) from error
