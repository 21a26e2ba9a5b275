"""The command line.

parser     every command with its texts and flags
flags      flags of the definition of a study's file (`config.StudyConfig`), and back
commands   what each does
studies    what those share that begin, continue and show studies
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from partune.cli.parser import build_parser
from partune.cli.studies import INTERRUPTED
from partune.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 (failed), 2 (bad input, one line) or 130 (interrupted)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(arguments)
    try:
        namespace = parser.parse_args(arguments)
        if not hasattr(namespace, "run"):
            parser.print_help()
            return 0
        status: int = namespace.run(namespace)
    except UserError as error:
        from partune.database import masked

        print(f"partune: error: {masked(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before a study began, or after it ended
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: `partune report ... | head`
        sys.stderr.close()
        return 1
    return status
