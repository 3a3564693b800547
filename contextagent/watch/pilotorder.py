"""What a keeper is told: everything that a pilot's start needs to know of the machine, as one value."""

from __future__ import annotations

import os

from contextagent.features.lifetime import lifetime
from contextagent.features.pages import addresses
from contextagent.features.values import JOB_FEATURES, JOB_OUTPUTS, MACHINE_FEATURES
from contextagent.pilots.frameworks import features_form
from contextagent.pilots.steps import EPILOG, account_of, settings_of
from contextagent.runner import keeper
from contextagent.runner.folders import WORKING
from contextagent.runner.keeper import Order
from contextagent.runner.surroundings import USERS_HOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.features.lifetime import Now
    from contextagent.watch.room import Watch


_PATHS = ("workdir", "credential.path")


def make_order(watch: Watch, number: int, now: Now, *, is_left: bool) -> Order:
    """Return the order for one pilot.

    Args:
        watch: Everything that is known of the machine.
        number: Which pilot, from 1.
        now: This moment.
        is_left: Whether it is the `epilog.sh` that the user's scripts left.
    """
    settings, live, host = watch.settings, watch.live, watch.host
    framework = "command" if is_left else settings["pilot.framework"]
    name = account_of(settings)
    account = None if host.is_caller else host.account(name)
    home = account.home if account else USERS_HOME
    machine, job = _features(watch, framework)
    left = lifetime(live.ends, now)
    outputs = live.outputs or JOB_OUTPUTS
    count = settings["pilot.instances"] or 1
    return Order(
        number=number,
        framework=framework,
        pilot=settings_of(settings),
        instance_id=watch.state.instance_id,
        boot_id=live.boot_id,
        account=dict(account.fields()) if account else None,
        workdir=WORKING if is_left else _workdir(settings["pilot.workdir"], home, number, count),
        home=home,
        machine_features=machine,
        job_features=job,
        job_outputs=host.files.real(outputs) if outputs.startswith("/") else outputs,
        log=keeper.log_path(watch.state.instance_id, number),
        is_alone=count == 1 and bool(account) and name != "root",
        is_users=any(settings.origin(f"pilot.{key}").voice == "user" for key in _PATHS),
        script=f"{WORKING}/{EPILOG}" if is_left else "",
        environment=_script_environment(watch) if is_left else {"CONTEXTAGENT_INSTANCE_ID": watch.state.instance_id},
        remaining_s=left.remaining_s if left else None,
        features=live.features,
        hostname=os.uname().nodename,
    )


def _workdir(wanted: str | None, home: str, number: int, count: int) -> str:
    if wanted is None:
        return f"{home}/pilot-{number}"
    return wanted if count == 1 else f"{wanted}/{number}"


def _features(watch: Watch, framework: str) -> tuple[str, str]:
    """Return what `MACHINEFEATURES` and `JOBFEATURES` are for a pilot, in the form that its framework takes."""
    form = watch.settings["pilot.features"] or features_form(framework)
    http = watch.settings["watch.http"]
    if form == "url" and http != "off":
        return addresses(http)
    return watch.host.files.real(MACHINE_FEATURES), watch.host.files.real(JOB_FEATURES)


def _script_environment(watch: Watch) -> dict[str, str]:
    """Return what a user's script has beside all that every pilot has."""
    user = watch.state.supplies.get("user")
    return {
        "CONTEXTAGENT_PHASE": "post-network",
        "CONTEXTAGENT_OWNER": "user",
        "CONTEXTAGENT_CONTEXT_DIR": watch.host.files.real(WORKING),
        "CONTEXTAGENT_INSTANCE_ID": watch.state.instance_id,
        "CONTEXTAGENT_SOURCE": user.source if user else "",
    }
