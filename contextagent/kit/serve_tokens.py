"""Tokens of EC2's metadata service, version 2: told from forged ones without a list of them.

Amazon's documentation: a token is had by PUT, for 1 to 21600 seconds, and not by way of a proxy.
"""

from __future__ import annotations

import hmac
import os
import time

from contextagent.host.serving import Reply, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from contextagent.payloads.http_request import Request

    Imds = Literal["v1", "v2", "both"]

TOKEN_PATH = ("latest", "api", "token")
MAX_TTL_S = 21600
_MAX_DIGITS = 15
_TTL = "x-aws-ec2-metadata-token-ttl-seconds"
_TOKEN = "x-aws-ec2-metadata-token"  # noqa: S105  # a field's name


class Tokens:
    """The tokens of one server; each is good for the client that it was given to."""

    def __init__(self, imds: Imds) -> None:
        self._imds = imds
        self._secret = os.urandom(32)

    @property
    def are_given(self) -> bool:
        """Whether version 2 is spoken at all."""
        return self._imds != "v1"

    def give(self, request: Request) -> Reply:
        """Return a new token, or why there is none."""
        wanted = request.headers.get(_TTL, "")
        if not (is_number(wanted) and 1 <= int(wanted) <= MAX_TTL_S):
            return refusal(400, f"{_TTL} is no number from 1 to {MAX_TTL_S}")
        if "x-forwarded-for" in request.headers:
            return refusal(403, "not by way of a proxy")
        until = int(time.monotonic()) + int(wanted)
        return Reply(status=200, body=self._signed(until, request.client), headers=((_TTL, wanted),))

    def refused(self, request: Request) -> Reply | None:
        """Return the refusal of a request that needs a token, or has one, where that is not good."""
        token = request.headers.get(_TOKEN, "").encode()
        if self._imds == "v1" or (self._imds == "both" and not token):
            return None
        until = token.partition(b".")[0].decode()
        is_good = (
            is_number(until)
            and hmac.compare_digest(self._signed(int(until), request.client), token)
            and time.monotonic() < int(until)
        )
        return None if is_good else refusal(401, "no token, or none that is good")

    def _signed(self, until: int, client: str) -> bytes:
        return f"{until}.{hmac.digest(self._secret, f'{until} {client}'.encode(), 'sha256').hex()}".encode()


def is_number(text: str) -> bool:
    """Return whether a text is a whole number of a length that anybody means."""
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
