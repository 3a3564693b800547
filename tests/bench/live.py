"""What a boot of a real guest costs: our units beside Debian's cloud-init, at the same work, in the same image.

The guest's clock counts instructions (`-icount`: one a nanosecond), so that whatever else this machine does is in no
figure, and two boots of the same image differ by parts of a percent.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from tests.bench import forms, lab
from tests.bench.report import Report, aligned
from tests.machine import make_iso
from tests.vm.beside import BESIDE
from tests.vm.guest import Guest, Setup
from tests.vm.parts import missing_tools

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TITLE = "a boot of a real guest from a context disk, both phases: 2 user and 4 site scripts"
ORDER = "/var/lib/bench/order"
OURS = ("contextagent-pre-network", "contextagent")
CLOUD_INIT = ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final")
# As where an initrd found the drive: its drivers are loaded, and udev is done with the machine, before either begins
DRIVE = """[Unit]
DefaultDependencies=no
After=systemd-udevd.service systemd-udev-trigger.service
Before=contextagent-pre-network.service cloud-init-local.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'modprobe -a ata_piix sr_mod isofs; until [ -b /dev/sr0 ]; do sleep 0.1; done; udevadm settle'
"""
AFTER_DRIVE = "[Unit]\nWants=drive.service\nAfter=drive.service\n"
FILES = {
    "/etc/systemd/system/drive.service": DRIVE,
    "/etc/systemd/system/contextagent-pre-network.service.d/drive.conf": AFTER_DRIVE,
    "/etc/systemd/system/cloud-init-local.service.d/drive.conf": AFTER_DRIVE,
}
ASKED = f"""
cd /run/lab/out
systemctl is-system-running --wait >state
cp {ORDER} order
for unit in {" ".join((*OURS, *CLOUD_INIT))}; do
    systemctl show -p InactiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic -p CPUUsageNSec $unit >$unit
done
"""


class Case(NamedTuple):
    """One competitor.

    Attributes:
        name: As the table shows it.
        disk: The work, in its form.
        words: What the kernel is told, so that the other one leaves the machine alone.
        files: What its image holds beside that.
        units: Its units, in order.
        order: Scripts that must have run, in their order.
    """

    name: str
    disk: Path
    words: str
    files: Mapping[str, str]
    units: tuple[str, ...]
    order: list[str]


class Cost(NamedTuple):
    """What one boot's units cost: seconds from start to end, processor seconds, and if they did the work."""

    unit_s: dict[str, float]
    cpu_s: float
    is_right: bool

    @property
    def sum_s(self) -> float:
        """All units together; each waits for the one before it."""
        return sum(self.unit_s.values())


def live(rounds: int) -> Report:
    """Compare the units' time in whole boots."""
    missing = missing_tools()
    if missing:
        return Report(f"{TITLE}: not measured, because these are missing: {', '.join(missing)}", [], is_right=True)
    work = lab.work(2, 4, order=ORDER)
    cases = _cases(work)
    costs: dict[str, list[Cost]] = {case.name: [] for case in cases}
    count = max(rounds // 4, 1)
    for _ in range(count):
        for case in cases:
            costs[case.name].append(_boot(case))
    return _report(cases, costs)


def _cases(work: lab.Work) -> list[Case]:
    tuned = forms.CLOUD_CONFIGS["disk-tuned"].replace("fs_label: null", "fs_label: cidata")
    ours = make_iso(work.folder / "disk", work.folder / "ours.iso")
    theirs, off = make_iso(work.folder / "nocloud", work.folder / "theirs.iso", label="cidata"), "contextagent=off"
    return [
        Case("contextagent", ours, "cloud-init=disabled", {}, OURS, work.by_phase),
        Case("cloud-init, tuned", theirs, off, {"/etc/cloud/cloud.cfg": tuned}, CLOUD_INIT, work.by_owner),
        Case("cloud-init, default", theirs, off, {}, CLOUD_INIT, work.by_owner),
    ]


def _boot(case: Case) -> Cost:
    """Boot a new machine, and return what the case's units cost it."""
    folder = lab.CACHE / "guest"
    shutil.rmtree(folder, ignore_errors=True)
    guest = Guest(folder, BESIDE)
    guest.put(FILES | dict(case.files))
    guest.put({ORDER: ""}, mode=0o666)
    boot = guest.boot(ASKED, Setup(cd=case.disk, words=case.words, is_counted=True), timeout_s=600)
    shown = {unit: dict(line.split("=", 1) for line in boot.read(unit).splitlines()) for unit in (*OURS, *CLOUD_INIT)}
    ended = {unit: int(values["ActiveEnterTimestampMonotonic"]) for unit, values in shown.items()}
    times = {unit: (ended[unit] - int(shown[unit]["InactiveExitTimestampMonotonic"])) / 1e6 for unit in case.units}
    is_alone = {unit for unit, end in ended.items() if end} == set(case.units)
    is_right = is_alone and boot.read("order").split() == case.order
    shutil.rmtree(folder)
    cpu_s = sum(int(shown[unit]["CPUUsageNSec"]) for unit in case.units) / 1e9 if is_alone else 0.0
    return Cost(times, cpu_s, is_right)


def _report(cases: list[Case], costs: dict[str, list[Cost]]) -> Report:
    """Return the table: the least of all boots, since what is more than that is not the units' own."""
    least = {name: min(each, key=lambda cost: cost.sum_s) for name, each in costs.items()}
    ours = least[cases[0].name]
    rows = [["", "units ms", "ours is", "CPU ms", "ours is", "each unit ms", "right"]]
    for name, cost in least.items():
        rows.append([
            name,
            f"{cost.sum_s * 1e3:.0f}",
            f"1/{cost.sum_s / ours.sum_s:.1f}",
            f"{cost.cpu_s * 1e3:.0f}",
            f"1/{cost.cpu_s / ours.cpu_s:.1f}" if ours.cpu_s else "",
            " + ".join(f"{unit_s * 1e3:.0f}" for unit_s in cost.unit_s.values()),
            f"{sum(each.is_right for each in costs[name])}/{len(costs[name])}",
        ])  # fmt: skip
    text = f"{TITLE} (least of {len(costs[cases[0].name])}, in turn; 1 instruction = 1 ns)\n{aligned(rows)}"
    figures = {name: [each._asdict() for each in case] for name, case in costs.items()}
    return Report(text, figures, all(each.is_right for case in costs.values() for each in case))
