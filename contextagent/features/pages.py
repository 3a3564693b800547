"""The features as pages of HTTP, for programs that read them by URL: which paths there are, and what stands at each."""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def page(method: str, target: str, features: Mapping[str, str]) -> Page:
    """Return what is answered to a request.

    A folder's page is its names, one a line; a key's page is its value, byte for byte as in the file of that name.

    Args:
        method: Of the request.
        target: Its path as sent; a query behind `?` changes nothing.
        features: `machine/KEY` or `job/KEY` to text.
    """
    if method not in ("GET", "HEAD"):
        return Page(status=405, body=b"only GET and HEAD\n")
    words = target.partition("?")[0].split("/")[1:]
    if words == [""]:
        return _listing(f"{name}/" for name in _FOLDERS)
    folder = _FOLDERS.get(words[0])
    if folder is None or len(words) > len(("folder", "key")):
        return Page(status=404, body=b"no such page\n")
    if words[1:] in ([], [""]):
        return _listing(key.partition("/")[2] for key in sorted(features) if key.startswith(f"{folder}/"))
    text = features.get(f"{folder}/{words[1]}")
    return Page(status=404, body=b"no such feature\n") if text is None else Page(status=200, body=text.encode())


def _listing(names: Iterable[str]) -> Page:
    return Page(status=200, body="".join(f"{name}\n" for name in names).encode())
