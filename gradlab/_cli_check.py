"""`gradlab check`: are the derivatives of a function in a user's module right?"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

from gradlab import _cli_load
from gradlab._cli_console import DTYPES, Parser, UsageError, one_of

__all__ = ["run"]

_EXAMPLE = "gradlab check mymodel:loss --at mymodel:params"
_CODES = {"right": 0, "wrong": 1, "cannot tell": 2}
RAISED = 3  # an uncaught error would end in 1, which is the verdict "wrong"


def run(arguments: Sequence[str]) -> int | None:
    """Carry out `gradlab check` with these arguments; the exit code is the verdict."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.at:
        parser.error(f"--at is missing, for example: {_EXAMPLE}.")
    with _cli_load.this_folder():
        import jax

        jax.config.update("jax_enable_x64", options.dtype == "float64")
        function = _cli_load.function(options.function, _EXAMPLE)
        return _check(function, _cli_load.arguments(options.at, _EXAMPLE), options)


def _check(function: Any, args: tuple[Any, ...], options: Any) -> int:
    """Print the report and return the exit code."""
    from gradlab.derivatives.check import check_derivatives

    try:
        with _cli_load.refusals():
            report = check_derivatives(function, *args, order=options.order)
    except UsageError:
        raise
    except Exception:  # of any type: it is the function's own
        traceback.print_exc()
        print("The function itself raised this; nothing was checked.", file=sys.stderr)
        return RAISED
    print(report)
    return _CODES[report.verdict]


def _parser() -> Parser:
    """Build the parser of `gradlab check`."""
    parser = Parser(
        prog="gradlab check",
        description="Check the automatic derivatives of a function against its values.\n"
        "The exit code is 0 if they are right, 1 if one is wrong, 2 if it cannot be told,\n"
        "3 if the function raised an error.",
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
