"""The features as pages of HTTP, for programs that read them by URL: which paths there are, and what stands at each."""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MACHINE_PATH = "machinefeatures"
JOB_PATH = "jobfeatures"
_FOLDERS = {MACHINE_PATH: "machine", JOB_PATH: "job"}


class Page(Value):
    """What is answered: a status code, and a body without a newline at its end (`int(urlopen(…).read())` works)."""

    status: int
    body: bytes = b""


def addresses(http: str) -> tuple[str, str]:
    """Return `MACHINEFEATURES` and `JOBFEATURES` as URLs, without a slash at the end (HSF-TN-2016-02).

    Args:
        http: The setting `watch.http`: `127.0.0.1:PORT`.
    """
    return f"http://{http}/{MACHINE_PATH}", f"http://{http}/{JOB_PATH}"


def page(method: str, parts: Sequence[str], features: Mapping[str, str]) -> Page:
    """Return what is answered to a request.

    A folder's page is its names, one a line; a key's page is its value, byte for byte as in the file of that name.

    Args:
        method: Of the request.
        parts: The components of its path, decoded, without empty ones.
        features: `machine/KEY` or `job/KEY` to text.
    """
    if method not in ("GET", "HEAD"):
        return Page(status=405, body=b"405 only GET and HEAD\n")
    match parts:
        case []:
            return _listing(f"{name}/" for name in _FOLDERS)
        case [name] if name in _FOLDERS:
            folder = f"{_FOLDERS[name]}/"
            return _listing(key.removeprefix(folder) for key in sorted(features) if key.startswith(folder))
        case [name, key] if name in _FOLDERS and f"{_FOLDERS[name]}/{key}" in features:
            return Page(status=200, body=features[f"{_FOLDERS[name]}/{key}"].encode())
    return Page(status=404, body=b"404 no such feature\n")


def _listing(names: Iterable[str]) -> Page:
    return Page(status=200, body="".join(f"{name}\n" for name in names).encode())
