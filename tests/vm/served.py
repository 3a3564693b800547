"""The program's own metadata service at the address that a guest asks."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.network import SERVICE
from tests.serving import Serving
from tests.vm.contexts import put_scripts
from tests.vm.guest import Outside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER_DATA = "#!/bin/sh\necho $(id -u) >> $HOME/user-data-ran\n"


@contextmanager
def served(folder: Path) -> Iterator[tuple[Outside, Serving]]:
    """Serve a folder at the service's own address, as the guest in that world sees it."""
    with Outside() as outside, Serving(folder, bind=f"{SERVICE}:80", prefix=outside.prefix) as serving:
        yield outside, serving


def asked(log: list[str]) -> list[str]:
    """Return the paths that a server's log says were asked for."""
    return re.findall(r" GET (\S+)", "\n".join(log))


def put_served(folder: Path, *, site: bool = True, user: bool = True) -> Path:
    """Return a folder to serve: the site's bundle with one script for the first boot alone, and the user's script."""
    if site:
        put_scripts(folder / "site", user=False)
        (folder / "site" / "post-network.d").mkdir()
        (folder / "site" / "post-network.d" / "10-once").write_text("#!/bin/sh\necho once >> /root/once\n")
        (folder / "site" / "site.yaml").write_text(
            "scripts:\n  site/post-network/post-network.d/10-once:\n    frequency: once\n"
        )
    if user:
        folder.mkdir(exist_ok=True)
        (folder / "user-data").write_text(USER_DATA)
    return folder
