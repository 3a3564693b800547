"""Copies of scripts' output in syslog: the end of each, scrubbed; a log daemon that hangs holds up no boot."""

from __future__ import annotations

import os

from contextagent.host.syslog import SOCKET, Syslog
from contextagent.payloads.output import LOOKED_AT_BYTES, told_lines
from contextagent.payloads.secrets import secret_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from contextagent.host import Host

TAG = "contextagent-script"
"""As in `collectors.SCRIPT_TAG`, which a boot without collectors does not load."""


class Outputs:
    """The way of one phase's output to the machine's syslog.

    Args:
        host: The machine.
        environments: What the scripts see; values that look like secrets are masked.
    """

    def __init__(self, host: Host, environments: Iterable[Mapping[str, str]]) -> None:
        self._host = host
        self._secrets = secret_values({name: value for each in environments for name, value in each.items()})
        self._syslog = Syslog(host.files.real(SOCKET))

    def copy(self, script_id: str, path: str) -> None:
        """Send the end of a script's output; what can't be read, or is not taken, is missing there and nowhere else.

        Args:
            script_id: What stands before each line.
            path: Where the output is kept.
        """
        try:
            data = self._end_of(path)
        except OSError:
            return  # it could not be kept, which its report says
        self._syslog.send(TAG, (f"{script_id}: {line}" for line in told_lines(data, self._secrets)))

    def close(self) -> None:
        """Let go of the socket."""
        self._syslog.close()

    def _end_of(self, path: str) -> bytes:
        fd = os.open(self._host.files.real(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.pread(fd, LOOKED_AT_BYTES, max(0, os.fstat(fd).st_size - LOOKED_AT_BYTES))
        finally:
            os.close(fd)
