"""`simulate`: a whole boot in a view of this machine, which is afterwards as it was, whatever the scripts did."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.machine import AGENT, REPOSITORY, Done, make_iso, run

if TYPE_CHECKING:
    from collections.abc import Iterator

if os.geteuid() != 0:
    pytest.skip("only root can have a view of this machine", allow_module_level=True)

PATIENCE_S = 60
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")


def simulate(*words: object, code: int | None = 0) -> Done:
    done = run((*AGENT, "simulate", *map(str, words)))
    assert code is None or done.code == code, done.err + done.out
    return done


def facts(*words: object, code: int | None = 0) -> Any:
    return json.loads(simulate(*words, "--format", "json", code=code).out)


def script(path: Path, text: str, interpreter: str = "/bin/sh") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{interpreter}\n{text}\n")
    return path


def states(found: Any) -> dict[str, str]:
    return {each["id"]: each["state"] for each in found["status"]["scripts"]}


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that the view shows as it is: /tmp begins empty there."""
    folder = Path(tempfile.mkdtemp(prefix="contextagent-simulate-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder)


class Machine(NamedTuple):
    """What of this machine a script could have changed."""

    files: dict[str, str]
    mounts: list[str]
    network: str
    kernel: dict[str, str]
    modules: set[str]
    devices: set[str]
    clock_offset_h: int
    names: tuple[str, ...]
    shared: list[str]


SHARED = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev", "/tmp", "/run", "/")


def look() -> Machine:
    """Return this machine's state, but for what changes by itself."""
    settings = (
        "kernel/hostname kernel/domainname kernel/sysrq kernel/core_pattern kernel/modprobe vm/swappiness fs/file-max"
    )
    return Machine(
        files={str(path): digest(path) for top in ("/etc", "/var", "/usr/local") for path in tree(top)},
        mounts=Path("/proc/self/mountinfo").read_text().splitlines(),
        network="".join(run(("ip", *words)).out for words in (("-o", "link"), ("-o", "addr"), ("route",))),
        kernel={name: text(Path("/proc/sys", name)) for name in settings.split()},
        modules={line.split()[0] for line in text(Path("/proc/modules")).splitlines()},
        devices=set(os.listdir("/dev")),
        clock_offset_h=round((time.time() - time.monotonic()) / 3600),
        names=os.uname()[1:2],
        shared=[digest(Path(path)) for path in (*SHARED, os.path.realpath(sys.executable))]
        + [str(os.listxattr(os.path.realpath(sys.executable)))],
    )


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""  # this kernel may have been built without


def tree(top: str) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in (".cache", "__pycache__", "tmp")]
        yield from (Path(folder, name) for name in (*folders, *files))


def digest(path: Path) -> str:
    try:
        found = path.lstat()
        bytes_ = path.read_bytes() if path.is_file() and not path.is_symlink() and found.st_size < 1 << 20 else b""
        link = os.readlink(path) if path.is_symlink() else ""
    except FileNotFoundError:
        return ""  # somebody else's, and gone
    size = found.st_size if path.is_file() else 0
    return f"{found.st_mode:o} {found.st_uid}:{found.st_gid} {size} {link} {sha256(bytes_).hexdigest()[:16]}"


ESCAPE = """
import os
os.mkdir("inner")
inside = os.open("/", os.O_RDONLY)
os.chroot("inner")
os.fchdir(inside)
for _ in range(64):
    os.chdir("..")
os.chroot(".")
open("/escaped-@", "w").close()
for way in ("/proc/1/root", "/proc/1/cwd", "/proc/self/fd/%d/../../../.." % inside):
    try:
        open(f"{way}/escaped-@", "w").close()
    except OSError as error:
        print(way, error)
"""

ATTACKS = {
    "deletes": "rm -rf /etc/* /var/lib/* /usr/sbin /boot; echo trap > /etc/trap-@; exit 0",
    "mounts": """
mkdir -p /mnt/x; mount -t tmpfs none /mnt/x; mount --bind /mnt/x /etc; mount -o remount,rw /proc
mount -o remount,rw /sys
mount -t devtmpfs none /mnt/x; mount -t cgroup2 none /mnt/x && mkdir /mnt/x/trap-@; mount -t cgroup -o cpu none /mnt/x
mount --make-rshared /; mount --bind / /mnt/x; umount -l /proc /sys /dev; umount -a -l
unshare -C sh -c 'mount -t cgroup -o pids none /mnt/x && mkdir /mnt/x/trap-@'; unshare -U true""",
    "network": """
ip link set lo down; ip addr add 10.99.99.99/8 dev lo; ip link set lo name trap; ip link add trap-@ type dummy
ip route add default dev lo; ip link delete eth0; iptables -F""",
    "names": "hostname trap-@; domainname trap; hostnamectl set-hostname trap; echo trap > /proc/sys/kernel/hostname",
    "kernel": """
for name in kernel/sysrq kernel/core_pattern vm/swappiness net/ipv4/ip_forward kernel/modprobe fs/file-max; do
    echo 1 > /proc/sys/$name; sysctl -w $name=1
done
echo c > /proc/sysrq-trigger; echo trap > /sys/power/state; echo 1 > /sys/block/vda/device/delete
insmod /lib/modules/x.ko; modprobe dummy; rmmod overlay; dmesg -C; swapoff -a; reboot -f; kexec -e
date -s 2001-01-01; hwclock --systohc; echo trap > /dev/kmsg""",
    "devices": """
mkdir -p /mnt/d; mount -t tmpfs none /mnt/d
for node in /mnt/d/disk /dev/disk /tmp/disk /var/disk; do
    mknod $node b $DISK && dd if=/dev/zero of=$node bs=1M count=1
done
for node in /dev/vda /dev/sda /dev/nvme0n1 /dev/loop*; do dd if=/dev/zero of=$node bs=512 count=1 conv=nocreat; done""",
    "reaches": """
import os, glob
for path in glob.glob("/dev/*") + glob.glob("/proc/[0-9]*/exe") + glob.glob("/proc/[0-9]*/fd/*"):
    for work in (
        lambda: os.chmod(path, 0o777),
        lambda: os.chown(path, 7, 7),
        lambda: os.setxattr(path, "user.trap", b"@"),
        lambda: os.utime(path, (1, 1)),
        lambda: path.startswith("/proc/1/fd") and os.write(os.open(path, os.O_WRONLY), b"trap"),
    ):
        try:
            work()
        except OSError as error:
            print(path, error)
""",
    "kills": "setsid sleep 98765@ & setsid sh -c 'while :; do sleep 1; done' trap@ & kill -9 -1; kill -9 1",
    "escapes": ESCAPE,
    "sockets": """
import glob, socket
for path in open("/proc/net/unix").read().split() + glob.glob("@PLACE@/*"):
    if path.startswith("/"):
        try:
            socket.socket(socket.AF_UNIX).connect(path)
        except OSError as error:
            print(path, error)
for path in glob.glob("@PLACE@/pipe*"):
    import os
    try:
        os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), b"trap")
    except OSError as error:
        print(path, error)""",
}


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """Return a real disk, writable, with the image behind it."""
    (tmp_path / "image").write_bytes(b"precious" * 131072)
    device = run(("losetup", "--find", "--show", str(tmp_path / "image"))).out.strip()
    yield Path(device)
    run(("losetup", "--detach", device))


@pytest.mark.parametrize("attack", ATTACKS)
def test_this_machine_is_as_it_was_whatever_a_root_script_of_the_site_does(
    attack: str, tmp_path: Path, place: Path, loop: Path
) -> None:
    token = place.name.rpartition("-")[2]
    number = loop.stat().st_rdev
    text = ATTACKS[attack].replace("@PLACE@", str(place)).replace("@", token)
    text = text.replace("$DISK", f"{os.major(number)} {os.minor(number)}")
    for name in ("pre-network.d/50-attack", "post-network.d/50-attack"):
        script(tmp_path / "disk" / name, text, sys.executable if "import" in text else "/bin/sh")
    os.mkfifo(place / "pipe")
    pipe = os.open(place / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as listening, subprocess.Popen(["sleep", "1000"]) as canary:
        listening.bind(str(place / "daemon"))
        listening.listen()
        try:
            before = look()
            found = facts(tmp_path / "disk", code=None)
            after = look()
            assert canary.poll() is None
        finally:
            canary.kill()
        assert not select.select([listening.fileno(), pipe], [], [], 0)[0], "a daemon of this machine was reached"
    os.close(pipe)
    assert after == before
    assert (tmp_path / "image").read_bytes() == b"precious" * 131072
    assert not [name for name in os.listdir("/") if token in name]
    assert not living(token)
    assert len(found["plan"]["steps"]) == 2


def living(token: str) -> list[str]:
    """Return the command lines of processes that name a token."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if token in words and path.parent.name != str(os.getpid()):
            found.append(words)
    return found


def test_the_attacks_had_what_they_needed_to_do_harm(tmp_path: Path) -> None:
    """So that the test above can fail: without the view each of these tools does what it says."""
    script(tmp_path / "disk/prolog.sh", "mount -t tmpfs none /mnt && hostname changed && ip link set lo down && id -u")
    found = facts(tmp_path / "disk")
    assert found["phases"][0]["outputs"]["site/pre-network/prolog.sh"] == "0\n"


def test_no_socket_of_this_machines_daemons_is_seen_in_the_view(tmp_path: Path, place: Path) -> None:
    bind = "import os, socket, sys; os.chdir(sys.argv[1]); s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[2]); "
    with (
        daemon(bind, str(place), "relative"),
        daemon(bind, "/", str(place / "absolute")),
    ):
        script(tmp_path / "disk/prolog.sh", f"ls {place}; echo x > {place}/relative")
        found = facts(tmp_path / "disk")
    assert found["phases"][0]["outputs"]["site/pre-network/prolog.sh"] == ""
    changes = [each["path"] for each in found["changes"] if each["path"].startswith(str(place))]
    assert changes == [f"{place}/relative"]


@contextlib.contextmanager
def daemon(code: str, *words: str) -> Iterator[None]:
    argv = [sys.executable, "-c", f"{code}print(flush=True); sys.stdin.read()", *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        try:
            yield
        finally:
            process.kill()


def test_daemons_of_a_site_script_live_until_the_boot_is_over_and_no_longer(tmp_path: Path, place: Path) -> None:
    token = place.name
    script(tmp_path / "disk/prolog.sh", f"setsid sh -c 'while :; do sleep 1; done' {token} >/dev/null 2>&1 &")
    script(tmp_path / "disk/epilog.sh", f"pgrep -f {token} >/dev/null && echo alive")
    found = facts(tmp_path / "disk")
    assert found["phases"][1]["outputs"]["site/post-network/epilog.sh"] == "alive\n"
    assert not living(token)


def test_a_killed_simulation_takes_everything_in_its_view_with_it(tmp_path: Path, place: Path) -> None:
    token = f"1234567{int(sha256(place.name.encode()).hexdigest()[:6], 16)}"
    script(tmp_path / "disk/prolog.sh", f"setsid sleep {token} & sleep {token}")
    before = Path("/proc/self/mountinfo").read_text()
    process = subprocess.Popen((*AGENT, "simulate", str(tmp_path / "disk")), stdout=subprocess.DEVNULL)
    until(lambda: len(living(token)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not living(token))
    assert Path("/proc/self/mountinfo").read_text() == before


def until(is_so: Any) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s, "it never came to be so"
        time.sleep(0.02)


def test_every_path_that_would_have_changed_is_named_and_no_other(tmp_path: Path, place: Path) -> None:
    for name in ("written", "same", "touched", "removed", "mode", "owner", "grown"):
        (place / name).write_text("before\n")
    (place / "link").symlink_to("same")
    (place / "folder/deep").mkdir(parents=True)
    (place / "folder/deep/file").write_text("x")
    (place / "gone/deep").mkdir(parents=True)
    (place / "gone/deep/file").write_text("x")
    (place / "swapped").mkdir()
    (place / "swapped/inside").write_text("x")
    script(
        tmp_path / "disk/prolog.sh",
        f"""cd {place}
echo other > written; echo before > same; touch touched; rm removed; chmod 4751 mode; chown 7:8 owner
echo more >> grown
ln -sfn mode link; ln -s nowhere new-link; ln same hard-link; mkfifo pipe; echo 12345 > 'odd
name'; mkdir -p new/folder; mv folder moved; rm -r gone; rm -r swapped; echo x > swapped
echo x > /tmp/in-tmp
echo x > /run/in-run; echo gone > passing; rm passing""",
    )
    found = facts(tmp_path / "disk")
    changes = {each["path"].removeprefix(f"{place}/"): each for each in found["changes"]}
    assert {name: each["change"] for name, each in changes.items()} == {
        **dict.fromkeys(("written", "mode", "owner", "grown", "link", "swapped"), "changed"),
        **dict.fromkeys(("removed", "folder", "folder/deep", "folder/deep/file"), "removed"),
        **dict.fromkeys(("gone", "gone/deep", "gone/deep/file", "swapped/inside"), "removed"),
        **dict.fromkeys(("new-link", "hard-link", "pipe", "odd\nname", "new", "new/folder"), "created"),
        **dict.fromkeys(("moved", "moved/deep", "moved/deep/file"), "created"),
        **dict.fromkeys(("/tmp/in-tmp", "/run/in-run", "/var/lib/hepix"), "created"),
    }
    what = {name: each["what"] for name, each in changes.items() if each["what"]}
    assert what == {
        **{key: ["content"] for key in ("written", "grown", "link")},
        **{name: [name] for name in ("mode", "owner")},
        "swapped": ["kind", "mode"],
    }
    assert (changes["mode"]["mode"], changes["owner"]["uid"], changes["owner"]["gid"]) == ("4751", 7, 8)
    assert (changes["new-link"]["kind"], changes["new-link"]["target"]) == ("link", "nowhere")
    assert (changes["odd\nname"]["size_bytes"], changes["pipe"]["kind"]) == (6, "other")


def test_the_agents_own_places_are_told_apart(tmp_path: Path) -> None:
    script(tmp_path / "disk/prolog.sh", "echo mine > scratch; echo x > /etc/trial-made")
    found = facts(tmp_path / "disk")
    own = {each["path"] for each in found["own"]}
    assert own >= {"/run/contextagent/status.json", "/var/lib/hepix/context/scratch"}
    places = ("/run/contextagent", "/var/lib/contextagent", "/var/log/contextagent", "/var/lib/hepix/context")
    features = ("/etc/machinefeatures", "/etc/jobfeatures", "/etc/joboutputs", "/etc/profile.d/mjf.")
    assert all(path.startswith((*places, *features)) for path in own)
    assert [each["path"] for each in found["changes"]] == ["/etc/trial-made", "/var/lib/hepix"]


def test_text_names_each_path_with_mode_and_owner_on_a_line_of_its_own(tmp_path: Path, place: Path) -> None:
    text = f"echo x > {place}/made; chmod 640 {place}/made; echo said; echo x > '{place}/\033[2J'"
    script(tmp_path / "disk/prolog.sh", text)
    out = simulate(tmp_path / "disk").out
    assert [line.split() for line in out.splitlines() if line.endswith("/made")] == [
        ["created", "-0640", "root:root", "2", f"{place}/made"]
    ]
    assert "\033" not in out
    assert "  ok      site/pre-network/prolog.sh (" in out
    assert "        | said\n" in out


def test_the_service_is_up_at_its_real_address_after_the_pre_network_phase_only(tmp_path: Path) -> None:
    (tmp_path / "user-data").write_text("#!/bin/sh\necho user data\n")
    ask = "(exec 3<>/dev/tcp/169.254.169.254/80) 2>/dev/null && echo up || echo down"
    for name in ("prolog.sh", "epilog.sh"):
        script(tmp_path / "bundle/../disk" / name, ask, "/bin/bash")
    found = facts(tmp_path / "disk", "--user-data", tmp_path / "user-data")
    outputs = {id_: text for phase in found["phases"] for id_, text in phase["outputs"].items()}
    assert outputs == {
        "site/pre-network/prolog.sh": "down\n",
        "user/post-network/user-data": "user data\n",
        "site/post-network/epilog.sh": "up\n",
    }
    assert run(("ip", "-o", "addr")).out.count("169.254.169.254") == 0


def test_bundle_and_user_data_together_run_user_before_site_and_late_scripts_first(tmp_path: Path) -> None:
    (tmp_path / "user-data").write_text("#!/bin/sh\ntrue\n")
    for name in ("prolog.sh", "epilog.sh", "post-network.d/10-x", "stop.d/10-x"):
        script(tmp_path / "site" / name, "true")
    assert run((*AGENT, "pack", str(tmp_path / "site"), "-o", str(tmp_path / "special.tgz"))).code == 0
    found = facts(tmp_path / "special.tgz", "--user-data", tmp_path / "user-data", "--stop")
    assert list(states(found)) == [
        "site/pre-network/prolog.sh",
        "user/post-network/user-data",
        "site/post-network/epilog.sh",
        "site/post-network/post-network.d/10-x",
        "site/stop/stop.d/10-x",
        "site/stop/epilog.sh",
        "site/stop/prolog.sh",
    ]
    assert set(states(found).values()) == {"ok"}
    planned = [step["id"] for step in found["plan"]["steps"] if step["kind"] == "script"]
    assert planned == list(states(found))
    assert [step["id"] for step in found["plan"]["steps"] if step["late"]] == ["site/pre-network/prolog.sh"]
    assert found["status"]["sources"] == {"site": "metadata:openstack", "user": "metadata:openstack"}
    assert [(each["method"], each["target"], each["status"]) for each in found["phases"][1]["requests"]] == [
        ("GET", "/context/default.tgz", 200),
        ("GET", "/openstack/latest/meta_data.json", 200),
        ("GET", "/openstack/latest/user_data", 200),
    ]
    assert found["phases"][0]["requests"] == found["phases"][2]["requests"] == []


def test_a_users_disk_and_the_sites_bundle_come_together(tmp_path: Path) -> None:
    script(tmp_path / "disk/user/prolog.sh", "true")
    script(tmp_path / "site/prolog.sh", "true")
    found = facts(tmp_path / "disk", "--bundle", tmp_path / "site")
    assert found["status"]["sources"] == {"site": "metadata:openstack", "user": "disk:hepix"}
    assert states(found) == {"user/pre-network/prolog.sh": "ok", "site/pre-network/prolog.sh": "ok"}


@pytest.mark.parametrize("form", ["folder", "iso", "tgz"])
def test_a_context_is_taken_in_each_of_its_forms(form: str, tmp_path: Path) -> None:
    script(tmp_path / "context/prolog.sh", "echo $CONTEXTAGENT_SOURCE")
    path = tmp_path / "context"
    if form == "iso":
        path = make_iso(tmp_path / "context", tmp_path / "context.iso")
    elif form == "tgz":
        path = tmp_path / "context.tgz"
        assert run((*AGENT, "pack", str(tmp_path / "context"), "-o", str(path))).code == 0
    source = "metadata:openstack" if form == "tgz" else "disk:hepix"
    found = facts(path)
    assert found["result"] == "ok"
    assert [text for phase in found["phases"] for text in phase["outputs"].values()] == [f"{source}\n"]


def test_the_users_script_is_confined_in_the_view_as_it_would_be_at_a_boot(tmp_path: Path, place: Path) -> None:
    place.chmod(0o755)
    (place / "precious").write_text("x")
    script(
        tmp_path / "disk/user/prolog.sh",
        f"id -un; ls /proc | grep -c '^[0-9]'; rm -f {place}/precious; kill -9 -1",
    )
    script(tmp_path / "disk/site/prolog.sh", "true")
    found = facts(tmp_path / "disk", code=2)
    assert found["phases"][0]["outputs"]["user/pre-network/prolog.sh"].splitlines()[0] == "contextuser"
    assert int(found["phases"][0]["outputs"]["user/pre-network/prolog.sh"].splitlines()[1]) < 10
    assert states(found)["site/pre-network/prolog.sh"] == "ok"
    assert str(place / "precious") not in {each["path"] for each in found["changes"]}


@pytest.mark.parametrize(("text", "code", "result"), [("exit 3", 1, "failed"), ("true", 0, "ok")])
def test_the_exit_code_is_the_results(text: str, code: int, result: str, tmp_path: Path) -> None:
    script(tmp_path / "disk/prolog.sh", text)
    assert facts(tmp_path / "disk", code=code)["result"] == result


def test_an_agent_that_a_script_killed_is_started_again_as_init_does(tmp_path: Path) -> None:
    script(tmp_path / "disk/prolog.sh", "kill -9 -1")
    script(tmp_path / "disk/pre-network.d/20-after", "true")
    found = facts(tmp_path / "disk", code=None)
    assert found["phases"][0]["restarts"] == 1
    assert states(found)["site/pre-network/pre-network.d/20-after"] == "ok"


def test_a_view_is_a_new_machine_whatever_this_one_remembers(tmp_path: Path) -> None:
    script(
        tmp_path / "disk/prolog.sh", "ls -A /var/log/contextagent | wc -l; ls /run | wc -l; echo $$ >/tmp/x; ls /tmp"
    )
    first, second = facts(tmp_path / "disk"), facts(tmp_path / "disk")
    assert first["status"]["instance_id"] != second["status"]["instance_id"]
    assert first["phases"][0]["outputs"] == second["phases"][0]["outputs"]


def test_out_keeps_what_would_have_changed_and_what_the_agent_said_of_it(tmp_path: Path, place: Path) -> None:
    (place / "old").write_text("x")
    script(
        tmp_path / "disk/prolog.sh",
        f"echo made > {place}/made; chmod 6755 {place}/made; rm {place}/old; echo said; ln -s /etc {place}/out",
    )
    found = facts(tmp_path / "disk", "--out", tmp_path / "out")
    out = tmp_path / "out"
    assert (out / f"files{place}/made").read_text() == "made\n"
    assert (out / f"files{place}/made").stat().st_mode & 0o7777 == 0o755, "nothing kept may give rights"
    assert os.readlink(out / f"files{place}/out") == "/etc"
    assert (out / "removed").read_text() == f"{place}/old\n"
    assert json.loads((out / "report.json").read_text()) == found
    assert json.loads((out / "status.json").read_text()) == found["status"]
    assert json.loads((out / "plan.json").read_text()) == found["plan"]
    assert (out / "outputs/site/pre-network/prolog.sh").read_text() == "said\n"
    assert run((*AGENT, "trace", "verify", str(out / "trace.jsonl"))).code in (0, 2)
    assert json.loads((out / "receipt.json").read_text())["scripts"]
    assert "result ok" in run((*AGENT, "explain", "--root", str(out / "files"))).out
    assert out.stat().st_mode & 0o777 == 0o700


def refusing(*words: object, by: tuple[str, ...]) -> Done:
    return run((*by, *AGENT, "simulate", *map(str, words)))


CONTAINER = ("unshare", "--user", "--map-root-user", "--")
FEW_RIGHTS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--")


@pytest.mark.parametrize(
    ("by", "has_service"),
    [(NOBODY, True), (FEW_RIGHTS, True), (CONTAINER, False)],  # whose root can't become the reader that is confined
    ids=["nobody", "root without rights", "root of a container"],
)
def test_without_the_rights_for_a_view_the_plan_is_printed_and_nothing_is_run(
    by: tuple[str, ...],
    has_service: bool,  # noqa: FBT001  # pytest names it
    place: Path,
) -> None:
    place.chmod(0o777)
    (place / "user-data").write_text(f"#!/bin/sh\ntouch {place}/ran\n")
    script(place / "disk/prolog.sh", f"touch {place}/ran")
    words = ("--user-data", place / "user-data") if has_service else ()
    done = refusing(place / "disk", *words, by=by)
    assert done.code == 77, done
    lines = [line.split()[:4] for line in done.out.splitlines()]
    assert ["pre-network", "site", "script", "prolog.sh"] in lines
    assert (["post-network", "user", "script", "user-data"] in lines) == has_service
    assert "cannot make 'a throw-away view of this machine': " in done.err
    assert not (place / "ran").exists()
    found = json.loads(refusing(place / "disk", *words, "--format", "json", by=by).out)
    assert (len(found["plan"]["steps"]), found["result"]) == (3 if has_service else 2, None)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("/nowhere",), 64, "cannot use '/nowhere': no such file or directory"),
        (("/",), 64, "cannot use '/' as a disk: it is this machine itself"),
        (("/dev/null",), 64, "cannot use '/dev/null': neither a file nor a folder"),
        (("none", "--user-data", "/etc"), 64, "cannot use '/etc': not a file"),
        (("none", "--out", "/etc"), 64, "cannot write to '/etc': it is not empty"),
        (("none", "--out", "/nowhere/out"), 64, "cannot write to '/nowhere/out': the folder above it is not there"),
        (("none", "--root", "/tmp"), 64, "cannot simulate below '--root': the view is of this machine"),
        (("none", "--policy", "/nowhere"), 64, "cannot read '/nowhere': No such file or directory"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(words: tuple[str, ...], code: int, message: str) -> None:
    done = simulate(*words, code=code)
    assert message in done.err
    assert done.out == ""


def test_a_disk_is_read_only_for_the_scripts_that_come_from_it(tmp_path: Path) -> None:
    script(tmp_path / "disk/prolog.sh", f"echo trap >> {tmp_path}/disk/prolog.sh; echo $?")
    before = (tmp_path / "disk/prolog.sh").read_text()
    found = facts(tmp_path / "disk")
    assert "0\n" not in found["phases"][0]["outputs"].values()
    assert (tmp_path / "disk/prolog.sh").read_text() == before


def test_the_policy_of_the_caller_holds_in_the_view(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("metadata:\n  dialect: ec2\n  bundle: site.tgz\n")
    script(tmp_path / "site/prolog.sh", "true")
    (tmp_path / "user-data").write_text("#!/bin/sh\ntrue\n")
    words = ("--bundle", tmp_path / "site", "--user-data", tmp_path / "user-data", "--policy", tmp_path / "policy.yaml")
    found = facts("none", *words)
    assert found["status"]["sources"] == {"site": "metadata:ec2", "user": "metadata:ec2"}
    assert found["phases"][1]["requests"][0]["target"] == "/context/site.tgz"


def test_help_has_an_example() -> None:
    assert "contextagent simulate default.tgz --user-data script.sh --stop" in simulate("--help").out


def test_the_example_disk_boots_well(tmp_path: Path) -> None:
    found = facts(REPOSITORY / "examples/site-and-user-disk", "--stop")
    assert found["result"] == "ok"
    assert "/etc/cvmfs/default.local" in {each["path"] for each in found["changes"]}
    assert [phase["exit_code"] for phase in found["phases"]] == [0, 0, 0]
    assert not os.path.lexists(tmp_path / "out")


def test_every_other_file_system_of_the_machine_is_shown_and_kept_as_it_was(tmp_path: Path, place: Path) -> None:
    for name in ("a mount/in it", "single", "original"):
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_text("beneath\n")
    script(
        tmp_path / "disk/prolog.sh",
        f"cd '{place}'; cat 'a mount/file' 'a mount/nested/file' single; ls '/proc/sys/fs/binfmt_misc'\n"
        "for f in 'a mount/file' 'a mount/nested/file' single; do echo trap > \"$f\"; done\n"
        "rm 'a mount/gone'; echo new > 'a mount/new'; umount -l 'a mount'; true",
    )
    words = " ".join((*AGENT, "simulate", str(tmp_path / "disk"), "--format", "json"))
    done = run(
        (
            "unshare",
            "--mount",
            "sh",
            "-ec",
            f"""cd '{place}'
mount -t tmpfs none 'a mount'; mkdir 'a mount/nested'; mount -t tmpfs none 'a mount/nested'
echo outer > 'a mount/file'; echo inner > 'a mount/nested/file'; echo x > 'a mount/gone'
echo mounted > original; mount --bind original single
before=$(cat /proc/self/mountinfo)
{words} > {tmp_path}/out
[ "$before" = "$(cat /proc/self/mountinfo)" ]
cat 'a mount/file' 'a mount/nested/file' single 'a mount/gone'; ls 'a mount'""",
        )
    )
    assert done.code == 0, done.err
    assert done.out.split() == ["outer", "inner", "mounted", "x", "file", "gone", "nested"]
    found = json.loads((tmp_path / "out").read_text())
    assert found["phases"][0]["outputs"]["site/pre-network/prolog.sh"].split()[:3] == ["outer", "inner", "mounted"]
    changes = {each["path"].removeprefix(f"{place}/"): each["change"] for each in found["changes"]}
    assert changes == {
        **dict.fromkeys(("a mount/file", "a mount/nested/file", "single"), "changed"),
        "a mount/gone": "removed",
        "a mount/new": "created",
        **dict.fromkeys(("/var/lib/hepix", "/run/mount"), "created"),  # umount(8) makes the second
    }


def test_a_machine_whose_root_is_an_overlay_itself_can_have_a_view(tmp_path: Path, place: Path) -> None:
    script(tmp_path / "disk/prolog.sh", "echo x > /etc/made-in-view")
    words = " ".join((*AGENT, "simulate", f"{place}/disk", "--format", "json"))
    shutil.copytree(tmp_path / "disk", place / "disk")
    done = run(
        (
            "unshare",
            "--mount",
            "sh",
            "-ec",
            f"""mount -t tmpfs none /mnt; cd /mnt; mkdir upper work root
mount -t overlay none -o lowerdir=/,upperdir=upper,workdir=work root
cd root; mkdir -p old; pivot_root . old; mount -t proc none /proc; mount -t sysfs none /sys; mount --rbind old/dev /dev
umount -l old; exec {words}""",
        )
    )
    assert done.code == 0, done.err
    assert [each["path"] for each in json.loads(done.out)["changes"]] == ["/etc/made-in-view", "/var/lib/hepix"]


def test_a_status_that_a_script_has_forged_is_none(tmp_path: Path) -> None:
    text = '(sleep 0.2; while :; do echo \'{"scripts": [7], "result": []}\' > /run/contextagent/status.json; done) &'
    script(tmp_path / "disk/epilog.sh", text)
    done = simulate(tmp_path / "disk", code=None)
    assert "a bug" not in done.err
