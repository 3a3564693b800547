"""OpenNebula's OneGate: `READY=YES`, once in a boot, when the contextualisation has come to a good end.

The token goes from the context into one header of one request, and nowhere else.
"""

from __future__ import annotations

from contextagent.digests import new_sha512
from contextagent.payloads.weburl import parse_web_url
from contextagent.runner import joboutputs
from contextagent.runner.folders import WORKING, parked
from contextagent.runner.joboutputs import Outputs
from contextagent.watch.once import Once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.model import Supply
    from contextagent.runner.joboutputs import Delivery
    from contextagent.runner.state import State
    from contextagent.watch.room import Watch

_FILE = "token.txt"
_MAX_TOKEN_BYTES = 4096
_VARIABLES = ("ONEGATE_TOKEN", "TOKENTXT")
_HEADERS = (("Content-Type", "application/x-www-form-urlencoded"),)
"""As curl sends it, by which OpenNebula's own package does the same."""


def begin(watch: Watch) -> Once | None:
    """Return the part, None where nobody asked for it, or for something that can't be done."""
    state = watch.state
    supply = asking(state)
    if supply is None:
        return None
    endpoint = supply.variables.get("ONEGATE_ENDPOINT", "").strip()
    token = token_of(watch.host, state.instance_id, supply)
    vmid = supply.variables.get("VMID", "").strip()
    if cause := _cause(endpoint, token, vmid):
        watch.say(f"cannot report READY to 'OneGate': {cause}, going on without it")
        return None
    headers = (("X-ONEGATE-TOKEN", token), ("X-ONEGATE-VMID", vmid), *_HEADERS)
    outputs = Outputs(where=endpoint, ca_dirs=(watch.settings["trust.ca_dir"],))

    def start() -> Delivery:
        return joboutputs.start_put(watch.host, outputs, "vm", b"READY=YES", headers=headers)

    return Once(watch, "onegate", ("ok", "degraded"), start)


def asking(state: State) -> Supply | None:
    """Return the supply whose `context.sh` asks for a report; None where none does."""
    for supply in state.supplies.values():
        if supply and supply.variables.get("REPORT_READY", "").strip().upper() == "YES":
            return supply
    return None


def _cause(endpoint: str, token: str, vmid: str) -> str:
    """Return why it can't be reported, or nothing; the token is not shown."""
    if not endpoint:
        return "there is no ONEGATE_ENDPOINT"
    if not _is_url(endpoint):
        return "its ONEGATE_ENDPOINT is no URL that can be asked"
    if not token:
        return "there is no token"
    if not _is_field(token):
        return "its token can't be put in a header"
    return "" if vmid.isascii() and vmid.isdigit() else "there is no VMID that could be one"


def token_of(host: Host, instance_id: str, supply: Supply) -> str:
    """Return the token, from a variable or from the disk's `token.txt`; empty where there is none."""
    for name in _VARIABLES:
        if token := supply.variables.get(name, "").strip():
            return token
    digests = [sha512 for name, sha512, _ in supply.companions if name == _FILE]
    for folder in (parked(instance_id, supply.owner), WORKING):
        try:
            data = host.files.read(f"{folder}/{_FILE}", max_bytes=_MAX_TOKEN_BYTES)
        except OSError:
            continue
        digest = new_sha512(len(data))
        digest.update(data)
        if digest.hexdigest() in digests:  # as it was staged: either folder may be another owner's, or changed since
            return data.decode("ascii", "replace").strip()
    return ""


def _is_field(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_url(text: str) -> bool:
    try:
        parse_web_url(text)
    except ValueError:
        return False
    return True
