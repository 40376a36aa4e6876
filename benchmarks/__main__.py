"""The command: ``python -m benchmarks memory | sql | page | crash | fleet``."""

import signal
import sys
from collections.abc import Sequence

from benchmarks.commands import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or try, what was asked for and print it as one table."""
    options = parser().parse_args(arguments)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and processes that were started end with it
    sys.exit(main())
