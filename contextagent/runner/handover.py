"""What a machine leaves behind in its job outputs: the pilot's files that its settings name, and the boot's receipt."""

from __future__ import annotations

import os
import time

from contextagent.errors import CannotWriteError
from contextagent.host.rights import names_as
from contextagent.runner import joboutputs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.model import Problem
    from contextagent.policy.settings import Settings
    from contextagent.runner.joboutputs import Outputs
    from contextagent.runner.live import Live

_MOST = 256
"""Files of one pilot: whoever names more by a pattern gets the first by name."""
_LEAST_S = 1.0
"""What each delivery may take where the time for all is over."""


def hand_over(host: Host, live: Live, settings: Settings, *, total_s: float) -> tuple[Problem, ...]:
    """Hand over the pilot's outputs, unless that is done, and the receipt as it stands.

    A file is read with the rights of the pilot's account: the pilot names it, and must not have root read for it.

    Args:
        host: The machine.
        live: Where to, and whether the pilot's files have gone there.
        settings: `pilot.outputs` are names in the pilot's folder, or whole paths; their last part may be a pattern.
        total_s: How long all of it may take.

    Returns:
        What could not be handed over.
    """
    end_s = time.monotonic() + total_s
    outputs = joboutputs.outputs_of(live, settings)
    problems = [] if live.is_handed_over else _pilots(host, outputs, settings, end_s)
    problem = joboutputs.put_receipt(host, outputs, total_s=max(end_s - time.monotonic(), _LEAST_S))
    return (*problems, problem) if problem else tuple(problems)


def _pilots(host: Host, outputs: Outputs, settings: Settings, end_s: float) -> list[Problem]:
    """Hand over what each pilot of this machine has written, as far as the time goes."""
    named = settings["pilot.outputs"] or ()
    if not named:
        return []
    from contextagent.runner import keeper  # noqa: PLC0415  # few machines have a pilot

    problems: list[Problem] = []
    for kept in keeper.look(host):
        account = host.account(kept.account) if kept.account and not host.is_caller else None
        for name, path in _files(host, kept.workdir, [named] if isinstance(named, str) else named, account):
            left_s = max(end_s - time.monotonic(), _LEAST_S)
            called = name if kept.number == 1 else f"{kept.number}-{name}"
            problem = joboutputs.put(host, outputs, called, path, total_s=left_s, account=account)
            problems += [problem] if problem else []
    return problems


def _files(
    host: Host, workdir: str, named: list[str] | tuple[str, ...], account: Account | None
) -> Iterator[tuple[str, str]]:
    """Yield what each file is called there, and its guest path; a folder is listed with the account's rights, too."""
    for each in named:
        folder, _, pattern = (each if each.startswith("/") else f"{workdir}/{each}").rpartition("/")
        if not any(char in pattern for char in "*?["):
            yield pattern, f"{folder}/{pattern}"
            continue
        from fnmatch import fnmatchcase  # noqa: PLC0415  # few patterns are given

        real = host.files.real(folder)
        try:
            names = names_as(account, real) if account else sorted(os.listdir(real))
        except (OSError, CannotWriteError):
            continue  # the pilot made no such folder
        yield from [(name, f"{folder}/{name}") for name in names if fnmatchcase(name, pattern)][:_MOST]
