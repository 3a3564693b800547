"""The PanDA pilot, `pilot.py`: by which words it is started, and what its endings mean.

It reads its features in a folder alone.  Of its exit codes, those from 64 on are its own (`shell_exit_code`); 0 it
gives for work done and for no work alike, and 1 for whatever has no code of its own.

After a job it would kill every process of its account whose parent is the first process (`kill_orphans`): other pilots'
and, as root, the machine's.  What a pilot leaves is killed by the agent, so it is told not to (`PILOT_NOKILL`).
"""

from __future__ import annotations

from contextagent.pilots.parts import PYTHON, Framework, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.pilots import Setting

_USER = Option(short="", long="--pilot-user")
_VERSION = Option(short="-i", long="--versiontag")
_WORKFLOW = Option(short="-w", long="--workflow")
_LIFETIME = Option(short="-l", long="--lifetime")
_QUEUE = Option(short="-q", long="--queue", says="the queue's name")


def _adds(setting: Setting) -> list[tuple[Option, tuple[str, ...]]]:
    added: list[tuple[Option, tuple[str, ...]]] = [
        (_USER, ("--pilot-user", "generic")),
        (_VERSION, ("-i", "PR")),
        (_WORKFLOW, ("-w", "generic")),
    ]
    if setting.remaining_s is not None:
        added.append((_LIFETIME, ("-l", str(setting.remaining_s))))
    return added


_NO_WORK = (300, "no work")
_UNFIT = (500, "the machine is not fit for the pilot")
_CREDENTIAL = (500, "the credential is not valid")
_KILLED = (700, "the pilot was killed")

PANDA = Framework(
    form="path",
    program=(*PYTHON, "pilot.py"),
    needs=(_QUEUE,),
    adds=_adds,
    variables=lambda _setting: {"PILOT_NOKILL": "1"},
    codes={
        0: (200, "the pilot has ended"),
        1: (700, "the pilot has failed"),
        2: (500, "the pilot does not take its arguments"),
        20: _NO_WORK,
        64: (400, "the queue is offline"),
        65: (700, "the pilot has failed"),
        66: _UNFIT,
        67: _UNFIT,
        68: _CREDENTIAL,
        69: (500, "not enough disk space"),
        70: (700, "the pilot has failed"),
        71: (700, "the queue's description can't be had"),
        72: (600, "the queue's description is not valid"),
        73: (500, "the software is not there"),
        74: (700, "a description can't be had"),
        75: _UNFIT,
        76: (500, "the software is not there"),
        77: (600, "an input file is missing"),
        78: (400, "the queue is not active"),
        79: (700, "the server can't be reached"),
        131: _KILLED,
        137: _KILLED,
        138: _KILLED,
        139: _KILLED,
        143: _KILLED,
        144: _KILLED,
        158: _KILLED,
    },
    lines=(
        ("shutdowntime (*) minus grace time (*) has been exceeded", (100, "no time left")),
        ("max running time (*) minus grace time (*) has been exceeded", (100, "no time left")),
        ("reached maximum number of getjob requests", _NO_WORK),
        ("did not get a job -- max number of job request failures reached", _NO_WORK),
        ("fatal error in job download loop", (700, "the server gave no answer")),
    ),
)
