"""`gradlab check`: are the derivatives of a function in a user's module right?"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab._cli_console import DTYPES, Parser, UsageError, one_of
from gradlab._errors import nearest

__all__ = ["run"]

_EXAMPLE = "gradlab check mymodel:loss --at mymodel:params"
_CODES = {"right": 0, "wrong": 1, "cannot tell": 2}


def run(arguments: Sequence[str]) -> int | None:
    """Carry out `gradlab check` with these arguments; the exit code is the verdict."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.at:
        parser.error(f"--at is missing, for example: {_EXAMPLE}.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        import jax

        jax.config.update("jax_enable_x64", options.dtype == "float64")
        function = _load(options.function)
        if not callable(function):
            raise UsageError(f"{options.function} must be a function, got {function!r}.")
        point = _load(options.at)
        point = point() if callable(point) else point
        return _check(function, point if isinstance(point, tuple) else (point,), options)
    finally:
        sys.path.remove(str(Path.cwd()))


def _check(function: Any, args: tuple[Any, ...], options: Any) -> int:
    """Print the report and return the exit code."""
    from gradlab.derivatives.check import check_derivatives

    try:
        report = check_derivatives(function, *args, order=options.order)
    except (TypeError, ValueError) as error:
        if "`" not in str(error):  # not ours: the function's own fault keeps its traceback
            raise
        raise UsageError(str(error)) from error
    print(report)
    return _CODES[report.verdict]


def _parser() -> Parser:
    """Build the parser of `gradlab check`."""
    parser = Parser(
        prog="gradlab check",
        description="Check the automatic derivatives of a function against its values.\n"
        "The exit code is 0 if they are right, 1 if one is wrong, 2 if it cannot be told.",
        epilog=f"example:\n  {_EXAMPLE}\n\nThe point is an array or any nesting of them, a "
        "tuple of arguments, or a\nfunction that returns one. Modules are looked for in this "
        "folder too.",
    )
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="what to check")
    parser.add_argument("--at", metavar="MODULE:POINT", help="where to check it")
    parser.add_argument(
        "--order", type=int, choices=(1, 2), default=2, help="derivatives to check (2)"
    )
    parser.add_argument(
        "--dtype",
        default="float64",
        type=one_of("dtype", DTYPES),
        metavar="|".join(DTYPES),
        help="precision of arrays that the module makes (float64)",
    )
    return parser


def _load(text: str) -> Any:
    """Import `module:name`, where name may have dots."""
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise UsageError(f"write MODULE:NAME, for example: {_EXAMPLE}; got {text!r}.")
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
