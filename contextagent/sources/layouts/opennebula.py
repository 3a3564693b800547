"""The `opennebula` layout: a `context.sh` in the root, and the files that it names."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Offer, Problem
from contextagent.payloads.names import component_problem
from contextagent.payloads.native import native_offers
from contextagent.payloads.variables import MAX_BYTES, parse_variables
from contextagent.sources.layouts import SMALL_BYTES, LayoutReading, cause, from_base64, is_file, key_offers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from contextagent.model import Owner
    from contextagent.sources.media import NamedMedium

FILE = "context.sh"
_KEYS = ("SSH_PUBLIC_KEY", "EC2_PUBLIC_KEY", "SSH_KEY", "PUBLIC_KEY")
_USER_DATA = (
    ("USER_DATA", ("USER_DATA_ENCODING", "USERDATA_ENCODING")),
    ("USERDATA", ("USERDATA_ENCODING", "USER_DATA_ENCODING")),
    ("EC2_USER_DATA", ()),
)
_RANK = 3


def read(
    medium: NamedMedium,
    *,
    label: str,  # noqa: ARG001  # the usual label, CONTEXT, is only a hint
    flat_owner: Owner,
    is_site_trusted: bool,  # noqa: ARG001  # `flat_owner` says it already
) -> tuple[LayoutReading, ...]:
    """Return what `context.sh` says; a broken one is broken for its owner and for the user data that it may carry."""
    if not is_file(medium, FILE):
        return ()
    try:
        variables = variables_of(medium)
    except BrokenSourceError as error:
        return (LayoutReading(layout="opennebula", broken={flat_owner: cause(error), "user": cause(error)}),)
    return (_Reader(medium, variables, flat_owner).reading(),)


def variables_of(medium: NamedMedium) -> Mapping[str, str]:
    """Return the variables of a disk's `context.sh`.

    Raises:
        BrokenSourceError: It can't be read, or is not only assignments.
    """
    return parse_variables(medium.read(FILE, max_bytes=MAX_BYTES), FILE)


def claimed_names(medium: NamedMedium) -> tuple[str, ...]:
    """Return the files that `INIT_SCRIPTS` and `SCRIPT_EXEC` name: they are only that, whatever their names mean."""
    if not is_file(medium, FILE):
        return ()
    try:
        variables = variables_of(medium)
    except BrokenSourceError:
        return ()  # the layout that owns the file says so
    return tuple(f"{variables.get('INIT_SCRIPTS', '')} {variables.get('SCRIPT_EXEC', '')}".split())


def script_offer(medium: NamedMedium, file: str, owner: Owner, name: str) -> Offer | Problem:
    """Return a script that stands as `file` in the root, or the warning that it does not."""
    if component_problem(file) or not is_file(medium, file):
        message = f"no file '{ascii(file)[1:-1]}' in the root of the disk, ignoring it"
        return Problem(reason="missing-script", message=message, path=FILE)
    return Offer(owner=owner, role="script", name=name, path=file, phase="post-network", rank=_RANK, mode=0o755)


class _Reader:
    """What one `context.sh` gives, collected."""

    def __init__(self, medium: NamedMedium, variables: Mapping[str, str], owner: Owner) -> None:
        self._medium = medium
        self._variables = variables
        self._owner: Owner = owner
        self._offers: list[Offer] = []
        self._warnings: list[Problem] = []
        self._broken: dict[Owner, str] = {}

    def reading(self) -> LayoutReading:
        """Return all of it."""
        self._take_scripts()
        self._take_keys()
        self._take_companions()
        user_data = self._user_data()
        vmid = self._variables.get("VMID", "").strip()
        return LayoutReading(
            layout="opennebula",
            offers=tuple(self._offers),
            user_data=user_data or None,
            variables=self._variables,
            variables_owner=self._owner,
            ids={"vmid": vmid} if vmid else {},
            warnings=tuple(self._warnings),
            broken=self._broken,
        )

    def _take_scripts(self) -> None:
        try:
            data = self._start_script()
        except BrokenSourceError as error:
            self._broken[self._owner] = cause(error)
            return
        if data:
            self._offers.append(
                Offer(
                    owner=self._owner, role="script", name="start-script", data=data, phase="post-network", rank=_RANK,
                    mode=0o755,
                )
            )  # fmt: skip
        for file in dict.fromkeys(self._variables.get("INIT_SCRIPTS", "").split()):
            found = script_offer(self._medium, file, self._owner, file)
            if isinstance(found, Offer):
                self._offers.append(found)
            else:
                self._warnings.append(found)

    def _start_script(self) -> bytes:
        """Return the start script; the plain one where both are given, as OpenNebula's own packages do.

        Raises:
            BrokenSourceError: The encoded one is no base64.
        """
        plain = self._variables.get("START_SCRIPT", "")
        encoded = self._variables.get("START_SCRIPT_BASE64", "")
        if plain and encoded:
            self._warn("two-start-scripts", "START_SCRIPT stands, ignoring START_SCRIPT_BASE64")
        if plain or not encoded:
            return plain.encode("utf-8", "surrogateescape")
        return from_base64(encoded, f"{FILE}: START_SCRIPT_BASE64")

    def _take_keys(self) -> None:
        for name in _KEYS:
            self._offers += key_offers(self._variables.get(name, ""), self._owner, "")
        file = self._variables.get("ROOT_PUBKEY", "").strip()
        if not file:
            return
        if component_problem(file) or not is_file(self._medium, file):
            self._warn(
                "missing-key", f"ROOT_PUBKEY names no file in the root of the disk ('{ascii(file)[1:-1]}'), ignoring it"
            )
            return
        try:
            text = self._medium.read(file, max_bytes=SMALL_BYTES).decode("utf-8", "replace")
        except BrokenSourceError as error:
            self._broken[self._owner] = cause(error)
            return
        self._offers += key_offers(text, self._owner, "root")

    def _take_companions(self) -> None:
        """Offer every file of the root for the owner's working folder, as a native folder does."""
        try:
            found = native_offers(self._medium, "", self._owner)
        except BrokenSourceError as error:
            self._broken.setdefault(self._owner, cause(error))
            return
        self._offers += [offer for offer in found.offers if offer.role == "companion"]

    def _user_data(self) -> bytes:
        """Return the user data; empty where there is none, or where what is there can't be decoded."""
        given = [(name, encodings) for name, encodings in _USER_DATA if self._variables.get(name)]
        for name, _ in given[1:]:
            self._warn("two-user-data", f"{given[0][0]} stands, ignoring {name}")
        for name, encodings in given[:1]:
            text = self._variables[name]
            encoding = next((self._variables[each] for each in encodings if self._variables.get(each)), "")
            if encodings and encoding.lower() not in ("base64", "b64"):
                return text.encode("utf-8", "surrogateescape")
            try:
                return from_base64(text, f"{FILE}: {name}")
            except BrokenSourceError as error:
                self._broken["user"] = cause(error)
        return b""

    def _warn(self, reason: str, message: str) -> None:
        self._warnings.append(Problem(reason=reason, message=message, path=FILE))
