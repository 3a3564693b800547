"""`contextagent serve` as its clients see it: what a folder is served as, for whom, and what can't be had from it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from hashlib import sha512
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import AGENT, REPOSITORY, run
from tests.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLE = REPOSITORY / "examples/site-and-user-disk"
SCRIPT = "#!/bin/sh\necho hello\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJLv7wEM0P8gyGZCkFB1Xm5YQmV2j2iE0o9Jx7r7A1aB somebody"
META = f"instance-id: i-07\nlocal-hostname: worker\npublic-keys:\n  - {KEY}\n"
USER_DATA_PATHS = ("/latest/user-data", "/2009-04-04/user-data", "/openstack/latest/user_data")


def put(folder: Path, path: str, text: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with a site's script, user data and meta data."""
    put(tmp_path / "d", "site/prolog.sh", SCRIPT)
    put(tmp_path / "d", "user-data", "#!/bin/sh\necho user\n")
    put(tmp_path / "d", "meta-data", META)
    return tmp_path / "d"


@pytest.fixture
def serving(site: Path) -> Iterator[Serving]:
    with Serving(site) as started:
        yield started


def ask_from(serving: Serving, address: str, path: str) -> bytes:
    """Return the body that a client of this address is answered."""
    with socket.create_connection((serving.host, serving.port), source_address=(address, 0)) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return client.makefile("rb").read().partition(b"\r\n\r\n")[2]


