"""What a phase's scripts run with: whose account, which environment, how long."""

from __future__ import annotations

from contextagent.errors import CannotWriteError
from contextagent.features.values import JOB_FEATURES, JOB_OUTPUTS, MACHINE_FEATURES
from contextagent.model import OWNERS, Problem, Value
from contextagent.payloads.environment import base_environment, script_environment
from contextagent.plan import profile_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.model import Owner, Phase, Supply
    from contextagent.policy.settings import Settings
    from contextagent.runner.state import State

USERS_HOME = "/var/lib/contextuser"
LEDGER = "/var/lib/contextagent/logging.json"
"""Which files were put in place for which log daemon; a boot that asks for no logging takes them back by it."""
_MAX_FEATURE_BYTES = 4096
_OUTPUT_OF: Mapping[str, tuple[Owner, ...]] = {"site": ("site",), "all": OWNERS, "none": ()}
"""`logging.script_output` to the owners whose scripts' output goes to syslog."""


class Surroundings(Value):
    """What a phase runs with.

    Attributes:
        environment: Per owner, what its scripts see, but for phase, owner and folder.
        accounts: Per owner, the account that its scripts run as; None means root (or the caller).
        budget_s: What all scripts of the phase may take together.
        settings: What holds, for what is no script's.
        in_syslog: Owners whose scripts' output goes to syslog; none below another root.
        problems: What was refused or could not be had.
    """

    instance_id: str
    environment: Mapping[Owner, Mapping[str, str]]
    accounts: Mapping[Owner, Account | None]
    budget_s: float
    settings: Settings
    in_syslog: tuple[Owner, ...] = ()
    problems: tuple[Problem, ...] = ()

    def with_outputs(self, host: Host, outputs: str) -> Surroundings:
        """Return the same with job outputs that go to an address, or to a folder of the guest; empty: the default."""
        if outputs in ("", JOB_OUTPUTS):
            return self
        place = host.files.real(outputs) if outputs.startswith("/") else outputs
        environment = {
            owner: {**variables, "JOBOUTPUTS": place} if variables else variables
            for owner, variables in self.environment.items()
        }
        return self.replace(environment=environment)

    @property
    def owners(self) -> dict[Owner, tuple[int, int]]:
        """Uid and gid of those owners' folders that are not root's."""
        return {owner: (each.uid, each.gid) for owner, each in self.accounts.items() if each}


def surroundings(host: Host, state: State, settings: Settings, phase: Phase) -> Surroundings:
    """Return what the phase's scripts run with; the user's account is made where the image has none."""
    problems: list[Problem] = []
    accounts: dict[Owner, Account | None] = dict.fromkeys(OWNERS)
    if state.supplies.get("user") and profile_of("user", settings, is_caller=host.is_caller) == "unprivileged":
        try:
            accounts["user"] = host.make_account(settings["user.account"], USERS_HOME)
        except CannotWriteError as error:
            problems.append(Problem(reason="no-account", message=f"{error}, running none of the user's scripts"))
    if phase != "stop" and settings["pilot.framework"]:
        from contextagent.runner.pilotsteps import make_account  # noqa: PLC0415  # most machines have no pilot

        problems += make_account(host, settings, USERS_HOME)
    return Surroundings(
        instance_id=state.instance_id,
        environment={owner: _environment(host, state, owner, accounts[owner], problems) for owner in OWNERS},
        accounts=accounts,
        settings=settings,
        budget_s=settings["stop_budget_s" if phase == "stop" else "phase_budget_s"],
        in_syslog=() if host.is_caller else _OUTPUT_OF[settings["logging.script_output"]],
        problems=tuple(problems),
    )


def old_log_servers(
    host: Host, settings: Settings, site: Supply | None, *, read: str = "", published: Collection[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Return where the site's log server is named in one of the older forms, and what stands there.

    That is `SYSLOG_SERVER` in the site's context.sh, and the machine feature `syslog`: docs/reference/logging.md.

    Args:
        host: The machine.
        settings: What holds of all voices' settings.
        site: What the site supplied.
        read: What an address gave for the feature.
        published: Keys of a site's own that the agent itself put in place; they are no other word for it.
    """
    variables = site.variables if site else {}
    folder = variables.get("MACHINEFEATURES", "")
    path = f"{folder if folder.startswith('/') else MACHINE_FEATURES}/syslog"
    is_ours = path == f"{MACHINE_FEATURES}/syslog" and "machine/syslog" in published
    said = {
        "SYSLOG_SERVER": variables.get("SYSLOG_SERVER", ""),
        "features/machine/syslog": site.features.get("machine/syslog", "") if site else "",
        "features.machine.syslog": settings["features.machine.syslog"] or "",
        path: _text(host, path) if not is_ours and host.files.exists(path) else "",
        "the feature 'syslog' of the service": read,
    }
    return tuple((where, text) for where, text in said.items() if text.strip())


def _text(host: Host, path: str) -> str:
    try:
        return host.files.read(path, max_bytes=_MAX_FEATURE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""  # a folder, a link or a device names no server


def _environment(
    host: Host, state: State, owner: Owner, account: Account | None, problems: list[Problem]
) -> dict[str, str]:
    supply = state.supplies.get(owner)
    if supply is None:
        return {}
    variables, refused = script_environment(supply.variables)
    problems += refused
    return {
        **variables,
        **base_environment(home=host.files.real(account.home if account else "/root")),
        "CONTEXTAGENT_INSTANCE_ID": state.instance_id,
        "CONTEXTAGENT_SOURCE": supply.source,
        "MACHINEFEATURES": host.files.real(MACHINE_FEATURES),
        "JOBFEATURES": host.files.real(JOB_FEATURES),
        "JOBOUTPUTS": host.files.real(JOB_OUTPUTS),
    }
