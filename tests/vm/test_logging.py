"""A machine's trace at its site's collector when the machine has gone: whole if it was shut down, open if not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.traces import verified
from tests.vm.collecting import LOGGING, burn_logging, collected, collecting
from tests.vm.guest import Cut, Guest, Setup
from tests.vm.left import REPORT, status

if TYPE_CHECKING:
    from pathlib import Path

ASKED = """
systemctl show -p ActiveState --value rsyslog.service > rsyslog
cp /etc/rsyslog.d/10-contextagent.conf drop-in
journalctl -b --no-pager -u rsyslog.service -u contextagent.service > journal
"""


def test_a_whole_boots_trace_is_at_the_collector_and_intact_when_the_machine_has_gone(tmp_path: Path) -> None:
    disk = burn_logging(tmp_path / "disk")
    with collecting(tmp_path / "collector") as (outside, station):
        guest = Guest(tmp_path / "guest", LOGGING)
        boots = [guest.boot(REPORT + ASKED, Setup(cd=disk, outside=outside)) for _ in range(2)]
        for boot in boots:
            assert status(boot)["result"] == "ok", boot.read("explain")
            assert status(boot)["logging"] == {
                "targets": ["rsyslog relp://169.254.169.254:2514"],
                "delivered": "reachable",
            }, boot.read("journal")
            assert boot.read("rsyslog") == "active\n"
            assert "trace: the whole trace was read and sent" in boot.console
        assert [each.verdict for each in verified(collected(station)).boots] == ["intact", "intact"]


def test_the_trace_of_a_machine_that_lost_its_power_is_open_at_the_collector(tmp_path: Path) -> None:
    disk = burn_logging(tmp_path / "disk")
    with collecting(tmp_path / "collector") as (outside, station):
        guest = Guest(tmp_path / "guest", LOGGING)
        cut = Cut(at="LAB-UP", after_s=1)
        boot = guest.boot("sleep 1000", Setup(cd=disk, outside=outside, cache="writeback"), cut=cut)
        assert boot.is_cut
        (said,) = verified(collected(station)).boots
        assert said.verdict == "open"
        assert any(b'"ev":"end"' in line for line in collected(station))
