"""What is handed over arrives whole or is said to have not, whatever the other side or the folder's owner does."""

from __future__ import annotations

import os
import select
import socket
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.host import Host, confine
from contextagent.host.accounts import Account
from contextagent.host.leaving import Client, Means, Reply
from contextagent.host.outgoing import TOO_LONG, Body, Source
from contextagent.payloads.weburl import parse_web_url
from contextagent.policy.layer import Setting
from contextagent.policy.settings import Settings
from contextagent.runner import joboutputs
from contextagent.runner.joboutputs import Delivery, Outputs, Put
from contextagent.runner.journal import LOGS, receipt_path
from contextagent.runner.live import Live
from tests.certificates import Authority
from tests.puts import Puts
from tests.servers import CLOSE, HANG, RESET, Drip, Server, answer, head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contextagent.model import Problem

NOBODY = Account(name="nobody", uid=65534, gid=65534, home="/", shell="/bin/sh")
SHORT_S = 1.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts with another account's rights")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    tmp_path.chmod(0o755)
    return Host(str(tmp_path))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "good")


@pytest.fixture(autouse=True)
def no_proxy_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have proxies, a .netrc and a CA bundle that would all lead astray whoever listened to them."""
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/dev/null")


def put(host: Host, where: str | Outputs, body: bytes | str = b"300 no more work", **words: object) -> Problem | None:
    outputs = where if isinstance(where, Outputs) else Outputs(where=where)
    given: Any = {"total_s": 20.0, **words}
    return joboutputs.put(host, outputs, "shutdown_message", body, **given)


def cause(problem: Problem | None) -> str:
    assert problem
    assert problem.reason == "output-not-delivered"
    assert problem.message.endswith(", going on without it")
    return problem.message


def children() -> set[str]:
    listed = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, check=False, text=True)
    return set(listed.stdout.split())


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    def descriptors() -> set[str]:
        return {
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        }

    before = {each for each in descriptors() if each.startswith("pipe:")}
    yield
    assert {each for each in descriptors() if each.startswith("pipe:")} <= before


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_put_arrives_whole_and_once_by_an_address_and_by_a_name(host: Host, name: str) -> None:
    with Puts() as puts:
        assert put(host, puts.url(host=name)) is None
        (taken,) = puts.taken
    assert taken.path == "/joboutputs/shutdown_message"
    assert taken.body == b"300 no more work"
    assert taken.headers["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "proxy-authorization", "transfer-encoding", "expect"} & set(taken.headers)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(host: Host, status: int) -> None:
    with Puts(statuses={"/joboutputs/shutdown_message": [status]}) as puts:
        assert put(host, puts.url()) is None


@pytest.mark.parametrize(
    ("name", "status", "tries"),
    [
        *(("127.0.0.1", status, 2) for status in (429, 500, 503)),
        *(("127.0.0.1", status, 1) for status in (302, 307, 400, 403, 404)),
        *(("localhost", 503, 2), ("localhost", 302, 1), ("localhost", 403, 1)),
    ],
)
def test_what_may_pass_is_tried_once_more_and_the_rest_is_not(host: Host, name: str, status: int, tries: int) -> None:
    with Puts(statuses={"/joboutputs/shutdown_message": [status]}) as puts:
        said = cause(put(host, puts.url(host=name)))
        assert str(status) in said
        assert puts.asked == tries
        assert {each.path for each in puts.taken} == {"/joboutputs/shutdown_message"}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_second_try_counts(host: Host, name: str) -> None:
    with Puts(statuses={"/joboutputs/shutdown_message": [503, 201]}) as puts:
        assert put(host, puts.url(host=name)) is None
        assert [each.body for each in puts.taken] == [b"300 no more work"] * 2


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(
    "play",
    [
        [HANG],
        [Drip(head(201, "Content-Length: 0")[:-4] + b"X-a: b\r\n", pause_s=0.1, is_endless=True)],
        [Drip(b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.01, is_endless=True)],
    ],
    ids=["hang", "drip", "interim"],
)
def test_a_server_that_gives_no_answer_is_left_in_time(host: Host, play: list[object], name: str) -> None:
    with Server({"/x/shutdown_message": play}) as server:
        put_at = f"http://{name}:{server.port}/x"
        assert cause(put(host, put_at, total_s=SHORT_S))
        assert children() == set()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(
    "play",
    [
        [head(201, "Content-Length: 999999999"), Drip(b"x" * 4096, pause_s=0.001, is_endless=True)],
        [head(201, "Transfer-Encoding: chunked"), Drip(b"ffff\r\n", is_endless=True)],
        [answer(b"thank you", 201)],
        [head(201), CLOSE],
    ],
    ids=["huge", "chunks", "words", "no-length"],
)
def test_what_is_said_beside_a_2xx_does_not_matter(host: Host, play: list[object], name: str) -> None:
    with Server({"/x/shutdown_message": play}) as server:
        assert put(host, f"http://{name}:{server.port}/x") is None


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(
    "play", [[RESET], [CLOSE], [b"SSH-2.0-OpenSSH_9\r\n", CLOSE]], ids=["reset", "close", "no-http"]
)
def test_a_server_that_gives_no_http_is_said_to(host: Host, play: list[object], name: str) -> None:
    with Server({"/x/shutdown_message": play}) as server:
        assert cause(put(host, f"http://{name}:{server.port}/x", total_s=5))


def test_a_connection_that_broke_is_tried_once_more(host: Host) -> None:
    with Server({"/x/shutdown_message": [[RESET], [answer(b"", 201)]]}) as server:
        assert put(host, f"{server.url}/x") is None
        assert server.connections == 2


def test_a_port_that_nobody_listens_on_is_said(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert "no connection" in cause(put(host, f"http://127.0.0.1:{port}", total_s=SHORT_S))
    assert "connection refused" in cause(put(host, f"http://localhost:{port}", total_s=SHORT_S))
    assert "its name can't be resolved" in cause(put(host, "http://no.such.host.invalid/x", total_s=5))


@pytest.mark.parametrize("where", ["", "https://me:secret@127.0.0.1/x", "file:///etc"])
def test_a_place_that_is_none_is_said_without_a_password(host: Host, where: str) -> None:
    said = cause(put(host, where))
    assert said.startswith("cannot put 'shutdown_message': ")
    assert "secret" not in said


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\nb"])
def test_a_name_is_one_component(host: Host, name: str) -> None:
    delivery = joboutputs.start_put(host, Outputs(where="http://127.0.0.1:1"), name, b"")
    assert select.select([delivery.fd], [], [], 0)[0]
    assert cause(delivery.finish())


def test_over_tls_each_side_shows_its_certificate(host: Host, authority: Authority, tmp_path: Path) -> None:
    mine = authority.issue("worker1.site.example")
    proxy = tmp_path / "proxy.pem"
    proxy.write_text(mine.cert.read_text() + mine.key.read_text())
    proxy.chmod(0o600)
    hashed(authority, tmp_path / "ca")
    outputs = Outputs(where="", credential="/proxy.pem", ca_dirs=("/ca", "/none"))
    with Puts(certificate=authority.issue("localhost"), clients=authority) as puts:
        assert put(host, outputs.replace(where=puts.url(host="localhost"))) is None
        (taken,) = puts.taken
        assert taken.subject == "commonName=worker1.site.example"
        assert "no TLS can be agreed on" in cause(
            put(host, Outputs(where=puts.url(host="localhost"), ca_dirs=("/ca",)))
        )
        assert "its certificate is refused" in cause(put(host, Outputs(where=puts.url(host="localhost"))))
        assert "its certificate is refused" in cause(put(host, outputs.replace(where=puts.url())))
        assert len(puts.taken) == 1


def test_a_certificate_that_the_server_does_not_trust_is_no_success(
    host: Host, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger").issue("worker1.site.example")
    (tmp_path / "proxy.pem").write_text(stranger.cert.read_text() + stranger.key.read_text())
    hashed(authority, tmp_path / "ca")
    with Puts(certificate=authority.issue("localhost"), clients=authority) as puts:
        where = Outputs(where=puts.url(host="localhost"), credential="/proxy.pem", ca_dirs=("/ca",))
        assert cause(put(host, where, total_s=5))
        assert puts.taken == []


def test_a_server_that_never_ends_its_handshake_is_left_in_time(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"https://localhost:{silent.getsockname()[1]}/x"
        assert TOO_LONG in cause(put(host, where, total_s=SHORT_S))
        assert children() == set()


def test_a_folder_of_authorities_may_hold_what_is_none(host: Host, authority: Authority, tmp_path: Path) -> None:
    hashed(authority, tmp_path / "ca")
    (tmp_path / "ca" / "00000000.0").write_text("no certificate")
    (tmp_path / "ca" / "11111111.0").symlink_to("nowhere")
    (tmp_path / "ca" / "22222222.0").mkdir()
    (tmp_path / "ca" / "policy.info").write_text("none either")
    with Puts(certificate=authority.issue("localhost")) as puts:
        assert put(host, Outputs(where=puts.url(host="localhost"), ca_dirs=("/ca",))) is None


def hashed(authority: Authority, folder: Path) -> None:
    """Put an authority into a folder as grid sites have them, by its hash."""
    folder.mkdir()
    (folder / f"{authority.hash()}.0").write_bytes(authority.cert.read_bytes())


@pytest.mark.parametrize("kind", ["missing", "empty", "key-alone", "link", "fifo", "another-key"])
def test_a_certificate_that_cannot_be_used_is_named_and_nothing_is_sent(
    host: Host, authority: Authority, tmp_path: Path, kind: str
) -> None:
    proxy = tmp_path / "proxy.pem"
    mine, other = authority.issue("worker1.site.example"), authority.issue("worker2.site.example")
    match kind:
        case "empty":
            proxy.write_text("")
        case "key-alone":
            proxy.write_text(mine.key.read_text())
        case "link":
            proxy.symlink_to(mine.key)
        case "fifo":
            os.mkfifo(proxy)
        case "another-key":
            proxy.write_text(mine.cert.read_text() + other.key.read_text())
        case _:
            assert kind == "missing"
    with Puts(certificate=authority.issue("localhost")) as puts:
        said = cause(put(host, Outputs(where=puts.url(host="localhost"), credential="/proxy.pem")))
        assert "proxy.pem'" in said
        assert "KEY" not in said
        assert puts.asked == 0


@needs_root
def test_a_certificate_that_a_user_names_is_read_with_the_users_rights() -> None:
    # the real root: below another one there are no accounts
    outputs = Outputs(where="https://localhost:1/x", credential="/etc/shadow", account="nobody")
    assert "'/etc/shadow' can't be opened: Permission denied" in cause(put(Host(), outputs))
    outputs = outputs.replace(account="no-such-account")
    assert "there is no account 'no-such-account'" in cause(put(Host(), outputs))


def test_a_large_file_is_streamed(host: Host, tmp_path: Path) -> None:
    content = os.urandom(5 << 20)
    (tmp_path / "log").write_bytes(content)
    with Puts() as puts:
        for name in ("127.0.0.1", "localhost"):
            assert put(host, puts.url(host=name), "/log") is None
        assert [each.body for each in puts.taken] == [content] * 2


def test_of_a_file_that_grows_what_was_there_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)
    fd = os.open(path, os.O_RDONLY)
    body = Body(fd)
    path.write_bytes(b"y" * 200)
    assert b"".join(body.pieces()) == b"y" * 100
    path.write_bytes(b"z" * 50)
    with pytest.raises(OSError, match="shorter"):
        list(body.pieces())
    os.close(fd)


@needs_root
@pytest.mark.parametrize("kind", ["secret", "link", "fifo", "folder", "nothing"])
def test_a_file_that_the_pilot_may_not_read_is_not_read_for_it(host: Host, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    place = tmp_path / "log"
    match kind:
        case "secret":
            os.link(secret, place)
        case "link":
            place.symlink_to(secret)
        case "fifo":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case _:
            assert kind == "nothing"
    (tmp_path / "out").mkdir()
    with Puts() as puts:
        assert "log'" in cause(put(host, puts.url(), "/log", account=NOBODY))
        assert puts.asked == 0
    assert cause(put(host, "/out", "/log", account=NOBODY))
    assert os.listdir(tmp_path / "out") == []


def test_a_folder_gets_a_file_by_rename(host: Host, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".shutdown_message.contextagent-new").write_text("half of one, left by a killed agent")
    for body in (b"first", b"second, and longer"):
        assert put(host, "/out", body) is None
        assert (tmp_path / "out" / "shutdown_message").read_bytes() == body
    assert os.listdir(tmp_path / "out") == ["shutdown_message"]
    assert stat.S_IMODE((tmp_path / "out" / "shutdown_message").stat().st_mode) == 0o644


@needs_root
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "hard-link"])
def test_an_owner_who_plants_a_name_changes_nothing_elsewhere(host: Host, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("root's")
    victim.chmod(0o600)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("shutdown_message", ".shutdown_message.contextagent-new"):
        match kind:
            case "link":
                (out / name).symlink_to(victim)
            case "dangling":
                (out / name).symlink_to(tmp_path / "made")
            case "fifo":
                os.mkfifo(out / name)
            case _:
                os.link(victim, out / name)
    os.chown(out, NOBODY.uid, NOBODY.gid)
    assert put(host, "/out", b"300 x") is None
    assert victim.read_text() == "root's"
    assert not (tmp_path / "made").exists()
    found = (out / "shutdown_message").lstat()
    assert (out / "shutdown_message").read_bytes() == b"300 x"
    assert (stat.S_ISREG(found.st_mode), found.st_uid, found.st_gid) == (True, NOBODY.uid, NOBODY.gid)


@needs_root
@pytest.mark.parametrize("kind", ["folder", "immutable", "read-only", "link-for-the-folder", "file-for-the-folder"])
def test_an_owner_who_keeps_a_file_from_being_written_is_said_to(host: Host, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "link-for-the-folder":
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to("elsewhere")
    elif kind == "file-for-the-folder":
        out.write_text("")
    else:
        out.mkdir()
    if kind == "folder":
        (out / "shutdown_message").mkdir()
        (out / "shutdown_message" / "x").write_text("")
    if kind == "immutable":
        (out / "shutdown_message").write_text("")
        if subprocess.run(["chattr", "+i", out / "shutdown_message"], capture_output=True, check=False).returncode:
            pytest.skip("this file system knows no immutable files")
    if kind in ("folder", "immutable", "read-only"):
        os.chown(out, NOBODY.uid, NOBODY.gid)
        out.chmod(0o555 if kind == "read-only" else 0o755)
    try:
        assert cause(put(host, "/out", b"300 x")).startswith("cannot put '/out/shutdown_message': ")
    finally:
        subprocess.run(["chattr", "-f", "-i", out / "shutdown_message"], capture_output=True, check=False)
    assert not (tmp_path / "elsewhere" / "shutdown_message").exists()
    assert kind == "file-for-the-folder" or not (out / ".shutdown_message.contextagent-new").exists()


@needs_root
@pytest.mark.parametrize("body", [b"300 x", "/log"])
def test_root_writes_nothing_where_an_account_could_have_led_it(host: Host, tmp_path: Path, body: bytes | str) -> None:
    (tmp_path / "log").write_text("300 x")
    (tmp_path / "roots" / "log").mkdir(parents=True)
    home = tmp_path / "home"
    (home / "log").mkdir(parents=True)
    (home / "link").symlink_to(tmp_path / "roots")
    os.chown(home, NOBODY.uid, NOBODY.gid)
    before = len(os.listdir("/proc/self/fd"))
    why = f"the folder is root's, and '{home}' on its way is not root's alone to write"
    for folder in ("/home/link/log", "/home/link/log/", "/home/link/../roots/log"):
        assert cause(put(host, folder, body)) == f"cannot put '{folder}/shutdown_message': {why}, going on without it"
    assert os.listdir(tmp_path / "roots" / "log") == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert put(host, "/home/log", body) is None  # root's own in the account's: a link in its place is not followed
    os.chown(tmp_path / "roots" / "log", NOBODY.uid, NOBODY.gid)
    assert put(host, "/home/link/log", body) is None
    assert (tmp_path / "roots" / "log" / "shutdown_message").stat().st_uid == NOBODY.uid


@needs_root
def test_whoever_owns_the_root_of_a_trial_may_lead_it_where_they_like(host: Host, tmp_path: Path) -> None:
    (tmp_path / "etc" / "joboutputs").mkdir(parents=True)
    for owned in (tmp_path, tmp_path / "etc"):
        os.chown(owned, NOBODY.uid, NOBODY.gid)
    assert put(host, "/etc/joboutputs") is None


def test_a_delivery_does_not_block_whoever_sent_it(host: Host) -> None:
    with Server({"/x/heartbeat": [HANG]}) as server:
        delivery = joboutputs.start_put(host, Outputs(where=f"{server.url}/x"), "heartbeat", b"now")
        assert not select.select([delivery.fd], [], [], 0)[0]
        assert cause(delivery.finish()).endswith(f"{TOO_LONG}, going on without it")
        assert children() == set()


def test_the_kernel_ends_a_child_that_does_not_keep_its_time(host: Host) -> None:
    # a drip in the head of an answer holds `requests` for ever: its own time-out begins anew with every byte
    drip = Drip(b"HTTP/1.1 201 Created\r\n" + b"X-Header: y\r\n" * 50, pause_s=0.05, is_endless=True)
    with Server({"/x/heartbeat": [drip]}) as server:
        where = Outputs(where=f"http://localhost:{server.port}/x")
        delivery = joboutputs.start_put(host, where, "heartbeat", b"now", total_s=0.5)
        assert select.select([delivery.fd], [], [], 60)[0]
        assert cause(delivery.finish())


def test_a_delivery_that_is_given_up_leaves_no_child(host: Host) -> None:
    with Server({"/x/heartbeat": [HANG]}) as server:
        delivery = joboutputs.start_put(host, Outputs(where=f"{server.url}/x"), "heartbeat", b"now")
        delivery.close()
        delivery.close()
        assert children() == set()


def test_a_child_that_says_half_a_word_and_hangs_is_ended() -> None:
    def work(channel: confine.Channel) -> None:
        os.write(channel._write_fd, (20).to_bytes(8, "big") + b"half")
        time.sleep(60)

    delivery = Delivery(confine.start(work, timeout_s=60), "x")
    assert select.select([delivery.fd], [], [], 60)[0]
    assert "it took too long" in cause(delivery.finish())


def test_no_process_to_be_had_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    said = cause(put(host, "http://127.0.0.1:1/x", b""))
    assert said.endswith("Resource temporarily unavailable, going on without it")


def settings(**pilot: str) -> Settings:
    return spoken("image", pilot)


def spoken(voice: str, pilot: dict[str, str]) -> Settings:
    said = {f"pilot.{name.replace('__', '.')}": (Setting(value=value), voice) for name, value in pilot.items()}
    return Settings("standard", said)


def test_outputs_go_where_what_is_live_says() -> None:
    assert joboutputs.outputs_of(None, settings()) == Outputs(where="", ca_dirs=("/etc/grid-security/certificates",))
    live = Live(boot_id="b", outputs="https://site.example/x")
    assert joboutputs.outputs_of(live, settings(ca_dir="/ca")) == Outputs(
        where="https://site.example/x", ca_dirs=("/ca", "/etc/grid-security/certificates")
    )


@pytest.mark.parametrize(("kind", "is_shown"), [("proxy", True), ("x509", True), ("token", False), ("other", False)])
def test_the_pilots_credential_is_shown_where_it_is_a_certificate(kind: str, is_shown: bool) -> None:  # noqa: FBT001  # a column
    found = joboutputs.outputs_of(None, settings(credential__path="/root/proxy", credential__kind=kind))
    assert found.credential == ("/root/proxy" if is_shown else "")
    assert joboutputs.outputs_of(None, settings(credential__path="/root/proxy")).credential == "/root/proxy"


def test_a_credential_that_a_user_names_is_the_users_to_read() -> None:
    pilot = {"credential__path": "/root/proxy"}
    assert joboutputs.outputs_of(None, spoken("user", pilot)).account == "contextuser"
    assert joboutputs.outputs_of(None, spoken("site", pilot)).account == ""


def test_a_receipt_is_delivered_where_there_is_one(host: Host, tmp_path: Path) -> None:
    boot = tmp_path / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("00000000-0000-4000-8000-000000000001\n")
    (tmp_path / "out").mkdir()
    outputs = Outputs(where="/out")
    assert joboutputs.receipt(host) is None
    assert joboutputs.put_receipt(host, outputs) is None
    assert joboutputs.start_receipt(host, outputs) is None
    assert os.listdir(tmp_path / "out") == []
    host.files.make_folder(LOGS)
    host.files.write(receipt_path(host.boot_id()), b'{"boot": 1}\n')
    assert joboutputs.put_receipt(host, outputs) is None
    found = tmp_path / "out" / "receipt.json"
    assert found.read_bytes() == b'{"boot": 1}\n'
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    found.unlink()
    delivery = joboutputs.start_receipt(host, outputs)
    assert delivery
    assert select.select([delivery.fd], [], [], 60)[0]
    assert delivery.finish() is None
    assert found.exists()


class TestPut:
    """The child's own part, in this process."""

    @staticmethod
    def made(puts: Puts, body: bytes = b"x", source: Source | None = None, path: str = "/joboutputs") -> str:
        url = parse_web_url(puts.url(path))
        client = Client(Means())
        said = Put(url, "n", body, source, total_s=5, headers=(("X-Secret", "s"),)).made(client).decode()
        client.close()
        return said

    def test_headers_and_body_go_out(self) -> None:
        with Puts() as puts:
            assert not self.made(puts)
            assert puts.taken[0].headers["x-secret"] == "s"
            assert puts.taken[0].headers["content-length"] == "1"

    @pytest.mark.parametrize(
        ("statuses", "said", "asked"),
        [
            ([201], "", 1),
            ([503, 201], "", 2),
            ([503], "its status is 503", 2),
            ([429], "its status is 429", 2),
            ([403], "its status is 403", 1),
            ([307], "it sends us elsewhere, with status 307", 1),
        ],
    )
    def test_an_answer_is_judged_by_its_status(self, statuses: list[int], said: str, asked: int) -> None:
        with Puts(statuses={"/joboutputs/n": statuses}) as puts:
            assert self.made(puts) == said
            assert puts.asked == asked

    def test_a_file_is_sent_from_its_descriptor(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"x")
        source = Source(str(path), None)
        source.open()

        with Puts() as puts:
            assert not self.made(puts, source=source)
            assert puts.taken[0].body == b"x"
        source.close()

    def test_a_file_that_becomes_shorter_is_sent_anew_as_it_is_then(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"x" * 1000)
        source = Source(str(path), None)
        source.open()

        class Cutting(Client):
            def ask(self, *words: Any, body: Body | None = None, **more: Any) -> Reply:
                path.write_bytes(b"short")  # between the look at its size and the reading
                return super().ask(*words, body=body, **more)

        with Puts() as puts:
            client = Cutting(Means())
            made = Put(parse_web_url(puts.url()), "n", b"", source, total_s=5).made(client)
            client.close()
            assert made == b""
            assert [each.body for each in puts.taken] == [b"short"]
        source.close()

    def test_an_answer_that_does_not_come_is_waited_for_twice(self) -> None:
        with Server({"/x/n": [[RESET], [RESET]]}) as server:
            made = Put(parse_web_url(f"{server.url}/x"), "n", b"", total_s=5).made(Client(Means()))
            assert made
            assert server.connections == 2
