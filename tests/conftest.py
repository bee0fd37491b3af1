"""What all tests share: the signals an interactive shell would give them, and examples that CI can repeat."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Started in the background, a shell leaves SIGINT ignored, and every command the tests start would inherit
# that: none could be interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What lands must not hang on luck: CI tries the same examples every time, a run by hand tries new ones.
settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("repeatable")
