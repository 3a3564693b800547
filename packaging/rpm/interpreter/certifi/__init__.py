"""Where this machine keeps the certificate authorities that it trusts; the real `certifi` would bring its own."""

import os

PLACES = (
    "/etc/pki/tls/certs/ca-bundle.crt",  # EL5 to EL10
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # EL10, where the first is gone
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
)


def where() -> str:
    """Return the path of the machine's bundle of trusted authorities; the first known place when there is none."""
    return next((place for place in PLACES if os.path.exists(place)), PLACES[0])


def contents() -> str:
    """Return the bundle's text."""
    with open(where(), encoding="ascii", errors="replace") as file:
        return file.read()
