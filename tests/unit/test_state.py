"""What an instance remembers: whole or not at all, and repaired from the traces."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.errors import CannotWriteError
from contextagent.host import Host
from contextagent.model import Ending, Kept, LoginKey, PlacedFile, Problem, Script, Supply, Verdict
from contextagent.runner.journal import Journal
from contextagent.runner.memory import close_interrupted, once_in_traces, recall
from contextagent.runner.state import HOME, State, fold, instance_folder, known_instance, load, save, sweep

if TYPE_CHECKING:
    from pathlib import Path

SHA = "5" * 128
SCRIPT = Script(
    owner="user", phase="post-network", name="a", rank=2, sha512=SHA, size_bytes=3, content="scripts/user/a"
)
SUPPLY = Supply(
    owner="user",
    source="disk:hepix",
    scripts=(SCRIPT,),
    files=(
        PlacedFile(owner="user", target="/x/y", sha512=SHA, size_bytes=1, mode=0o644, content="scripts/user/files/x/y"),
    ),
    keys=(LoginKey(owner="user", account="", line="ssh-rsa AAAA"),),
    kept=(Kept(name="user-data", sha512=SHA, size_bytes=1, content="context/kept-user/000", reason="unknown-form"),),
    settings=("user.yaml", "scripts: {}\n"),
    directions=("site.yaml", "metadata: {bundle: x.tgz}\n"),
    features={"machine/total_cpu": "8"},
    variables={"A": "b"},
    companions=(("lib.sh", SHA, 7),),
    digest=SHA,
)
STATE = State(
    instance_id="dmi-1",
    ids={"dmi": "1"},
    boot_id="boot-1",
    phases={"pre-network": {"state": "ok", "started": "t", "finished": "t", "duration_s": 0.1}},
    supplies={"user": SUPPLY, "site": None},
    verdicts=(Verdict(owner="user", source="disk:hepix", verdict="found", reason="", duration_s=0.1),),
    warnings=(Problem(reason="x", message="y"),),
    reports=({"id": SCRIPT.id, "state": "ok"},),
    late=("user",),
    ahead={"user": SUPPLY},
    spare={"user": SUPPLY},
    has_met_service=True,
    once={SCRIPT.id: (SHA, "done")},
    folders={"user": SHA},
    last={"boot": "boot-1", "seq": 3, "hash": "0" * 64},
)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    boot(tmp_path, "boot-1")
    return Host(str(tmp_path))


def boot(root: Path, boot_id: str) -> None:
    place = root / "proc/sys/kernel/random/boot_id"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(boot_id + "\n")


def state_file(host: Host) -> str:
    return host.files.real(f"{instance_folder('dmi-1')}/state.json")


def test_a_state_comes_back_as_it_was_saved(host: Host) -> None:
    save(host, STATE)
    assert load(host) == STATE
    assert known_instance(host) == "dmi-1"
    assert os.stat(state_file(host)).st_mode & 0o777 == 0o600


def test_a_state_says_each_thing_once() -> None:
    one, other = Problem(reason="x", message="y"), Problem(reason="z", message="y")
    known = STATE.saying(warnings=(one, other), errors=(one,)).saying(warnings=(other,), errors=(one,))
    assert (known.warnings, known.errors) == ((one, other), (one,))


def test_an_image_that_never_booted_remembers_nothing(host: Host) -> None:
    assert load(host) is None


def test_what_a_killed_agent_left_unfinished_is_swept_away_and_nothing_else(host: Host) -> None:
    folders = (HOME, f"{HOME}/instances/other", "/run/contextagent/scripts", "/var/log/contextagent")
    for folder in folders:
        host.files.create(f"{folder}/.new-0/inside", (b"x",))
        host.files.create(f"{folder}/kept", (b"x",))
    host.is_run_kept = False
    sweep(host)
    for folder in folders:
        assert "kept" in [entry.name for entry in host.files.folder(folder)]
        assert not host.files.exists(f"{folder}/.new-0")


def test_what_another_boot_left_in_a_folder_that_outlives_it_goes_once(host: Host) -> None:
    folder = host.run_folder
    for name in ("lock", "status.json", "scripts/.new-0/x", "disk-7/x"):
        host.files.create(f"{folder}/{name}", (b"x",))
    sweep(host)
    assert [entry.name for entry in host.files.folder(folder)] == ["boot_id", "disk-7", "lock"]
    host.files.create(f"{folder}/status.json", (b"x",))
    sweep(host)
    assert host.files.exists(f"{folder}/status.json")
    host.files.write(f"{folder}/boot_id", b"another")
    sweep(host)
    assert not host.files.exists(f"{folder}/status.json")


@pytest.mark.parametrize("target", ["../../etc", "instances/..", "instances/", "elsewhere/dmi-1"])
def test_a_link_that_leads_elsewhere_names_no_instance(host: Host, target: str) -> None:
    host.files.link(f"{HOME}/instance", target)
    assert known_instance(host) == ""


def test_every_truncation_and_every_flipped_byte_of_a_state_is_noticed(host: Host) -> None:
    save(host, STATE)
    with open(state_file(host), "rb") as file:
        whole = file.read()
    damaged = [whole[:length] for length in range(0, len(whole) - 2, 7)]
    damaged += [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in range(0, len(whole) - 1, 7)]
    for data in damaged:
        with open(state_file(host), "wb") as file:
            file.write(data)
        found = load(host)
        assert found is not None
        assert found.damage or found == STATE


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"schema":2,"sha256":"","state":{"instance_id":"dmi-1"}}', '{"schema":1,"state":[]}'],
)
def test_a_state_of_another_version_or_shape_is_not_trusted(host: Host, text: str) -> None:
    save(host, STATE)
    with open(state_file(host), "w") as file:
        file.write(text)
    found = load(host)
    assert found is not None
    assert found.damage
    assert found.instance_id == "dmi-1"


def test_a_state_that_cannot_be_written_leaves_the_old_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    save(host, STATE)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host.files, "rename", refuse)
    other = STATE.replace(instance_id="dmi-2")
    with pytest.raises(CannotWriteError, match="cannot write '/var/lib/contextagent/instance'"):
        save(host, other)
    assert load(host) == STATE


def test_a_state_of_another_instance_is_not_trusted(host: Host) -> None:
    save(host, STATE)
    os.rename(host.files.real(instance_folder("dmi-1")), host.files.real(instance_folder("dmi-2")))
    host.files.remove(f"{HOME}/instance")
    host.files.link(f"{HOME}/instance", "instances/dmi-2")
    found = load(host)
    assert found is not None
    assert "of another instance" in found.damage


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system of its own needs root")
def test_a_state_is_kept_on_a_full_disk_by_what_was_reserved_for_it(host: Host) -> None:
    host.files.make_folder(HOME)
    real = host.files.real(HOME)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", real], check=True)
    try:
        save(host, STATE)
        with contextlib.suppress(OSError), open(f"{real}/ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        changed = STATE.replace(phases={})
        save(host, changed)
        assert load(host) == changed
    finally:
        subprocess.run(["umount", "--lazy", real], check=True)


def record(ev: str, step_id: str = "user/post-network/a", **more: Any) -> dict[str, Any]:
    return {"ev": ev, "id": step_id, "boot": "boot-1", "seq": 1, **more}


@pytest.mark.parametrize(
    ("records", "outcome"),
    [
        ([record("start", sha512=SHA)], "running"),
        ([record("start", sha512=SHA), record("end", reason="exit")], "done"),
        ([record("start", sha512=SHA), record("end", reason="agent-restart")], "interrupted"),
        ([record("start", sha512=SHA), {"ev": "anchor", "head": ""}], "running"),
        ([record("start", sha512=SHA), record("end", reason="abort", out_sha512="0")], "done"),
    ],
)
def test_folding_the_trace_tells_what_became_of_a_script(records: list[dict[str, Any]], outcome: str) -> None:
    assert fold({}, records) == {"user/post-network/a": (SHA, outcome)}


def test_a_script_that_could_not_even_be_started_is_not_done() -> None:
    assert fold({}, [record("start", sha512=SHA), record("end", reason="abort", out_sha512="")]) == {}


@pytest.mark.parametrize("is_rebooted", [False, True])
def test_what_the_trace_knows_and_the_state_does_not_is_found_out(
    host: Host, tmp_path: Path, *, is_rebooted: bool
) -> None:
    journal = Journal.open(host, instance_id="dmi-1")
    journal.record("network", state="up")
    save(host, STATE.replace(once={}, last={"boot": "boot-1", "seq": 1, "hash": ""}))
    assert recall(host).state.once == {}
    if is_rebooted:
        journal.close()
        boot(tmp_path, "boot-2")
        journal = Journal.open(host, instance_id="dmi-1")
    journal.record("start", id=SCRIPT.id, sha512=SHA)
    journal.record("end", id=SCRIPT.id, reason="exit", exit=0, signal=None, wall_s=0)
    journal.close()
    assert recall(host).state.once == once_in_traces(host, "dmi-1") == {SCRIPT.id: (SHA, "done")}
    assert once_in_traces(host, "dmi-2") == {}


def killed_in_a_script(host: Host) -> None:
    save(host, STATE.replace(phases={"pre-network": {"state": "running"}}, once={}, last={}))
    journal = Journal.open(host, instance_id="dmi-1")
    journal.record("start", id="site/pre-network/s", sha512=SHA)
    journal.record("end", id="site/pre-network/s", exit=7, signal=None, reason="exit", wall_s=0.5)
    journal.record("start", id=SCRIPT.id, sha512=SHA)
    journal.record("network", state="up")
    journal.close()


@pytest.mark.parametrize("is_rebooted", [False, True])
def test_a_script_that_a_killed_agent_left_is_closed_and_stays_interrupted(
    host: Host, tmp_path: Path, *, is_rebooted: bool
) -> None:
    killed_in_a_script(host)
    if is_rebooted:
        boot(tmp_path, "boot-2")
    memory = recall(host)
    assert [each["id"] for each in memory.unfinished] == [SCRIPT.id]
    done = Ending(state="failed", reason="exit", exit_code=7, signal=None, wall_s=0.5)
    assert memory.begun == ({} if is_rebooted else {SCRIPT.id: None, "site/pre-network/s": done})
    journal = Journal.open(host, instance_id="dmi-1")
    state = close_interrupted(journal, memory)
    assert state.once[SCRIPT.id] == (SHA, "interrupted")
    assert [(each["ev"], each.get("reason")) for each in journal.events()][-1] == ("end", "agent-restart")
    journal.close()


def test_records_that_the_checkpoint_knows_are_not_read_again(host: Host) -> None:
    killed_in_a_script(host)
    known = load(host)
    assert known is not None
    save(host, known.replace(last={"boot": "boot-1", "seq": 3, "hash": ""}))
    assert recall(host).unfinished == ()


def test_a_new_boot_forgets_what_spoke_of_the_last_one_and_keeps_who_it_is(host: Host, tmp_path: Path) -> None:
    save(host, STATE)
    assert recall(host).state == STATE
    boot(tmp_path, "boot-2")
    state = recall(host).state
    assert (state.boot_id, state.phases, state.reports, state.verdicts, state.warnings) == ("boot-2", {}, (), (), ())
    assert (state.ids, state.once, state.supplies) == (STATE.ids, STATE.once, STATE.supplies)


def test_a_damaged_state_is_rebuilt_from_all_traces_of_the_instance(host: Host, tmp_path: Path) -> None:
    killed_in_a_script(host)
    boot(tmp_path, "boot-2")
    other = Journal.open(host, instance_id="another")
    other.record("start", id="user/pre-network/not-ours", sha512=SHA)
    other.close()
    host.files.write("/var/log/contextagent/receipt-boot-1.json", b"{}")
    with open(state_file(host), "w") as file:
        file.write("{")
    memory = recall(host)
    assert set(memory.state.once) == {SCRIPT.id, "site/pre-network/s"}
    assert [each.reason for each in memory.state.warnings] == ["state-damaged"]


def test_nothing_is_remembered_of_a_machine_that_never_ran(host: Host) -> None:
    memory = recall(host)
    assert (memory.state.instance_id, memory.state.boot_id, memory.unfinished) == ("", "boot-1", ())
