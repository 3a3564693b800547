"""`remaining` names the end that binds, for every combination of ends and of who says them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.machine import Machine
from tests.spec.scenes import boot, lay

if TYPE_CHECKING:
    import pytest

HOUR = 3600
FAR = st.integers(1_000, 2_000_000)
"""How far off an end is, in seconds from now."""
ENDS = st.fixed_dictionaries(
    {},
    optional={
        "features.machine.shutdowntime": FAR,
        "features.job.shutdowntime_job": FAR,
        "folder machine/shutdowntime": FAR,
        "job/wall_limit_secs": FAR,
        "job/run_limit": FAR,
        "TTL": FAR,
        "policy lifetime.max_s": FAR,
        "policy lifetime.shutdowntime": FAR,
        "site lifetime.shutdowntime": FAR,
        "user lifetime.shutdowntime": FAR,
        "user machine/shutdowntime": FAR,
        "drain": FAR,
    },
)
BY = {
    "TTL": "ttl",
    "policy lifetime.max_s": "policy",
    "drain": "drain",
    "features.job.shutdowntime_job": "shutdowntime_job",
}
_SLACK_S = 75
"""`run_limit` is whole minutes; two ends that are closer than that may bind either way here."""


def by(end: str) -> str:
    return BY.get(end) or ("wall_limit" if "limit" in end else "shutdowntime")


def say(machine: Machine, disk: Path, ends: dict[str, int]) -> None:
    """Have everybody say an end so many seconds from now."""
    now = int(time.time())
    up_s = int(float(Path("/proc/uptime").read_text().split()[0]))
    files = {"epilog.sh": "true\n", "user/epilog.sh": "true\n"}
    settings = {"policy": "", "site": "", "user": ""}
    features = ""
    for end, in_s in ends.items():
        voice, _, key = end.rpartition(" ")
        if key.startswith("lifetime."):
            name = key.partition(".")[2]
            settings[voice] += f"  {name}: {in_s if name == 'max_s' else now + in_s}\n"
        elif end.startswith("features."):
            half, name = end.split(".")[1:]
            features += f"  {half}: {{{name}: {now + in_s}}}\n"
        elif end in _FILES:
            path, text = _FILES[end]
            files[path] = text.format(
                at=now + in_s, up=up_s + in_s, minutes=(up_s + in_s) // 60, hours=(up_s + in_s) / HOUR
            )
    said = {voice: text and f"lifetime:\n{text}" for voice, text in settings.items()}
    files["site.yaml"] = said["site"] + (features and f"features:\n{features}")
    files["user/user.yaml"] = said["user"]
    machine.put("etc/contextagent/policy.yaml", said["policy"])
    lay(disk, files)


_FILES = {
    "TTL": ("context.sh", "TTL={hours:.5f}\n"),
    "folder machine/shutdowntime": ("features/machine/shutdowntime", "{at}"),
    "user machine/shutdowntime": ("user/features/machine/shutdowntime", "{at}"),
    "job/wall_limit_secs": ("features/job/wall_limit_secs", "{up}"),
    "job/run_limit": ("features/job/run_limit", "{minutes}"),
}


def expected(ends: dict[str, int]) -> dict[str, int]:
    """Return which of the ends count, by what the contract says of their voices."""
    counts = dict(ends)
    if "job/wall_limit_secs" in counts:
        counts.pop("job/run_limit", None)  # the present name counts
    above = min((counts[key] for key in ("policy lifetime.shutdowntime",) if key in counts), default=None)
    for key in ("site lifetime.shutdowntime", "user lifetime.shutdowntime"):
        if key in counts and above is not None and counts[key] > above:
            del counts[key]
        elif key in counts:
            above = counts[key]
    return counts


@given(ends=ENDS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_first_end_binds_whoever_says_it(tmp_path_factory: pytest.TempPathFactory, ends: dict[str, int]) -> None:
    folder = tmp_path_factory.mktemp("lives")
    machine, disk = Machine(folder / "machine"), folder / "disk"
    say(machine, disk, ends)
    assert boot(machine, disk).code == 0, machine.status()
    if "drain" in ends:
        assert machine.run("drain", "--in", str(ends["drain"])).code == 0
    done = machine.run("remaining", "--format", "json")
    if not ends:
        assert done.code == 3
        return
    found = machine.facts("remaining")
    counts = expected(ends)
    first = min(counts.values())
    assert abs(found["remaining_s"] - first) <= _SLACK_S, (found, counts)
    assert found["bound_by"] in {by(end) for end, in_s in counts.items() if in_s <= first + _SLACK_S}, (found, counts)