def contents(tgz: bytes, folder: Path) -> dict[str, bytes]:
    """Return what GNU tar finds in a bundle."""
    folder.mkdir()
    subprocess.run(["tar", "-xz", "-C", folder], input=tgz, check=True)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_line_on_stdout_says_where_it_listens(site: Path) -> None:
    with Serving(site, "--dialect", "ec2") as serving:
        assert serving.line == f"serving {site} at http://127.0.0.1:{serving.port} (dialect ec2)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_also_while_clients_are_connected(site: Path, number: int) -> None:
    with Serving(site, "--fault", "hang:/context/*") as serving:
        idle = socket.create_connection((serving.host, serving.port))
        hung = socket.create_connection((serving.host, serving.port))
        hung.sendall(b"GET /context/default.tgz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert serving.ask("/latest/user-data").status == 200
        assert serving.stop(number) == 0
        for client in (idle, hung):
            client.close()


def test_an_answer_under_way_is_sent_to_its_end_before_the_service_ends(site: Path) -> None:
    (site / "large.tgz").write_bytes(bytes(32 << 20))
    with Serving(site) as serving, socket.create_connection((serving.host, serving.port)) as client:
        client.sendall(b"GET /context/large.tgz HTTP/1.0\r\n\r\n")
        stream = client.makefile("rb")
        stream.readline()
        os.kill(serving.pid, signal.SIGTERM)
        assert len(stream.read().partition(b"\r\n\r\n")[2]) == 32 << 20
        assert serving.stop() == 0


def test_the_bundle_is_the_one_that_pack_makes_of_the_site_folder(site: Path, tmp_path: Path) -> None:
    assert run((*AGENT, "pack", str(site / "site"), "-o", str(tmp_path / "packed.tgz"))).code == 0
    with Serving(site) as serving:
        answer = serving.ask("/context/default.tgz")
    assert answer.body == (tmp_path / "packed.tgz").read_bytes()
    assert answer.headers["content-type"] == "application/gzip"


def test_a_context_disks_folder_is_served_with_the_users_part_as_user_data(tmp_path: Path) -> None:
    with Serving(EXAMPLE) as serving:
        site = serving.ask("/context/default.tgz").body
        user = [serving.ask(path).body for path in USER_DATA_PATHS]
    for owner, tgz in (("site", site), ("user", user[0])):
        there = EXAMPLE / owner
        found = {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}
        assert contents(tgz, tmp_path / owner) == found
    assert len(set(user)) == 1


def test_of_a_flat_folder_only_native_names_are_in_the_bundle(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    native = {"prolog.sh": SCRIPT, "post-network.d/10-x": SCRIPT, "context.sh": "A=1\n", "site.yaml": "{}\n"}
    for path, text in {**native, "user-data": "secret", "notes": "secret", "vms/10.0.0.1/user-data": "secret"}.items():
        put(flat, path, text)
    with Serving(flat) as serving:
        assert contents(serving.ask("/context/default.tgz").body, tmp_path / "out") == {
            path: text.encode() for path, text in native.items()
        }


def test_a_changed_file_is_served_changed(site: Path, serving: Serving, tmp_path: Path) -> None:
    before = serving.ask("/context/default.tgz").body
    assert serving.text("/latest/user-data") == "#!/bin/sh\necho user\n"
    put(site, "user-data", "#!/bin/sh\necho other\n")
    put(site, "meta-data", "instance-id: i-08\n")
    put(site, "site/epilog.sh", SCRIPT)
    assert serving.text("/latest/user-data") == "#!/bin/sh\necho other\n"
    assert serving.text("/latest/meta-data/instance-id") == "i-08"
    after = serving.ask("/context/default.tgz").body
    assert set(contents(before, tmp_path / "1")) == {"prolog.sh"}
    assert set(contents(after, tmp_path / "2")) == {"prolog.sh", "epilog.sh"}
    shutil.rmtree(site / "site")
    assert serving.ask("/context/default.tgz").status == 404


def test_a_site_folder_that_can_not_be_packed_any_more_costs_no_client_the_bundle(site: Path) -> None:
    with Serving(site) as serving:
        before = serving.ask("/context/default.tgz").body
        (site / "site/leaves").symlink_to("/etc")
        assert serving.ask("/context/default.tgz").body == before
        (line,) = [line for line in serving.log() if "as it was before" in line]
    assert "cannot take the link 'leaves': '/etc' is outside the folder; serving the bundle as it was before" in line


def test_meta_data_that_is_broken_while_it_is_served_is_an_error_and_says_where(site: Path) -> None:
    with Serving(site) as serving:
        put(site, "meta-data", "instance-id: [\n")
        assert serving.ask("/openstack/latest/meta_data.json").status == 500
        assert serving.ask("/latest/user-data").status == 200
        assert any(f"{site}/meta-data:2: " in line for line in serving.log())


def test_a_file_at_a_urls_own_path_goes_before_what_would_be_made(site: Path) -> None:
    put(site, "openstack/latest/meta_data.json", '{"uuid": "own"}')
    put(site, "latest/meta-data/instance-id", "own")
    put(site, "latest/meta-data/extra", "more")
    put(site, "context/default.tgz", "not really one")
    put(site, "machinefeatures/hs06", "10")
    with Serving(site) as serving:
        assert serving.text("/openstack/latest/meta_data.json") == '{"uuid": "own"}'
        assert serving.text("/latest/meta-data/instance-id") == "own"
        assert "extra" in serving.text("/latest/meta-data/").splitlines()
        assert serving.text("/context/default.tgz") == "not really one"
        assert serving.text("/machinefeatures/hs06") == "10"


def test_a_named_bundle_and_its_signature_are_served(site: Path) -> None:
    for name in ("batch.tgz", "batch.tgz.json", "batch.tgz.json.p7s"):
        put(site, name, name)
    with Serving(site) as serving:
        for name in ("batch.tgz", "batch.tgz.json", "batch.tgz.json.p7s"):
            assert serving.text(f"/context/{name}") == name
        assert serving.ask("/context/other.tgz").status == 404


def test_each_client_has_what_is_its_own_before_what_is_everybodys(site: Path) -> None:
    put(site, "vms/127.0.0.2/user-data", "second's own")
    put(site, "vms/127.0.0.2/meta-data", "hostname: second\n")
    put(site, "vms/127.0.0.3/user-data", "")
    put(site, "vms/127.0.0.3/site/only", "here")

    with Serving(site) as serving:
        assert ask_from(serving, "127.0.0.1", "/latest/user-data") == b"#!/bin/sh\necho user\n"
        assert ask_from(serving, "127.0.0.2", "/latest/user-data") == b"second's own"
        assert ask_from(serving, "127.0.0.3", "/latest/user-data") == b""
        bundles = [ask_from(serving, f"127.0.0.{last}", "/context/default.tgz") for last in (1, 3)]
        assert bundles[0] == bundles[1] != b""
        meta = json.loads(ask_from(serving, "127.0.0.2", "/openstack/latest/meta_data.json"))
        assert (meta["hostname"], list(meta["public_keys"].values())) == ("second", [KEY])
        assert serving.ask("/vms/127.0.0.2/user-data").status == 404


def test_without_meta_data_each_client_has_an_id_that_stays(tmp_path: Path) -> None:
    put(tmp_path, "user-data", SCRIPT)
    ids = []
    for _ in range(2):
        with Serving(tmp_path) as serving:
            answers = [ask_from(serving, f"127.0.0.{last}", "/openstack/latest/meta_data.json") for last in (1, 2)]
            ids += [json.loads(answer)["uuid"] for answer in answers]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


# Trees.


def test_all_trees_say_the_same_of_one_machine(serving: Serving) -> None:
    nova: dict[str, Any] = json.loads(serving.text("/openstack/latest/meta_data.json"))
    vac: dict[str, Any] = json.loads(serving.text("/openstack/latest/meta-data.json"))
    assert nova == vac
    assert nova["hostname"] == serving.text("/latest/meta-data/local-hostname") == "worker"
    assert serving.text("/latest/meta-data/instance-id") == "i-07"
    assert list(nova["public_keys"].values()) == [serving.text("/latest/meta-data/public-keys/0/openssh-key")] == [KEY]


def test_a_client_that_crawls_ec2s_tree_finds_a_value_at_the_end_of_each_path(serving: Serving) -> None:
    values = {}
    waiting = ["/latest/meta-data/"]
    while waiting:
        path = waiting.pop()
        for name in serving.text(path).splitlines():
            if path.endswith("public-keys/"):
                waiting.append(f"{path}{name.partition('=')[0]}/")
            elif name.endswith("/"):
                waiting.append(path + name)
            else:
                values[path.removeprefix("/latest/meta-data/") + name] = serving.text(path + name)
    assert values["public-keys/0/openssh-key"] == KEY
    assert values["placement/availability-zone"] == "nova"
    assert values["local-ipv4"] == "127.0.0.1"


def test_every_version_in_an_index_is_there(serving: Serving) -> None:
    for version in serving.text("/").splitlines():
        assert serving.text(f"/{version}/").split() == ["meta-data/", "user-data"]
        assert serving.text(f"/{version}/meta-data/instance-id") == "i-07"
    for version in serving.text("/openstack/").splitlines():
        for name in serving.text(f"/openstack/{version}/").splitlines():
            assert serving.ask(f"/openstack/{version}/{name}").status == 200


@pytest.mark.parametrize(
    ("dialect", "there", "not_there"),
    [
        (
            "vac",
            ("/openstack/latest/meta-data.json", "/openstack/latest/user-data"),
            (
                "/",
                "/latest/",
                "/openstack/",
                "/openstack/latest/",
                "/openstack/latest/meta_data.json",
                USER_DATA_PATHS[0],
            ),
        ),
        (
            "openstack",
            ("/openstack", "/openstack/latest/meta_data.json", "/openstack/2012-08-10/user_data"),
            ("/", "/latest/user-data", "/openstack/latest/meta-data.json", "/openstack/latest/network_data.json"),
        ),
        (
            "ec2",
            ("/", "/latest/meta-data/instance-id", "/1.0/user-data"),
            ("/openstack/latest/meta_data.json", "/openstack/", "/latest/meta-data/nothing"),
        ),
        ("nimbus", ("/latest/meta-data/instance-id", "/latest/user-data"), ("/", "/openstack/")),
        (
            "cloudstack",
            ("/latest/instance-id", "/latest/meta-data/instance-id", "/latest/meta-data", "/latest/user-data"),
            ("/openstack/", "/latest/meta-data/public-keys/0/openssh-key"),
        ),
    ],
)
def test_a_dialect_shows_its_own_tree_and_the_bundle_and_no_other(
    site: Path, dialect: str, there: tuple[str, ...], not_there: tuple[str, ...]
) -> None:
    put(site, "latest/extra", "of EC2's tree, and so no other's")
    with Serving(site, "--dialect", dialect) as serving:
        assert {path: serving.ask(path).status for path in (*there, "/context/default.tgz")} == dict.fromkeys(
            (*there, "/context/default.tgz"), 200
        )
        assert {path: serving.ask(path).status for path in not_there} == dict.fromkeys(not_there, 404)
        assert (serving.ask("/latest/extra").status == 200) == (dialect in ("ec2", "nimbus", "cloudstack"))


def test_a_folder_that_is_vacs_tree_is_no_other_clouds(tmp_path: Path) -> None:
    put(tmp_path, "openstack/latest/user-data", SCRIPT)
    with Serving(tmp_path) as serving:
        assert serving.text("/openstack/latest/user-data") == SCRIPT
        assert "uuid" in json.loads(serving.text("/openstack/latest/meta-data.json"))
        assert serving.ask("/openstack/latest/meta_data.json").status == 404


def test_of_a_folder_that_is_a_tree_itself_no_other_tree_is_made(tmp_path: Path) -> None:
    put(tmp_path, "latest/user-data", SCRIPT)
    put(tmp_path, "latest/meta-data/instance-id", "i-1")
    with Serving(tmp_path) as serving:
        assert serving.ask("/openstack/latest/meta_data.json").status == 404
        assert serving.text("/latest/user-data") == SCRIPT


# IMDSv2.

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


def token(serving: Serving, ttl: str = "60") -> str:
    answer = serving.ask("/latest/api/token", "PUT", {TTL: ttl})
    assert (answer.status, answer.headers[TTL.lower()]) == (200, ttl)
    return answer.body.decode()


def test_with_v2_no_path_of_ec2s_tree_is_answered_without_a_good_token(site: Path) -> None:
    paths = ("/", "/latest/", "/latest/user-data", "/latest/meta-data/instance-id", "/1.0/meta-data/")
    with Serving(site, "--imds", "v2") as serving:
        good = token(serving)
        for path in paths:
            assert serving.ask(path).status == 401
            assert serving.ask(path, headers={TOKEN: good[:-1] + ("0" if good[-1] != "0" else "1")}).status == 401
            assert serving.ask(path, headers={TOKEN: good}).status == 200
        for path in ("/context/default.tgz", "/openstack/latest/meta_data.json"):
            assert serving.ask(path).status == 200


@pytest.mark.parametrize("forged", ["", "x", "99999999999999.", "9" * 5000 + ".x", "1.x", "1.\xe9", "\xe9"])
def test_a_token_that_nobody_gave_is_refused_also_where_none_is_needed(serving: Serving, forged: str) -> None:
    assert serving.ask("/latest/user-data", headers={TOKEN: forged}).status == (401 if forged else 200)


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "1.5", "9" * 5000])
def test_a_token_is_given_for_a_second_to_six_hours(serving: Serving, ttl: str) -> None:
    assert serving.ask("/latest/api/token", "PUT", {TTL: ttl} if ttl else {}).status == 400


