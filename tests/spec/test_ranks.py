"""Names, owners, phases and ranks: the table of the native layout, and the order of everything that runs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from tests.spec.scenes import boot, effects, ids, lay, reports, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

MAIL = """Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/cloud-boothook

#!/bin/sh
echo hook >> {effects}
--b
Content-Type: text/x-shellscript

#!/bin/sh
echo part >> {effects}
--b
Content-Type: text/cloud-config

#cloud-config
bootcmd: ["echo boot >> {effects}"]
runcmd: ["echo run >> {effects}"]
--b--
"""


def test_every_kind_of_script_runs_at_its_rank(machine: Machine, disk: Path) -> None:
    start = base64.b64encode(b"#!/bin/sh\necho start-script >> %s/effects\n" % str(machine.root).encode()).decode()
    names = ("prolog.sh", "pre-network.d/b", "pre-network.d/B", "epilog.sh", "post-network.d/10", "post-network.d/9")
    lay(disk, says(machine, *names, "late-init", *(f"user/{name}" for name in names)))
    lay(
        disk,
        {
            "context.sh": f"START_SCRIPT_BASE64={start}\nINIT_SCRIPTS='late-init'\nSCRIPT_EXEC=exec-me\n",
            "exec-me": f"echo script-exec >> {machine.root}/effects\n",
            "user-data": MAIL.format(effects=machine.root / "effects"),
            "meta-data": "",
        },
    )
    assert boot(machine, disk).code == 0
    assert ids(machine) == [
        "user/pre-network/prolog.sh",
        "user/pre-network/pre-network.d/B",
        "user/pre-network/pre-network.d/b",
        "user/pre-network/boothook-001",
        "user/pre-network/bootcmd-003",
        "site/pre-network/prolog.sh",
        "site/pre-network/pre-network.d/B",
        "site/pre-network/pre-network.d/b",
        "user/post-network/epilog.sh",
        "user/post-network/post-network.d/10",
        "user/post-network/post-network.d/9",
        "user/post-network/script-exec",
        "user/post-network/part-002",
        "user/post-network/runcmd-003",
        "site/post-network/epilog.sh",
        "site/post-network/post-network.d/10",
        "site/post-network/post-network.d/9",
        "site/post-network/start-script",
        "site/post-network/late-init",
    ]
    assert len(effects(machine)) == 19
    assert list(reports(machine)) == ids(machine), "status.json is in run order"


def test_stop_runs_stop_d_then_epilog_then_prolog_with_the_site_first_and_argument_stop(
    machine: Machine, disk: Path
) -> None:
    lay(disk, says(machine, *(f"{o}{n}" for o in ("site/", "user/") for n in ("epilog.sh", "prolog.sh", "stop.d/x"))))
    boot(machine, disk)
    assert all(line.endswith(" start") for line in effects(machine))
    began = len(effects(machine))
    boot(machine, disk, "stop")
    assert effects(machine)[began:] == [
        f"{owner}/{name} stop" for owner in ("site", "user") for name in ("stop.d/x", "epilog.sh", "prolog.sh")
    ]


def test_init_sh_counts_only_where_there_is_no_prolog_in_both_phases(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "site/init.sh", "user/init.sh", "user/prolog.sh"))
    boot(machine, disk)
    boot(machine, disk, "stop")
    assert effects(machine) == [
        "user/prolog.sh start",
        "site/init.sh start",
        "site/init.sh stop",
        "user/prolog.sh stop",
    ]


def test_flat_names_are_the_users_and_site_names_the_sites_under_flat_owner_user(machine: Machine, disk: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", "disk: {flat_owner: user}\n")
    lay(disk, says(machine, "epilog.sh", "site/epilog.sh"))
    lay(disk, {"context.sh": f"START_SCRIPT='echo start-script $1 >> {machine.root}/effects'\n"})
    boot(machine, disk)
    assert ids(machine) == [
        "user/post-network/epilog.sh",
        "user/post-network/start-script",
        "site/post-network/epilog.sh",
    ]


def test_a_run_of_post_network_alone_runs_pre_network_scripts_late_and_first(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, *(f"{owner}/{name}" for owner in ("site", "user") for name in ("prolog.sh", "epilog.sh"))))
    boot(machine, disk, "post-network")
    assert ids(machine) == [
        "user/pre-network/prolog.sh",
        "site/pre-network/prolog.sh",
        "user/post-network/epilog.sh",
        "site/post-network/epilog.sh",
    ]
    late = {record["id"]: record["late"] for record in machine.trace() if record["ev"] == "start"}
    assert [late[each] for each in ids(machine)] == [True, True, False, False]
    found = reports(machine)["site/pre-network/prolog.sh"]
    assert (found["phase"], found["late"]) == ("pre-network", True)


def test_a_phase_after_another_takes_the_context_that_the_first_one_found(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "prolog.sh", "epilog.sh"))
    boot(machine, disk, "pre-network")
    assert effects(machine) == ["prolog.sh start"]
    machine.run("run", "post-network", "--disk", "none")
    assert effects(machine) == ["prolog.sh start", "epilog.sh start"]
