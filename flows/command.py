"""What every command of `temper` shares: its exit codes, and how it is declared."""

import argparse
from collections.abc import Callable
from typing import Any

PASSED, GATE_FAILED, WRONG_INPUT, RUN_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def command(
    commands: Any,
    name: str,
    summary: str,
    function: Callable[[argparse.Namespace], int],
    teaching: str = "",
) -> argparse.ArgumentParser:
    """Declare a command; `teaching` is what its --help says, the summary by default."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=teaching or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.set_defaults(command=function)
    return parser
