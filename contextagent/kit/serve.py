"""A folder served as a metadata service: for tests, and for sites that have no cloud to do it."""

from __future__ import annotations

import ipaddress
import os
import re

from contextagent.errors import UsageError
from contextagent.host.serving import Reply, refusal
from contextagent.kit.serve_bundle import FLAT, FolderBundle
from contextagent.kit.serve_faults import Faults, spoiled
from contextagent.kit.serve_folder import META_NAMES, PER_CLIENT, Folder
from contextagent.kit.serve_tokens import TOKEN_PATH, Tokens, is_number
from contextagent.kit.serve_trees import (
    EC2_VERSIONS,
    OPENSTACK_VERSIONS,
    cloudstack_meta,
    ec2_meta,
    ec2_reply,
    index_reply,
    json_reply,
    machine_of,
    openstack_meta,
)
from contextagent.sources.dialects import AUTO, DIALECTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from contextagent.kit.serve_faults import Fault
    from contextagent.kit.serve_tokens import Imds
    from contextagent.kit.serve_trees import Machine
    from contextagent.payloads.http_request import Request

    Later = Callable[[], Reply]

CHOICES = ("auto", *DIALECTS)
IMDS = ("v1", "v2", "both")
DEFAULT_BUNDLE = "default.tgz"
DEFAULT_BIND = "127.0.0.1:8080"
DEFAULT_PORT = 80
USER_DATA = ("user-data", "user_data")
NOT_SERVED = frozenset((*FLAT, *META_NAMES, *USER_DATA, PER_CLIENT, "site", "user"))
"""Names directly in the folder that are what trees are made of, and no URLs themselves."""
_ENDINGS = (".tgz", ".tar.gz", ".tgz.json", ".tar.gz.json", ".tgz.json.p7s", ".tar.gz.json.p7s")
_TYPES = (
    (".json", "application/json"),
    (".gz", "application/gzip"),
    (".tgz", "application/gzip"),
    (".p7s", "application/pkcs7-signature"),
    (".html", "text/html; charset=utf-8"),
    *((name, "application/octet-stream") for name in USER_DATA),
)
_DATED = re.compile(r"\d{4}-\d\d-\d\d|\d\.\d|latest")
_VAC = (("openstack", "latest", "meta-data.json"), ("openstack", "latest", "user-data"))
_NOTHING = refusal(404, "not found")


def read_bind(text: str) -> tuple[str, int]:
    """Return the address and port of `ADDR[:PORT]`; an IPv6 address with a port stands in brackets.

    Raises:
        UsageError: It is no such thing.
    """
    address, port = text, str(DEFAULT_PORT)
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if rest or not bracket:
            port = rest[1:] if rest.startswith(":") else ""
    elif text.count(":") == 1:  # more than one are an IPv6 address's own
        address, _, port = text.partition(":")
    if not (is_number(port) and int(port) < 1 << 16):
        raise UsageError(f"cannot serve '{text}': the port is no number from 0 to 65535")
    try:
        return str(ipaddress.ip_address(address)), int(port)
    except ValueError:
        hint = "as in 169.254.169.254, 127.0.0.1:8080 or [::1]:8080"
        raise UsageError(f"cannot serve '{text}': no address of this kind", hint=hint) from None