def test_a_token_is_good_for_the_client_that_got_it_alone(site: Path) -> None:
    with Serving(site, "--imds", "v2") as serving:
        good = token(serving)
        with socket.create_connection((serving.host, serving.port), source_address=("127.0.0.9", 0)) as client:
            client.sendall(f"GET /latest/user-data HTTP/1.0\r\n{TOKEN}: {good}\r\n\r\n".encode())
            assert client.makefile("rb").readline().startswith(b"HTTP/1.1 401 ")


def test_v1_alone_gives_no_token(site: Path) -> None:
    with Serving(site, "--imds", "v1") as serving:
        assert serving.ask("/latest/api/token", "PUT", {TTL: "60"}).status == 405
        assert serving.ask("/latest/user-data", headers={TOKEN: "any"}).status == 200


# What can't be had.


@pytest.mark.parametrize(
    "target",
    [
        "/../secret", "/context/../../secret", "/%2e%2e/secret", "/context/..%2f..%2fsecret", "/latest/%00",
        "/context/%c0%ae%c0%ae/secret", "/./latest/user-data", "*", "secret", "/%", "/%zz", "/a%0ab",
    ],
)  # fmt: skip
def test_a_target_that_is_no_plain_path_is_refused(site: Path, serving: Serving, target: str) -> None:
    put(site.parent, "secret", "secret")
    with socket.create_connection((serving.host, serving.port)) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer


