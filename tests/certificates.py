"""Certificates for tests: an authority of one's own, made with openssl."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificate(NamedTuple):
    """A certificate with its key."""

    cert: Path
    key: Path


class Authority:
    """Who signs certificates.

    Attributes:
        cert: Its own certificate.
    """

    def __init__(self, folder: Path, name: str = "Site CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.cert, self._key = folder / "ca.pem", folder / "ca.key"
        self_signed = ("req", "-x509", *_KEY, "-days", "30", "-subj", f"/CN={name}")
        _openssl(*self_signed, "-keyout", self._key, "-out", self.cert)

    def hash(self) -> str:
        """Return what OpenSSL looks for it by, in a folder of authorities."""
        words = ["openssl", "x509", "-hash", "-noout", "-in", str(self.cert)]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def issue(self, name: str) -> Certificate:
        """Return a certificate for a host's name."""
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=DNS:{name}\nextendedKeyUsage=serverAuth,clientAuth\n")
        request = self._folder / f"{name}.csr"
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
        signed_by = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", "30", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, *signed_by, "-out", made.cert)
        return made


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
