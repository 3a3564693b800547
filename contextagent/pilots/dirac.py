"""The DIRAC Pilot, `dirac-pilot.py`: by which words it is started, and what its endings mean.

It asks for its features by `urlopen`, and takes 1 CPU without a word where they are in a folder; so it is given a URL,
and told its CPUs by `-P` besides.  Both the Pilot and the JobAgent that it starts end with 0 when there was no work and
when most things went wrong: the JobAgent says in its log why it stops.
"""

from __future__ import annotations

from contextagent.digests import sha512_hex
from contextagent.pilots.parts import PYTHON, Framework, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.pilots import Setting

_PROCESSORS = Option(short="-P", long="--pilotProcessors")
_UUID = Option(short="", long="--pilotUUID")
_STAMP_CHARACTERS = 32
"""As long as DIRAC's own, and as the column of its database."""


def stamp(setting: Setting) -> str:
    """Return what tells this start from every other one: DIRAC's database has one row for each stamp."""
    named = "\n".join((setting.instance_id, setting.boot_id, str(setting.number)))
    return sha512_hex(named.encode())[:_STAMP_CHARACTERS]


def reference(setting: Setting) -> str:
    """Return by which name DIRAC knows the pilot: `cloud://` and the instance; the second pilot on it has a number."""
    return f"cloud://{setting.instance_id}" + (f":{setting.number}" if setting.number > 1 else "")


def _adds(setting: Setting) -> list[tuple[Option, tuple[str, ...]]]:
    added: list[tuple[Option, tuple[str, ...]]] = []
    if cpus := setting.features.get("job/allocated_cpu"):
        added.append((_PROCESSORS, ("-P", cpus)))
    return [*added, (_UUID, ("--pilotUUID", stamp(setting)))]


def _variables(setting: Setting) -> dict[str, str]:
    return {
        "PILOT_UUID": reference(setting),
        "DIRAC_PILOT_STAMP": stamp(setting),
        "JOB_ID": setting.features.get("job/job_id") or setting.instance_id,
    }


def _stops(why: str) -> str:
    return f'JobAgent will stop with message "{why}'


_NO_WORK = (300, "no work")
_UNFIT = (500, "the machine is not fit for the pilot")
_AGENT = (600, "the JobAgent could not handle a job")
_ENDED = (700, "the JobAgent has stopped")

DIRAC = Framework(
    form="url",
    program=(*PYTHON, "dirac-pilot.py"),
    adds=_adds,
    variables=_variables,
    codes={0: (200, "the pilot has ended"), 1: _UNFIT, 255: (600, "a command of the pilot is not there")},
    lines=(
        (_stops("No more time left"), (100, "no time left")),
        (_stops("No time left for slot"), (100, "no time left")),
        (_stops("Node is being drained"), (100, "the node is drained")),
        (_stops("Filling Mode is Disabled"), (200, "work done")),
        (_stops("Nothing to do for more than"), _NO_WORK),
        (_stops("Error during the submission process"), _UNFIT),
        (_stops("Job Rescheduled"), _AGENT),
        (_stops("Problem Rescheduling Job"), _AGENT),
        (_stops("Matcher Failed"), _AGENT),
        (_stops("JDL Problem"), _AGENT),
        (_stops("Payload Proxy Not Found"), _AGENT),
        (_stops("Payload execution failed"), _AGENT),
        (_stops(""), _ENDED),
        ("Pilot version mismatch", (600, "the pilot's version is not served")),
        ("Pilot version does not match", (600, "the pilot's version is not served")),
        ("no match found", _NO_WORK),
        ("No match found", _NO_WORK),
        ("Submitting JobWrapper", (200, "work done")),
        ("Error executing the JobAgent", _ENDED),
        ("not enough local disk space available", (500, "not enough disk space")),
        ("Could not find/set X509_", (500, "a folder of certificates is empty or not there")),
        ("Could not install DIRACOS", (500, "DIRAC can't be installed")),
        ("Could not configure DIRAC", (500, "DIRAC can't be configured")),
    ),
)
