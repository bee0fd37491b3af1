"""`sealift` and `python -m bundler`: loads the command line, and leaves quietly when Ctrl-C comes early."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130
"""Exit code of format.md section 8; `errors.ExitCode` is not loaded yet."""


def main() -> None:
    """Run the command line. Ctrl-C while modules load ends with one line and exit 130, not a traceback."""
    try:
        from bundler.cli.app import main as run

        run()
    except KeyboardInterrupt:
        _leave()


def _leave() -> None:
    try:
        sys.stdout.flush()
        os.write(2, b"error: interrupted: stopped by the user\n")
    except (OSError, AttributeError):
        pass  # nobody listens
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
