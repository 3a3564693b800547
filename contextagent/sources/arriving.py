"""What a finding changes: in what is remembered of the instance, and on disk, before anything of it runs."""

from __future__ import annotations

from contextagent.digests import sha256_hex
from contextagent.errors import CannotWriteError
from contextagent.model import OWNERS, Problem
from contextagent.runner.memory import once_in_traces
from contextagent.runner.state import State, instance_folder
from contextagent.sources.legs import is_spared, last_good
from contextagent.sources.staging import Staged, install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from contextagent.host import Host
    from contextagent.model import Owner, Supply
    from contextagent.policy.settings import Settings
    from contextagent.runner.folders import Folders
    from contextagent.sources.search import Finding

_AHEAD = "context/ahead-"
"""Where in an instance's folder waits what a disk gave to an owner whose search goes on; the owner follows."""


def judged(host: Host, known: State, finding: Finding) -> State:
    """Return the state after a boot's first leg: of what was known of the boot before, only the instance's memory."""
    identity = finding.identity
    if identity.is_new:
        once = {} if known.instance_id else once_in_traces(host, identity.instance_id)
        known = State(
            instance_id=identity.instance_id,
            boot_id=known.boot_id,
            last=known.last,
            warnings=known.warnings,
            once=once,
        )
    last = {owner: supply for owner in OWNERS if (supply := last_good(known, owner))}
    fresh = known.replace(
        ids=identity.ids,
        phases={},
        reports=(),
        errors=(),
        warnings=tuple(each for each in known.warnings if each.reason == "state-damaged"),
        supplies={owner: _supply(finding, owner) for owner in OWNERS},
        spare=last,
        late=(),
        is_service_required=False,
        verdicts=finding.verdicts,
    )
    return _told(host, fresh, finding)


def joined(host: Host, settings: Settings, known: State, finding: Finding) -> State:
    """Return the state after the second leg: what it found is joined with what waits from the first."""
    identity = finding.identity
    if identity.is_new and known.instance_id:
        known = _renewed(host, known, identity.instance_id)
    asked = [each for each in finding.verdicts if each.source.partition(":")[0] == "metadata"]
    has_met = any(each.verdict == "found" or ":" in each.source for each in asked)
    wish = settings["metadata.required"]
    is_required = wish == "yes" or (wish == "auto" and (known.has_met_service or host.is_cloud()))
    last = {owner: supply for owner in finding.staged if (supply := last_good(known, owner))}
    found = {owner: supply for owner in finding.staged if (supply := _supply(finding, owner))}
    known = known.replace(
        instance_id=identity.instance_id,
        ids=identity.ids,
        supplies={
            **known.supplies,
            **{owner: known.ahead.get(owner) for owner in finding.staged},
            **{owner: _join(supply, known.ahead.get(owner)) for owner, supply in found.items()},
        },
        late=tuple(owner for owner in OWNERS if owner in found and found[owner].is_material),
        has_met_service=known.has_met_service or has_met,
        is_service_required=bool(asked) and is_required,
        verdicts=(*(each for each in known.verdicts if _is_kept(each.owner, each.source, finding)), *finding.verdicts),
    )
    spare = {owner: supply for owner, supply in last.items() if is_spared(known, owner) and not identity.is_new}
    return _told(host, known.replace(spare={**_without(known.spare, finding.staged), **spare}), finding)


def _is_kept(owner: Owner, source: str, finding: Finding) -> bool:
    """Whether a verdict still stands beside a finding that asked the same source again for the same owner."""
    kinds = {each.source.partition(":")[0] for each in finding.verdicts if each.owner == owner}
    return source.partition(":")[0] not in kinds


def _without(supplies: Mapping[Owner, Supply], owners: Collection[Owner]) -> dict[Owner, Supply]:
    return {owner: supply for owner, supply in supplies.items() if owner not in owners}


def _renewed(host: Host, known: State, instance_id: str) -> State:
    """Return the state of another instance that is found to be in the midst of a boot: what ran in it has run."""
    ran = {each["id"] for each in known.reports}
    once = {step_id: marker for step_id, marker in known.once.items() if step_id in ran}
    return known.replace(once={**once_in_traces(host, instance_id), **once}, spare={}, has_met_service=False)


def _join(supply: Supply, ahead: Supply | None) -> Supply:
    """Return a supply together with what a disk gave beside it: variables, keys, features, or how to fetch it."""
    if ahead is None:
        return supply
    names = {name for name, _, _ in supply.companions}
    # a bundle's own word stands, but what a bundle of the cache was joined with is older than today's disk
    older, newer = (supply, ahead) if supply.source.startswith("cached:") else (ahead, supply)
    return supply.replace(
        directions=ahead.settings,
        variables={**older.variables, **newer.variables},
        keys=tuple(dict.fromkeys((*ahead.keys, *supply.keys))),
        features={**ahead.features, **supply.features},
        companions=(*supply.companions, *(each for each in ahead.companions if each[0] not in names)),
        digest=sha256_hex(f"{supply.digest} {ahead.digest}".encode()),
    )