def test_nothing_outside_the_folder_is_reached_by_a_link_and_what_is_inside_is(site: Path) -> None:
    put(site.parent, "secret", "secret")
    put(site, "context/real.tgz", "real")
    (site / "context/out.tgz").symlink_to("../../secret")
    (site / "context/absolute.tgz").symlink_to(site.parent / "secret")
    (site / "up").symlink_to("..")
    (site / "loop").symlink_to("loop")
    (site / "latest").mkdir()
    (site / "latest/meta-data").symlink_to("../..")
    (site / "context/in.tgz").symlink_to("real.tgz")
    with Serving(site) as serving:
        for path in ("/context/out.tgz", "/context/absolute.tgz", "/up/secret", "/loop", "/up"):
            assert serving.ask(path).status == 404
        assert serving.text("/context/in.tgz") == "real"
        assert "secret" not in serving.text("/latest/meta-data/")


def test_no_folder_is_listed_no_hidden_file_and_no_fifo_is_served(site: Path) -> None:
    put(site, "context/.hidden", "hidden")
    put(site, ".git/config", "hidden")
    subprocess.run(["mkfifo", site / "context/pipe.tgz"], check=True)
    with Serving(site) as serving:
        for path in (
            "/context",
            "/context/",
            "/context/.hidden",
            "/.git/config",
            "/context/pipe.tgz",
            "/site/prolog.sh",
        ):
            assert serving.ask(path).status == 404


