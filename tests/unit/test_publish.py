"""Features in their places: whole at every moment, right again after whoever altered them, others' left alone."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.features.lifetime import End
from contextagent.features.values import Standing, Voices, standing
from contextagent.host import Host
from contextagent.host.accounts import Account
from contextagent.model import Step, Supply
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import merge
from contextagent.runner import publish, publishing
from contextagent.runner.drain import store_drain
from contextagent.runner.journal import Journal, read_records
from contextagent.runner.live import Live, load_live
from contextagent.runner.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEFAULTS = merge(Layer(voice="image"))
MACHINE, JOB = "etc/machinefeatures", "etc/jobfeatures"
SHUTDOWN = "var/run/shutdown_time"
NOBODY = Account(name="nobody", uid=65534, gid=65534, home="/", shell="")


class Clock(Host):
    """A host whose clocks stand where a test puts them."""

    boot_s = 100.0
    epoch_s = 1_700_000_000.0

    def boot_ns(self) -> int:  # type: ignore[override]  # the real one needs no self
        return int(self.boot_s * 1e9)

    def utc_ns(self) -> int:  # type: ignore[override]  # see above
        return int((self.epoch_s + self.boot_s) * 1e9)


class Guest(Host):
    """A host below a folder that takes it for the machine itself: it changes owners."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.is_caller = False


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in (
        ("proc/sys/kernel/random/boot_id", "boot-1\n"),
        ("sys/class/dmi/id/product_uuid", "4C4C4544-0001\n"),
        ("etc/passwd", "pilot:x:65534:65534::/home/pilot:/bin/sh\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for folder in ("run/contextagent", "var/run"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def host(root: Path) -> Clock:
    return Clock(str(root))


@pytest.fixture
def journal(host: Host) -> Iterator[Journal]:
    journal = Journal.open(host, instance_id="i-1", on_full="degrade")
    yield journal
    journal.close()


def known(**changes: Any) -> State:
    return State(instance_id="i-1", boot_id="boot-1").replace(**changes)


def said(features: Mapping[str, str] | None = None, variables: Mapping[str, str] | None = None) -> State:
    site = Supply(owner="site", source="disk:hepix", features=features or {}, variables=variables or {})
    return known(supplies={"site": site, "user": None})


def stand(host: Host, state: State, before: Live | None = None, **more: Any) -> Standing:
    return standing(
        publish.facts(host, state, before), Voices(settings=DEFAULTS, supplies=state.supplies).replace(**more)
    )


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def marks(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Return inode and time of last change of every file."""
    found = {path: path.lstat() for folder in folders for path in folder.iterdir()}
    return {path: (each.st_ino, each.st_mtime_ns) for path, each in found.items()}


WITH_END = said({"machine/shutdowntime": "1700009000", "machine/anything": "ours", "job/hs06_job": "10.5"})


def test_what_is_published_stands_in_files_for_everybody_to_read_and_nothing_else_does(host: Clock, root: Path) -> None:
    wanted = stand(host, WITH_END)
    live, problems = publish.publish(host, wanted, before=None)
    problems += publish.furnish(host, wanted, None)
    assert not problems
    for kind, folder in (("machine", MACHINE), ("job", JOB)):
        assert texts(root / folder) == {
            key.partition("/")[2]: text for key, text in wanted.values.items() if key.startswith(f"{kind}/")
        }
        assert stat.S_IMODE((root / folder).stat().st_mode) == 0o755
        assert {stat.S_IMODE(path.stat().st_mode) for path in (root / folder).iterdir()} == {0o644}
    assert (root / SHUTDOWN).read_text() == "1700009000"
    assert load_live(host) == live
    assert live.lifetime == {"shutdown_epoch_s": 1700009000, "bound_by": "shutdowntime"}
    assert {path.name for path in (root / "etc").iterdir()} == {
        *("machinefeatures", "jobfeatures", "joboutputs", "profile.d", "passwd"),
    }
    assert {path.name for path in (root / "etc/profile.d").iterdir()} == {"mjf.sh", "mjf.csh"}


@pytest.mark.parametrize("shell", ["sh", "csh"])
def test_a_login_shell_of_either_family_takes_them_from_its_profile(host: Clock, root: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    publish.furnish(host, stand(host, said(variables={"JOBOUTPUTS": "http://192.0.2.1/a!b"})), None)
    command = f". {root}/etc/profile.d/mjf.sh; env" if shell == "sh" else f"source {root}/etc/profile.d/mjf.csh; env"
    done = subprocess.run([shell, "-c", command], env={"PATH": os.defpath}, capture_output=True, text=True, check=True)
    assert {"MACHINEFEATURES=/etc/machinefeatures", "JOBFEATURES=/etc/jobfeatures"} <= set(done.stdout.split())
    assert "JOBOUTPUTS=http://192.0.2.1/a!b" in done.stdout.split()


def test_what_did_not_move_is_not_written_again(host: Clock, root: Path) -> None:
    live, _ = publish.publish(host, stand(host, WITH_END), before=None)
    before = marks(root / MACHINE, root / JOB, root / "var/run", root / "run/contextagent")
    host.boot_s += 3600
    again, problems = publish.publish(host, stand(host, WITH_END, live), before=live)
    assert (again, problems) == (live, ())
    assert marks(root / MACHINE, root / JOB, root / "var/run", root / "run/contextagent") == before


@pytest.mark.parametrize(
    ("drift_s", "is_followed"), [(0.9, False), (-1.9, False), (1.9, False), (2.5, True), (-3.5, True)]
)
def test_a_clock_that_is_kept_moves_no_value_and_one_that_is_set_moves_them_all(
    host: Clock,
    root: Path,
    drift_s: float,
    is_followed: bool,  # noqa: FBT001  # pytest gives it by name
) -> None:
    state = said(variables={"TTL": "1"})
    live, _ = publish.publish(host, stand(host, state), before=None)
    host.epoch_s += drift_s
    publish.publish(host, stand(host, state, live), before=live)
    began = int((root / JOB / "jobstart_secs").read_text())
    assert (began != 1_700_000_000) == is_followed
    assert int((root / SHUTDOWN).read_text()) == began + 3600


def test_a_clock_that_is_set_from_1970_takes_the_ends_of_our_own_with_it(host: Clock, root: Path) -> None:
    host.epoch_s = 5.0
    state = said(variables={"TTL": "1"})
    live, _ = publish.publish(host, stand(host, state), before=None)
    assert (root / SHUTDOWN).read_text() == "3605"
    host.epoch_s = 1_700_000_000.0
    publish.publish(host, stand(host, state, live), before=live)
    assert (root / SHUTDOWN).read_text() == "1700003600"


def test_a_reader_never_sees_half_a_value_or_a_folder_that_is_not_whole(host: Clock, root: Path) -> None:
    reader = f"""
import os, sys
whole, lengths = {{"1" * 900, "2" * 900}}, set()
while not os.path.exists({str(root / "over")!r}):
    try:
        names = os.listdir({str(root / MACHINE)!r})
        with open({str(root / MACHINE / "anything")!r}) as file:
            if file.read() not in whole: sys.exit("half a value")
    except FileNotFoundError:
        if os.path.exists({str(root / "begun")!r}): sys.exit("gone")
        continue
    if "total_cpu" not in names: sys.exit("half a folder")
    lengths.add(1)
sys.exit(0 if lengths else "saw nothing")
"""
    process = subprocess.Popen([sys.executable, "-c", reader], stderr=subprocess.PIPE)
    live: Live | None = None
    for turn in range(300):
        state = said({"machine/anything": str(turn % 2 + 1) * 900})
        live, problems = publish.publish(host, stand(host, state, live), before=live)
        assert not problems
        (root / "begun").touch()
    while process.poll() is None and not (root / "over").exists():
        time.sleep(0)
        (root / "over").touch()
    assert process.wait() == 0, process.stderr and process.stderr.read()
    assert process.stderr
    process.stderr.close()


def test_what_is_not_said_any_more_is_removed_and_others_files_stay(host: Clock, root: Path) -> None:
    for name in ("shutdowntime", "phys_cores", "others", "ours"):
        path = root / MACHINE / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    (root / MACHINE / ".new-killed").write_text("half")
    (root / SHUTDOWN).write_text("1")
    live, _ = publish.publish(host, stand(host, said()), before=None, ours=("machine/ours",))
    assert set(texts(root / MACHINE)) == {"total_cpu", "log_cores", "grace_secs", "others"}
    assert not (root / SHUTDOWN).exists()
    live, _ = publish.publish(host, stand(host, WITH_END, live), before=live)
    publish.publish(host, stand(host, said(), live), before=live)
    assert set(texts(root / MACHINE)) == {"total_cpu", "log_cores", "grace_secs", "others"}
    assert not (root / SHUTDOWN).exists()


def spoil(root: Path, way: str) -> None:
    path = root / MACHINE / "total_cpu"
    text = path.read_text()
    if way in ("gone", "link", "folder", "fifo"):
        path.unlink()
    if way in ("all", "file"):
        shutil.rmtree(root / MACHINE)
    doing: dict[str, Callable[[], object]] = {
        "text": lambda: path.write_text("999"),
        "longer": lambda: path.write_text(text + "9"),
        "mode": lambda: path.chmod(0o600),
        "link": lambda: path.symlink_to(root / "etc/passwd"),
        "folder": lambda: (path / "deep").mkdir(parents=True),
        "fifo": lambda: os.mkfifo(path),
        "linked": lambda: (root / MACHINE).rename(root / "elsewhere"),
        "file": lambda: (root / MACHINE).write_text("x"),
    }
    doing.get(way, int)()
    if way == "linked":
        (root / MACHINE).symlink_to("../elsewhere")


@pytest.mark.parametrize("way", ["text", "longer", "gone", "mode", "link", "folder", "fifo", "all", "linked", "file"])
def test_what_somebody_altered_is_put_right_and_said_and_no_link_is_followed(host: Clock, root: Path, way: str) -> None:
    live, _ = publish.publish(host, stand(host, said()), before=None)
    right, passwd = texts(root / MACHINE), (root / "etc/passwd").read_text()
    spoil(root, way)
    elsewhere = texts(root / "elsewhere") if way == "linked" else {}
    _, problems = publish.publish(host, stand(host, said(), live), before=live)
    assert [problem.reason for problem in problems] == [publish.CHANGED]
    assert texts(root / MACHINE) == right
    assert not (root / MACHINE).is_symlink()
    assert (root / "etc/passwd").read_text() == passwd
    if way == "linked":
        assert texts(root / "elsewhere") == elsewhere


def test_a_folder_that_others_may_write_to_is_closed_again(host: Clock, root: Path) -> None:
    live, _ = publish.publish(host, stand(host, said()), before=None)
    (root / JOB).chmod(0o777)
    publish.publish(host, stand(host, said(), live), before=live)
    assert stat.S_IMODE((root / JOB).stat().st_mode) == 0o755


def test_on_the_machine_itself_the_features_are_roots_and_the_outputs_the_pilots(root: Path) -> None:
    guest = Guest(str(root))
    wanted = stand(guest, said())
    live, _ = publish.publish(guest, wanted, before=None)
    assert not publish.furnish(guest, wanted, NOBODY)
    assert (root / "etc/joboutputs").stat().st_uid == NOBODY.uid
    assert stat.S_IMODE((root / "etc/joboutputs").stat().st_mode) == 0o755
    os.chown(root / JOB, NOBODY.uid, NOBODY.gid)
    os.chown(root / MACHINE / "total_cpu", NOBODY.uid, NOBODY.gid)
    _, problems = publish.publish(guest, wanted, before=live)
    assert [problem.reason for problem in problems] == [publish.CHANGED]
    assert {path.stat().st_uid for path in (root / JOB, root / MACHINE / "total_cpu")} == {0}


def test_job_outputs_that_a_link_stands_for_are_made_anew_and_what_is_in_the_folder_stays(
    host: Clock, root: Path
) -> None:
    (root / "elsewhere").mkdir()
    (root / "etc/joboutputs").symlink_to(root / "elsewhere")
    assert not publish.furnish(host, stand(host, said()), None)
    assert not (root / "etc/joboutputs").is_symlink()
    (root / "etc/joboutputs/log").write_text("kept")
    assert not publish.furnish(host, stand(host, said()), NOBODY)
    assert (root / "etc/joboutputs/log").read_text() == "kept"


@pytest.mark.parametrize("place", [SHUTDOWN, "etc/profile.d/mjf.sh"])
def test_a_folder_in_the_place_of_a_file_is_replaced_and_what_a_kill_left_is_gone(
    host: Clock, root: Path, place: str
) -> None:
    (root / place / "deep").mkdir(parents=True)
    left = (root / place).with_name(f".{Path(place).name}.contextagent-new")
    left.write_text("half")
    wanted = stand(host, WITH_END)
    _, problems = publish.publish(host, wanted, before=None)
    assert not (*problems, *publish.furnish(host, wanted, None))
    assert (root / place).is_file()
    assert not left.exists()


def test_a_folder_that_a_killed_agent_was_filling_is_made_anew(host: Clock, root: Path) -> None:
    left = root / "etc/.machinefeatures.contextagent-new"
    left.mkdir()
    (left / "stale").write_text("x")
    publish.publish(host, stand(host, said()), before=None)
    assert not left.exists()
    assert "stale" not in texts(root / MACHINE)


def test_where_var_run_is_a_link_the_end_stands_in_run_and_never_outside_the_root(host: Clock, root: Path) -> None:
    shutil.rmtree(root / "var/run")
    (root / "var/run").symlink_to("/run")
    publish.publish(host, stand(host, WITH_END), before=None)
    assert (root / "run/shutdown_time").read_text() == "1700009000"


def test_where_there_is_no_var_run_it_leads_to_run_as_on_every_newer_machine(host: Clock, root: Path) -> None:
    shutil.rmtree(root / "var/run")
    publish.publish(host, stand(host, said()), before=None)
    assert not (root / "var/run").exists()
    publish.publish(host, stand(host, WITH_END), before=None)
    assert (root / SHUTDOWN).read_text() == "1700009000"
    assert (root / "var/run").readlink() == Path("../run")


def test_on_an_old_machine_without_run_the_end_stands_in_var_run(root: Path) -> None:
    shutil.rmtree(root / "run")
    host = Clock(str(root))
    host.files.make_folder(host.run_folder, 0o755)
    publish.publish(host, stand(host, WITH_END), before=None)
    assert (root / SHUTDOWN).read_text() == "1700009000"
    assert not (root / "run").exists()


def break_etc(root: Path) -> tuple[str, ...]:
    shutil.rmtree(root / "etc")
    (root / "etc").write_text("")
    return (
        "/etc/machinefeatures",
        "/etc/jobfeatures",
        "/etc/joboutputs",
        "/etc/profile.d/mjf.sh",
        "/etc/profile.d/mjf.csh",
    )


def test_each_place_that_cant_be_written_is_said_once_and_the_others_are_written(host: Clock, root: Path) -> None:
    places = break_etc(root)
    wanted = stand(host, WITH_END)
    _, problems = publish.publish(host, wanted, before=None)
    problems += publish.furnish(host, wanted, None)
    assert {problem.reason for problem in problems} == {"cannot-write"}
    assert [next(place for place in places if place in problem.message) for problem in problems] == list(places)
    assert all(problem.message.endswith("going on without that feature") for problem in problems)
    assert (root / SHUTDOWN).read_text() == "1700009000"


def test_a_run_folder_that_cant_be_written_is_said_and_the_features_stand(host: Clock, root: Path) -> None:
    shutil.rmtree(root / "run/contextagent")
    (root / "run/contextagent").write_text("")
    _, problems = publish.publish(host, stand(host, said()), before=None)
    assert ["live.json" in problem.message for problem in problems] == [True]
    assert texts(root / MACHINE)


def test_a_var_folder_that_cant_be_written_is_said(host: Clock, root: Path) -> None:
    shutil.rmtree(root / "var")
    (root / "var").write_text("")
    _, problems = publish.publish(host, stand(host, WITH_END), before=None)
    assert ["'/var/run'" in problem.message for problem in problems] == [True]


@contextmanager
def full() -> Iterator[None]:
    """Let this process write not one byte, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_folder_that_cant_be_filled_leaves_nothing_aside(host: Clock, root: Path) -> None:
    wanted = stand(host, WITH_END)
    with full():
        _, problems = publish.publish(host, wanted, before=None)
        problems += publish.furnish(host, wanted, None)
    assert {problem.reason for problem in problems} == {"cannot-write"}
    assert {path.name for path in (root / "etc").iterdir()} == {"passwd", "joboutputs", "profile.d"}
    assert not list((root / "var/run").iterdir()) + list((root / "etc/profile.d").iterdir())


def test_a_disk_that_takes_nothing_leaves_what_stood_there(host: Clock, root: Path) -> None:
    live, _ = publish.publish(host, stand(host, WITH_END), before=None)
    before = texts(root / MACHINE) | texts(root / JOB)
    moved = stand(host, said({"machine/shutdowntime": "1700008000", "machine/anything": "new"}), live)
    with full():
        _, problems = publish.publish(host, moved, before=live)
    assert {problem.reason for problem in problems} == {"cannot-write"}
    assert {**before, **texts(root / MACHINE), **texts(root / JOB)} == before
    assert (root / SHUTDOWN).read_text() == "1700009000"
    assert load_live(host) == live


def test_what_an_earlier_boot_published_is_taken_back_where_this_one_says_nothing(host: Clock, root: Path) -> None:
    publish.publish(host, stand(host, WITH_END), before=None)
    publish.furnish(host, stand(host, WITH_END), None)
    (root / MACHINE / "others").write_text("x")
    shutil.rmtree(root / JOB)
    (root / JOB).symlink_to(root / "etc")
    for _ in range(2):
        assert not publish.withdraw(host, ("machine/anything",))
        live = load_live(host)
        assert live
        assert (live.features, live.ends, live.lifetime) == ({}, (), None)
    assert texts(root / MACHINE) == {"others": "x"}
    assert (root / JOB).is_symlink()
    assert not (root / SHUTDOWN).exists()
    assert not list((root / "etc/profile.d").iterdir())
    (root / JOB).unlink()
    (root / MACHINE / "others").unlink()
    assert not publish.withdraw(host, ())
    assert not (root / JOB).exists()
    assert not (root / MACHINE).exists()


def test_taking_back_says_what_it_could_not_remove(host: Clock, root: Path) -> None:
    shutil.rmtree(root / "etc")
    (root / "etc").write_text("")
    assert {problem.reason for problem in publish.withdraw(host, ())} == {"cannot-write"}


def test_the_machine_tells_of_itself(host: Clock, root: Path) -> None:
    (root / "proc/meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nSwapTotal:  7 kB\n")
    found = publish.facts(host, known())
    assert (found.memory_bytes, found.swap_bytes) == (1_024_000, 7168)
    assert found.cpus == os.cpu_count()
    assert found.uuid == "4c4c4544-0001"
    assert found.now.boot_s == 100.0
    (root / "proc/meminfo").write_text("MemTotal:\nSwapTotal: many kB\n")
    assert (publish.facts(host, known()).memory_bytes, publish.facts(host, known()).swap_bytes) == (0, 0)


def test_a_uuid_is_what_the_service_says_or_dmi_or_the_instances_name(host: Clock, root: Path) -> None:
    assert publish.facts(host, known(ids={"vac-uuid": "a", "dmi": "b"})).uuid == "a"
    assert publish.facts(host, known(ids={"vmid": "a", "dmi": "b"})).uuid == "b"
    (root / "sys/class/dmi/id/product_uuid").unlink()
    assert publish.facts(host, known()).uuid == "i-1"


def test_the_first_boot_is_remembered_by_the_clock_as_it_was_set_in_that_boot(host: Clock) -> None:
    host.epoch_s = 5.0
    young = known().replace(first=publish.first_seen(host, known()))
    assert publish.facts(host, young).first_s == 100.0
    host.epoch_s, host.boot_s = 1_700_000_000.0, 160.0
    older = young.replace(first=publish.first_seen(host, young))
    assert older.first["utc_s"] == 1_700_000_100
    next_boot = older.replace(boot_id="boot-2")
    host.boot_s, host.epoch_s = 30.0, 1_700_050_000.0
    next_boot = next_boot.replace(first=publish.first_seen(host, next_boot))
    found = publish.facts(host, next_boot)
    assert (found.first_clock, found.first_s, found.seen_s) == ("wall", 1_700_000_100, 30.0)


def test_a_first_boot_whose_clock_was_never_set_gives_way_to_the_next(host: Clock) -> None:
    host.epoch_s = 5.0
    young = known().replace(first=publish.first_seen(host, known()), boot_id="boot-2")
    host.boot_s, host.epoch_s = 30.0, 1_700_050_000.0
    found = publish.facts(host, young.replace(first=publish.first_seen(host, young)))
    assert (found.first_clock, found.first_s) == ("boot", 30.0)


def test_a_folder_that_the_site_names_is_read_and_what_is_no_feature_in_it_passed_over(host: Clock, root: Path) -> None:
    there = root / "site/machine"
    (there / "folder").mkdir(parents=True)
    for name, text in {"hs06": "10\n", "not-a-key": "1", "huge": "x" * 5000}.items():
        (there / name).write_text(text)
    (there / "link").symlink_to("hs06")
    state = said(variables={"MACHINEFEATURES": "/site/machine/", "JOBFEATURES": "/etc/jobfeatures"})
    found = publish.voices(host, state.replace(read={"job/hs06_job": "1"}), DEFAULTS)
    assert found.read == {"machine/hs06": "10", "job/hs06_job": "1"}
    assert publish.voices(host, state.replace(read={"job/hs06_job": "1"}), DEFAULTS, read={}).read == {
        "machine/hs06": "10"
    }
    assert publish.voices(host, known(), DEFAULTS).read == {}


def test_a_drain_that_was_asked_for_is_one_of_the_voices(host: Clock) -> None:
    assert publish.voices(host, known(), DEFAULTS).drain is None
    host.files.make_folder("/var/lib/contextagent/instances/i-1")
    end = End(by="drain", clock="boot", at_s=900.0)
    store_drain(host, "i-1", end, publish.facts(host, known()).now)
    assert publish.voices(host, known(), DEFAULTS).drain == end


def step(wanted: Standing, ours: tuple[str, ...] = ()) -> Step:
    return Step(
        id="site/pre-network/features", kind="file", owner="site", phase="pre-network", sha512="", profile="root",
        limits=None, frequency="every-boot", skip=None, late=False, target="pilot", lines=ours, argument="features",
        told=(wanted,),
    )  # fmt: skip


def events(host: Host) -> list[dict[str, Any]]:
    return [dict(each) for each in read_records(host, "boot-1") if each["ev"] in ("features", "lifetime")]


def test_a_boot_records_what_it_publishes_and_again_only_what_is_news(
    host: Clock, journal: Journal, root: Path
) -> None:
    due = publishing.due(host, WITH_END, Voices(settings=DEFAULTS, supplies=WITH_END.supplies), mark="m")
    assert due.features
    assert due.state.published["extras"] == ["machine/anything"]
    assert publishing.take(host, journal, step(due.features)) == publishing.Done()
    assert [each["ev"] for each in events(host)] == ["features", "lifetime"]
    assert events(host)[0]["machine"]["anything"] == "4 bytes", "a text of a site's own may be a secret"
    assert events(host)[0]["job"]["hs06_job"] == "10.5"
    publishing.take(host, journal, step(due.features))
    assert len(events(host)) == 2
    (root / MACHINE / "anything").write_text("theirs")
    done = publishing.take(host, journal, step(due.features))
    assert (done.problems, [each.reason for each in done.warnings]) == ((), [publish.CHANGED])
    assert [each["ev"] for each in events(host)] == ["features", "lifetime", "features"]
    sooner = stand(host, said({"machine/shutdowntime": "1700008000"}), load_live(host))
    publishing.take(host, journal, step(sooner))
    assert [each["ev"] for each in events(host)][3:] == ["features", "lifetime"]
    assert events(host)[-1]["shutdown_epoch_s"] == 1_700_008_000


def test_a_boot_that_has_nothing_to_publish_takes_back_what_one_before_did(
    host: Clock, journal: Journal, root: Path
) -> None:
    first = publishing.due(host, WITH_END, Voices(settings=DEFAULTS, supplies=WITH_END.supplies))
    assert first.features
    publishing.take(host, journal, step(first.features))
    nothing = Voices(settings=DEFAULTS, supplies={})
    assert publishing.due(host, known(), nothing).features is None
    after = publishing.due(host, known(published=first.state.published), nothing)
    assert (after.features, after.ours, after.state.published) == (Standing(), ("machine/anything",), {})
    assert publishing.take(host, journal, step(Standing(), after.ours)) == publishing.Done()
    assert not (root / MACHINE).exists()
    assert len(events(host)) == 2


def test_a_setting_that_is_refused_by_its_key_is_said_in_the_state(host: Clock) -> None:
    spoken = {"features.job.hs06_job": Setting(value="ten")}
    voices = Voices(settings=merge(Layer(voice="image", values=spoken)), supplies={})
    due = publishing.due(host, known(), voices)
    assert [each.reason for each in due.state.warnings] == ["bad-feature"]