def installed(  # both legs, and what was known before them
    host: Host, first: Finding | None, second: Finding | None, before: State, known: State, folders: Folders
) -> State:
    """Put each owner's staged supply in place; return the state with the folders that were made from it."""
    for finding in (first, second):
        for owner in reversed(OWNERS) if finding else ():
            if finding is None or owner not in finding.staged:
                continue
            try:
                if finding is first and owner in known.ahead:
                    _keep_ahead(host, known, finding.staged[owner], owner)
                else:
                    known = _install(host, finding, before, known, folders, owner)
            except (OSError, CannotWriteError) as error:
                known = _not_had(known, owner, f"cannot put the {owner}'s material in place: {error}")
    return known


def _keep_ahead(host: Host, known: State, staged: Staged | None, owner: Owner) -> None:
    """Let wait what a disk gave to an owner whose search goes on: what the last good context left stands so long."""
    place = f"{instance_folder(known.instance_id)}/{_AHEAD}{owner}"
    host.files.remove(place)
    if staged is not None and staged.folder:
        host.files.make_folder(place.rpartition("/")[0])
        host.files.rename(staged.folder, place)


def _install(  # as `installed`
    host: Host, finding: Finding, before: State, known: State, folders: Folders, owner: Owner
) -> State:
    """Put one owner's supply in place, with the files that wait for it."""
    staged, supply = finding.staged[owner], known.supplies.get(owner)
    ahead = f"{instance_folder(known.instance_id)}/{_AHEAD}{owner}"
    if staged is None and owner in known.ahead and host.files.exists(ahead):
        staged = Staged(supply=known.ahead[owner], folder=ahead)
    if staged is None or supply is None:
        return known
    if not staged.folder:  # the last good context, which is in place
        if owner == "site":
            _fill(host, known, owner, ahead, folders.place(owner))
        return known
    if staged.folder != ahead:
        _fill(host, known, owner, ahead, f"{staged.folder}/context")
    is_kept = owner == "user" and not finding.identity.is_new and before.folders.get(owner) == supply.digest
    install(host, staged, instance_folder(known.instance_id), folders, is_folder_kept=is_kept)
    return known.replace(folders={**known.folders, owner: supply.digest})


def _fill(host: Host, known: State, owner: Owner, ahead: str, folder: str) -> None:
    """Add to a working folder the files of the disk that waited, where it has none of that name."""
    waiting = known.ahead.get(owner)
    for name, _, size_bytes in waiting.companions if waiting else ():
        source, target = f"{ahead}/context/{name}", f"{folder}/{name}"
        if host.files.exists(source) and not host.files.exists(target):
            host.files.make_folder(target.rpartition("/")[0])
            host.files.create(target, host.files.chunks(source, max_bytes=size_bytes))


def moved_in(host: Host, before: State, known: State) -> None:
    """Move what an earlier phase of this boot put in place to the instance that the second leg has found it to be.

    Done before anything is installed, and again without harm by the next agent, should this one be killed.
    """
    old, new = instance_folder(before.instance_id), instance_folder(known.instance_id)
    for name in ("scripts", "context") if before.instance_id and old != new else ():
        if host.files.exists(f"{old}/{name}") and not host.files.exists(f"{new}/{name}"):
            host.files.make_folder(new)
            host.files.rename(f"{old}/{name}", f"{new}/{name}")


def _supply(finding: Finding, owner: Owner) -> Supply | None:
    staged = finding.staged.get(owner)
    return staged.supply if staged else None


def _not_had(known: State, owner: Owner, why: str) -> State:
    """Return the state without an owner's material, which could not be written: its source is as good as broken."""
    return known.replace(
        supplies={**known.supplies, owner: None},
        verdicts=tuple(
            each.replace(verdict="broken", reason=f"cannot-write: {why}")
            if (each.owner, each.verdict) == (owner, "found")
            else each
            for each in known.verdicts
        ),
    )


def _told(host: Host, known: State, finding: Finding) -> State:
    """Return the state with what there is to say of a finding."""
    kept = [problem for owner in finding.staged for problem in _kept(_supply(finding, owner))]
    return known.saying(warnings=(*finding.warnings, *kept, *_cloud_init(host, known.supplies.get("user"))))


def _kept(supply: Supply | None) -> list[Problem]:
    """Return one warning for each payload that nothing here runs, so that nobody waits for it."""
    why = {"for-the-pilot": "it is for the pilot", "for-amiconfig": "it is for amiconfig"}
    unknown = "no form of user data that is known"
    return [
        Problem(
            reason=kept.reason,
            message=f"cannot run '{kept.name}': {why.get(kept.reason, unknown)}, keeping it",
        )
        for kept in (supply.kept if supply else ())
        if kept.reason != "meta-map"  # for whoever looks for it: nobody would run it
    ]


def _cloud_init(host: Host, user: Supply | None) -> tuple[Problem, ...]:
    """Return the one warning where cloud-init would run the user data, too; the rule needs something to run."""
    if user is None or not any(script.is_user_data for script in user.scripts):
        return ()
    from contextagent.sources.cloud_init import is_enabled  # noqa: PLC0415  # only user data raises the question

    if not is_enabled(host):
        return ()
    message = (
        "cannot run the user data before the site's scripts: cloud-init is enabled in this image and runs it itself, "
        "ignoring it (the image's endorser can switch cloud-init off)"
    )
    return (Problem(reason="cloud-init", message=message),)
