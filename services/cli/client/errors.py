"""Why a command of the client ends without an answer.

ClientError            the server refused, broke off or does not answer; status 1
└── UsageError         the command line, a file or this machine is at fault; status 2
"""

from __future__ import annotations


class ClientError(Exception):
    """The message goes to standard error. It says what to do."""

    status = 1


class UsageError(ClientError):
    """The command cannot work as it was written."""

    status = 2