class Site:
    """A folder, and what is answered from it.

    Args:
        folder: The folder.
        dialect: Whose tree is shown; `auto`: each that the folder has data for.
        imds: Which versions of EC2's protocol are spoken.
        faults: What goes wrong.

    Raises:
        UsageError: There is no such folder.
        InvalidInputError: Its meta data can't be read, or its bundle can't be packed.
    """

    def __init__(
        self, folder: str, *, dialect: str = "auto", imds: Imds = "both", faults: Sequence[Fault] = ()
    ) -> None:
        self._top = folder
        self._dialect = dialect
        self.tokens = Tokens(imds)
        self._faults = Faults(faults)
        Folder(folder).meta()
        self._flat = FolderBundle(folder, FLAT)
        self._site = FolderBundle(os.path.join(folder, "site"))
        self._user = FolderBundle(os.path.join(folder, "user"))
        self._prepare()

    def _prepare(self) -> None:
        """Pack now what would be packed at the first request, so that a mistake is seen at once."""
        shared = Folder(self._top)
        site = self._site_folder()
        if site and not shared.has(f"context/{DEFAULT_BUNDLE}", DEFAULT_BUNDLE):
            site.open().close()
        if shared.has_folder("user") and not shared.has(*USER_DATA):
            self._user.open().close()

    def respond(self, request: Request) -> Reply | Later:
        """Return what is answered to a request, or the work that it takes to know.

        Raises:
            InvalidInputError: What it is made of can't be read.
        """
        reply = self._reply(request)
        fault = self._faults.next(request)
        if not fault:
            return reply
        if isinstance(reply, Reply):
            return spoiled(fault, reply, request)
        return lambda: spoiled(fault, reply(), request)

    def _reply(self, request: Request) -> Reply | Later:
        folder = Folder(self._top, request.client)
        trees = self.trees(folder)
        if request.method == "PUT" and request.parts == TOKEN_PATH and "ec2" in trees and self.tokens.are_given:
            return self.tokens.give(request)
        if request.method not in ("GET", "HEAD"):
            return refusal(405, "only GET and HEAD", ("Allow", "GET, HEAD"))
        return _View(self, request, folder, trees).reply()

    def trees(self, folder: Folder) -> frozenset[str]:
        """Return the trees that are shown: the one that was named, or each that the folder has data for."""
        if self._dialect != "auto":
            return frozenset((self._dialect,))
        every = frozenset(AUTO)
        if folder.has(*USER_DATA, *META_NAMES, "user"):
            return every
        own = set()
        if folder.has_folder("openstack"):
            names = folder.names("openstack/latest")
            own.add("vac" if names and not any("_" in name for name in names) else "openstack")
        if any(_DATED.fullmatch(name) for name in folder.names()):
            own.add("ec2")
        return frozenset(own) or every

    def site_bundle(self) -> Reply | Later | None:
        """Return the site's bundle, made of `site/`, else of the native names that stand in the folder itself."""
        site = self._site_folder()
        return _packed(site) if site else None

    def user_bundle(self) -> Reply | Later | None:
        """Return user data made of `user/`."""
        return _packed(self._user) if Folder(self._top).has_folder("user") else None

    def _site_folder(self) -> FolderBundle | None:
        folder = Folder(self._top)  # bundles are made of what all clients see
        if folder.has_folder("site"):
            return self._site
        # variables alone are no bundle: a folder with `context.sh` may be anything
        return self._flat if folder.has(*(name for name in FLAT if name != "context.sh")) else None


def _packed(bundle: FolderBundle) -> Reply | Later:
    return _bundle_reply(bundle) if bundle.is_fresh else lambda: _bundle_reply(bundle)


def _bundle_reply(bundle: FolderBundle) -> Reply:
    return _file_reply(bundle.open(), DEFAULT_BUNDLE).replace(note=bundle.warning)


def _file_reply(file: BinaryIO, name: str) -> Reply:
    kind = next((kind for ending, kind in _TYPES if name.endswith(ending)), "text/plain; charset=utf-8")
    return Reply(status=200, file=file, size_bytes=os.fstat(file.fileno()).st_size, content_type=kind)


