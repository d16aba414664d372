"""Errors of the local stack. The user gets one line, without a traceback.

LocalError
├── WrongOptionError   an option is wrong; the message names it
├── StartFailedError   a process ended, or took too long, before it was ready; the message ends with its last log lines
└── DemoFailedError    no recording could be had, or the stack did not answer
"""

from __future__ import annotations


class LocalError(Exception):
    pass


class WrongOptionError(LocalError):
    pass


class StartFailedError(LocalError):
    pass


class DemoFailedError(LocalError):
    pass
