"""systemd-journal-upload: the journal sent to the site, where that is asked."""

from __future__ import annotations

from contextagent.collectors import Target, TargetFile
from contextagent.collectors.words import is_url
from contextagent.model import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Logging, Machine

PROGRAM = "systemd-journal-upload"
ASKED: tuple[str, ...] = ()
PATH = "/etc/systemd/journal-upload.conf.d/10-contextagent.conf"
_HEAD = "# Written by contextagent at each boot; changes are lost.\n[Upload]\n"
_SERVICE = "systemd-journal-upload.service"


def target(logging: Logging, machine: Machine) -> Target | None:
    """Return a drop-in with the URL; certificates of an `https` URL are those that the image has for this program."""
    url = logging.journal_upload
    if not url:
        return None
    cause = ""
    if not is_url(url):
        cause = "this URL can't stand in a configuration"
    elif PROGRAM not in machine.programs or machine.init != "systemd":
        cause = f"there is no {PROGRAM} (package systemd-journal-remote)"
    if cause:
        message = f"cannot upload the journal: {cause}, ignoring 'logging.journal_upload'"
        return Target(daemon="journal_upload", files=(), problems=(Problem(reason="no-upload", message=message),))
    return Target(
        daemon="journal_upload",
        files=(TargetFile(path=PATH, text=f"{_HEAD}URL={url}\n"),),
        take_up=("systemctl", "--no-block", "restart", _SERVICE),
        bring_back=("systemctl", "--no-block", "restart", _SERVICE),
        process=PROGRAM[:15],
        sends=(url,),
    )
