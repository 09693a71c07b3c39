"""`gradlab report`: the page of finished runs, without running anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gradlab._cli_console import Parser, UsageError

__all__ = ["run"]

_EXAMPLE = "gradlab report runs/convergence-1 runs/convergence-2"


def run(arguments: Sequence[str]) -> int | None:
    """Carry out `gradlab report`; the exit code is 1 if a file was damaged."""
    parser = Parser(
        prog="gradlab report",
        usage="gradlab report DIR... [--out FILE]",
        description="Make one self-contained HTML page from one or several run folders.\n"
        "Nothing is run again.",
        epilog=f"example:\n  {_EXAMPLE}",
    )
    parser.add_argument("folders", nargs="*", metavar="DIR", help="run folders")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the page (report.html, in the folder if there is only one)",
    )
    options = parser.parse_args(arguments)
    if not options.folders:
        parser.error(f"name a run folder, for example: {_EXAMPLE}.")
    missing = [name for name in options.folders if not Path(name).is_dir()]
    if missing:
        parser.error(f"there is no folder {missing[0]!r}.")
    from gradlab import report, stored
    from gradlab._files import write_whole

    try:
        found = [stored.read(folder) for folder in options.folders]
    except ValueError as error:
        raise UsageError(str(error)) from error
    faults = [fault for folder in found for fault in folder.faults]
    if not any(folder.summary or folder.comparison or folder.figures for folder in found):
        raise UsageError(" ".join(faults))
    target = Path(options.folders[0]) if len(found) == 1 else Path()
    target = Path(options.out) if options.out else target / "report.html"
    content = report.page(found).encode()
    try:
        write_whole(target, content)
    except OSError as error:
        raise UsageError(f"cannot write {str(target)!r}: {error.strerror}.") from error
    for fault in faults:
        print(f"gradlab report: {fault}", file=sys.stderr)
    print(f"The page is {target}")
    return 1 if faults else 0
