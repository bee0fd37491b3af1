"""What all tests share: the signals an interactive shell would give them."""

from __future__ import annotations

import signal

# Started in the background, a shell leaves SIGINT ignored, and every command the tests start would inherit
# that: none could be interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
