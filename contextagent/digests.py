"""SHA-256 and SHA-512 from the interpreter's own small modules; OpenSSL's faster ones for much data only.

Importing `hashlib` maps all of OpenSSL, which costs a boot about 2 ms in each phase.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Digest(Protocol):
        """A running digest."""

        def update(self, data: bytes | bytearray | memoryview, /) -> None:
            """Take in more bytes."""

        def hexdigest(self) -> str:
            """Return the digest of all bytes taken in, as lower-case hex."""


try:
    from _sha2 import sha256, sha512  # type: ignore[import-not-found]  # CPython >= 3.12
except ImportError:
    from _sha256 import sha256  # type: ignore[import-not-found]  # CPython 3.11
    from _sha512 import sha512  # type: ignore[import-not-found]  # CPython 3.11

LARGE_BYTES = 1 << 20
"""From here on OpenSSL's code, about 1.5 times faster, has paid for its import."""


def new_sha512(expected_bytes: int = 0) -> Digest:
    """Return a running SHA-512 suited to about that many bytes."""
    if expected_bytes >= LARGE_BYTES:
        import hashlib  # noqa: PLC0415  # see the module's first lines

        return hashlib.sha512()
    return sha512()  # type: ignore[no-any-return]  # untyped module


def sha512_hex(data: bytes) -> str:
    """Return the SHA-512 of `data` as hex."""
    digest = new_sha512(len(data))
    digest.update(data)
    return digest.hexdigest()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as hex."""
    return sha256(data).hexdigest()  # type: ignore[no-any-return]  # untyped module