# HTTP.


def test_one_connection_serves_many_requests_and_a_head_says_what_a_get_would(serving: Serving) -> None:
    with socket.create_connection((serving.host, serving.port)) as client:
        stream = client.makefile("rb")
        for method, body in ((b"HEAD", b""), (b"GET", b"#!/bin/sh\necho user\n"), (b"GET", b"#!/bin/sh\necho user\n")):
            client.sendall(method + b" /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n")
            head = b"".join(iter(stream.readline, b"\r\n"))
            assert b"Content-Length: 20\r\n" in head
            assert b"Connection: keep-alive" in head
            assert stream.read(len(body)) == body


def test_requests_sent_at_once_are_answered_in_order(serving: Serving) -> None:
    with socket.create_connection((serving.host, serving.port)) as client:
        paths = (b"/latest/meta-data/instance-id", b"/nothing", b"/latest/meta-data/hostname")
        requests = [b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" for path in paths]
        client.sendall(b"\r\n".join(requests) + b"Connection: close\r\n\r\n")
        found = client.makefile("rb").read()
    assert [found.find(word) for word in (b"i-07", b"404 not found", b"worker")] == sorted(
        found.find(word) for word in (b"i-07", b"404 not found", b"worker")
    )
    assert found.endswith(b"worker")


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/user-data", "HTTP://x:80/latest/user-data?a=/../b"])
def test_a_target_in_absolute_form_and_a_query_are_understood(serving: Serving, target: str) -> None:
    with socket.create_connection((serving.host, serving.port)) as client:
        client.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        assert client.makefile("rb").read().endswith(b"echo user\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100000, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    ],
)
def test_what_is_no_request_is_answered_by_its_status_and_harms_nobody(
    serving: Serving, data: bytes, status: int
) -> None:
    with socket.create_connection((serving.host, serving.port)) as client:
        client.sendall(data)
        assert client.makefile("rb").readline().split()[1] == str(status).encode()
    assert serving.ask("/latest/user-data").status == 200


def test_a_body_is_passed_over_and_the_next_request_is_read_behind_it(serving: Serving) -> None:
    with socket.create_connection((serving.host, serving.port)) as client:
        client.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /")
        client.sendall(b"GET /latest/meta-data/instance-id HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"\r\n\r\ni-07")


def test_curl_gets_a_large_bundle_whole_while_another_client_reads_nothing(site: Path, tmp_path: Path) -> None:
    large = bytes(range(256)) * (40 << 12)
    (site / "large.tgz").write_bytes(large)
    with Serving(site) as serving:
        stuck = socket.create_connection((serving.host, serving.port))
        stuck.sendall(b"GET /context/large.tgz HTTP/1.1\r\nHost: x\r\n\r\n")
        got = run(("curl", "-sS", "-o", str(tmp_path / "got"), f"{serving.url}/context/large.tgz"))
        stuck.close()
    assert (got.code, got.err) == (0, "")
    assert sha512((tmp_path / "got").read_bytes()).digest() == sha512(large).digest()


def test_two_hundred_clients_at_once_are_all_answered(site: Path) -> None:
    with Serving(site) as serving:
        expected = {path: serving.ask(path).body for path in ("/context/default.tgz", *USER_DATA_PATHS)}
        start = threading.Barrier(200)
        wrong: list[object] = []

        def ask() -> None:
            start.wait()
            try:
                wrong.extend(path for path, body in expected.items() if serving.ask(path).body != body)
            except OSError as error:
                wrong.append(error)

        clients = [threading.Thread(target=ask) for _ in range(200)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert not wrong
        assert len(serving.log()) == 201 * len(expected)


def test_more_idle_connections_than_it_holds_keep_nobody_out(site: Path) -> None:
    limited = ("prlimit", "--nofile=256:256")
    with Serving(site, prefix=limited) as serving:
        idle = [socket.create_connection((serving.host, serving.port)) for _ in range(300)]
        assert serving.ask("/latest/user-data").status == 200
        for client in idle:
            client.close()


def test_a_log_that_nobody_reads_holds_up_no_client(site: Path) -> None:
    words = (*AGENT, "serve", str(site), "--bind", "127.0.0.1:0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        port = int(process.stdout.readline().partition(b"127.0.0.1:")[2].split()[0])
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as client:
                line = b"GET /nothing HTTP/1.1\r\nHost: x\r\nUser-Agent: " + b"a" * 200 + b"\r\n\r\n"
                client.sendall(line * 100 + b"GET / HTTP/1.0\r\n\r\n")
                assert client.makefile("rb").read().endswith(b"latest")
        process.terminate()
        assert process.wait(60) == 0


def test_a_line_of_the_log_says_who_asked_for_what_and_can_not_be_forged(site: Path) -> None:
    with Serving(site, "--fault", "503:/latest/user-data") as serving:
        for data in (
            b"GET /a\x1b[2J HTTP/1.0",
            b"GET /a HTTP/1.0\r\nUser-Agent: caf\xe9\x9b2J 200 0",
            b"GET /a\nb HTTP/1.0",
        ):
            with socket.create_connection((serving.host, serving.port)) as client:
                client.sendall(data + b"\r\n\r\n")
                client.makefile("rb").read()
        serving.ask("/latest/user-data")
        lines = [line.split(" ", 1)[1] for line in serving.log()]
    assert lines == [
        "127.0.0.1 - - 400 36 - [a control character in the head]",
        r"127.0.0.1 GET /a 404 14 caf\xe9\x9b2J 200 0",
        "127.0.0.1 - - 400 36 - [a control character in the head]",
        "127.0.0.1 GET /latest/user-data 503 24 - [fault 503]",
    ]


def test_quiet_logs_no_request(site: Path) -> None:
    with Serving(site, "--quiet") as serving:
        serving.ask("/latest/user-data")
        assert serving.log() == []


def test_it_listens_on_ipv6(site: Path) -> None:
    with Serving(site, bind="[::1]:0") as serving:
        assert serving.line.startswith(f"serving {site} at http://[::1]:{serving.port} ")
        assert serving.text("/latest/meta-data/instance-id") == "i-07"


# Misuse.


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nowhere",), 64, "cannot serve 'nowhere': no such folder"),
        (("/etc/passwd",), 64, "cannot serve '/etc/passwd': not a folder"),
        (("{d}", "--fault", "teapot"), 64, "cannot serve 'teapot': no such fault"),
        (("{d}", "--fault", "hang:"), 64, "cannot serve 'hang:': the fault's path is empty"),
        (("{d}", "--fault", "hang@0"), 64, "cannot serve 'hang@0': a fault that comes 0 times is none"),
        (("{d}", "--bind", "localhost"), 64, "cannot serve 'localhost': no address of this kind"),
        (("{d}", "--bind", "127.0.0.1:x"), 64, "cannot serve '127.0.0.1:x': the port is no number from 0 to 65535"),
        (("{d}", "--bind", "127.0.0.1:65536"), 64, "cannot serve '127.0.0.1:65536': the port is no number"),
        (("{d}", "--dialect", "azure"), 64, "cannot understand 'azure': --dialect is one of auto, openstack"),
        (("{d}", "--bind", "192.0.2.1:80"), 73, "cannot serve '192.0.2.1:80': cannot assign requested address"),
        (("{d}", "--bind", "{busy}"), 73, "cannot serve '{busy}': address already in use"),
    ],
)
def test_each_misuse_has_its_exit_code_and_names_what_is_wrong(
    site: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        there = {"{d}": str(site), "{busy}": f"127.0.0.1:{busy.getsockname()[1]}"}
        done = run((*AGENT, "serve", *(there.get(word, word) for word in words)))
        assert (done.code, done.out) == (code, "")
        assert f"contextagent: {message.replace('{busy}', there['{busy}'])}" in done.err


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("meta-data", "- a list\n", "cannot read '{d}/meta-data': it is no mapping"),
        ("meta-data", "a: [\n", "{d}/meta-data:2: "),
        ("meta_data.json", '{"a": 1, "a": 2}', "cannot read '{d}/meta_data.json': a key stands twice"),
        ("site/x\ny", "", "cannot pack '{d}/site': a problem"),
    ],
)
def test_a_folder_with_a_mistake_is_not_served_at_all(site: Path, path: str, text: str, message: str) -> None:
    put(site, path, text)
    done = run((*AGENT, "serve", str(site), "--bind", "127.0.0.1:0"))
    assert (done.code, done.out) == (65, "")
    assert message.replace("{d}", str(site)) in done.err