class _View:
    """One request, looked up in one client's view of the folder."""

    def __init__(self, site: Site, request: Request, folder: Folder, trees: frozenset[str]) -> None:
        self._site = site
        self._request = request
        self._parts = request.parts
        self._folder = folder
        self._trees = trees

    def reply(self) -> Reply | Later:
        first, *rest = self._parts or ("",)
        if first == "context" and rest:
            return self._own() or self._bundle("/".join(rest)) or _NOTHING
        if first == "openstack":
            found = self._openstack(rest)
        elif _DATED.fullmatch(first):
            found = self._dated(first, rest)
        elif first:
            found = self._own()
        else:
            found = (
                (self._site.tokens.refused(self._request) or index_reply(EC2_VERSIONS))
                if "ec2" in self._trees
                else None
            )
        return found or _NOTHING

    def _own(self) -> Reply | None:
        """Return the file that stands at the URL's own path."""
        first = self._parts[0]
        if any(part.startswith(".") for part in self._parts) or first in NOT_SERVED:
            return None
        file = self._folder.open("/".join(self._parts))
        return None if file is None else _file_reply(file, self._parts[-1])

    def _bundle(self, name: str) -> Reply | Later | None:
        file = self._folder.open(name) if name.endswith(_ENDINGS) and "/" not in name else None
        if file is not None:
            return _file_reply(file, name)
        return self._site.site_bundle() if name == DEFAULT_BUNDLE else None

    def _user_data(self) -> Reply | Later | None:
        file = self._folder.open(*USER_DATA)
        return self._site.user_bundle() if file is None else _file_reply(file, USER_DATA[0])

    def _machine(self) -> Machine:
        return machine_of(self._folder.meta(), top=self._folder.real, address=self._request.client)

    def _openstack(self, rest: Sequence[str]) -> Reply | Later | None:
        if "vac" in self._trees and self._parts in _VAC:
            own = self._own()
            if own is None and rest[-1] == "meta-data.json":
                return json_reply(openstack_meta(self._machine()))
            return own or self._user_data()
        if "openstack" not in self._trees:
            return None
        if not rest:
            return index_reply(OPENSTACK_VERSIONS)
        return self._own() or (self._nova("/".join(rest[1:])) if rest[0] in OPENSTACK_VERSIONS else None)

    def _nova(self, name: str) -> Reply | Later | None:
        if not name:
            names = {"meta_data.json", "vendor_data.json", "vendor_data2.json"}
            has = {"user_data": (*USER_DATA, "user"), "network_data.json": ("network_data.json",)}
            return index_reply(names | {name for name, files in has.items() if self._folder.has(*files)})
        if name == "meta_data.json":
            return json_reply(openstack_meta(self._machine()))
        if name == "user_data":
            return self._user_data()
        if name == "network_data.json":
            file = self._folder.open(name)
            return None if file is None else _file_reply(file, name)
        return json_reply({}) if name in ("vendor_data.json", "vendor_data2.json") else None

    def _dated(self, version: str, rest: Sequence[str]) -> Reply | Later | None:
        if "ec2" in self._trees and (refused := self._site.tokens.refused(self._request)):
            return refused
        if not self._trees & {"ec2", "nimbus", "cloudstack"}:
            return None
        if found := self._own():
            return found
        if version not in EC2_VERSIONS:
            return None
        if list(rest) == ["user-data"]:
            return self._user_data()
        if "cloudstack" in self._trees:
            return self._cloudstack(rest)
        if not rest and "ec2" in self._trees:
            has_user_data = self._folder.has(*USER_DATA, "user", f"{version}/user-data")
            return index_reply(("meta-data/", "user-data") if has_user_data else ("meta-data/",))
        if rest[:1] == ["meta-data"]:
            machine = self._machine()
            more = {name for name in self._folder.names("/".join(self._parts)) if not name.startswith(".")}
            return ec2_reply(ec2_meta(machine), rest[1:], machine.keys, more)
        return None

    def _cloudstack(self, rest: Sequence[str]) -> Reply | None:
        leaves = cloudstack_meta(self._machine())
        if list(rest) == ["meta-data"]:
            return index_reply(leaves)
        name = rest[-1] if len(rest) == 1 or list(rest[:1]) == ["meta-data"] else ""
        return Reply(status=200, body=leaves[name].encode()) if name in leaves else None
