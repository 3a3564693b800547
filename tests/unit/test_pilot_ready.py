"""What a pilot needs before it starts: its folder, its files, its credential, its environment, its program."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import ContextAgentError
from contextagent.runner import credential
from contextagent.runner.credential import CredentialError, validity_of_chain, validity_of_token
from contextagent.runner.readying import Ready, ready
from tests.pilots import Hangar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.runner.keeper import Order

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing to another account needs root")
DAY_S = 86_400


@pytest.fixture
def hangar() -> Iterator[Hangar]:
    with Hangar() as made:
        yield made


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return credentials: `good` for a day, `long` for a year, one with an `expired` end of its chain, `early`."""
    folder = tmp_path_factory.mktemp("pem")
    made = {name: certificate(folder, name, days) for name, days in (("good", 1), ("long", 365))}
    old = certificate(folder, "old", 1, begin="20200101000000Z", end="20200201000000Z")
    young = certificate(folder, "young", 1, begin="20980101000000Z", end="20990201000000Z")
    chain = made["good"] + old[: old.index(b"-----BEGIN PRIVATE")]
    return {**made, "expired": old, "chain": chain, "early": young}


def certificate(folder: Path, name: str, days: int, *, begin: str = "", end: str = "") -> bytes:
    """Return a certificate and its key, made by the real openssl."""
    place = folder / name
    place.mkdir()
    key, cert = place / "key", place / "cert"
    subject = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-subj", f"/DC=org/CN={name}"]
    if not begin:
        openssl("req", "-x509", *subject, "-days", str(days), "-out", str(cert))
    else:
        (place / "index").write_text("")
        (place / "conf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={place}/index\nnew_certs_dir={place}\nserial={place}/serial\n"
            "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\ndomainComponent=optional\n"
        )
        openssl("req", "-new", *subject, "-out", str(place / "csr"))
        dates = ["-startdate", begin, "-enddate", end]
        what = ["-selfsign", "-keyfile", str(key), "-in", str(place / "csr"), "-out", str(cert)]
        openssl("ca", "-batch", "-config", str(place / "conf"), "-create_serial", "-notext", *dates, *what)
    return cert.read_bytes() + key.read_bytes()


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


def token(**claims: object) -> bytes:
    """Return a JSON web token that nobody signed."""
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in ({"alg": "none"}, claims)]
    return b".".join((*parts, b"c2ln"))


def put(hangar: Hangar, data: bytes, *, mode: int = 0o600, uid: int | None = None, path: str = "/cred") -> None:
    hangar.host.files.write(path, data, mode=mode)
    if uid is not None:
        os.chown(hangar.real(path), uid, uid)


def made(hangar: Hangar, order: Order, *, is_account: bool = False) -> Ready:
    return ready(hangar.host, order, hangar.account if is_account else None)


def refused(hangar: Hangar, order: Order, *, is_account: bool = False) -> tuple[str, str]:
    with pytest.raises(ContextAgentError) as raised:
        made(hangar, order, is_account=is_account)
    return raised.value.reason, str(raised.value).removeprefix("cannot start the pilot: ")


# ---- its environment ----


def test_the_environment_is_made_from_nothing_and_the_settings_have_the_last_word(hangar: Hangar) -> None:
    order = hangar.order(pilot={"env": {"A": "1", "JOBOUTPUTS": "mine"}}, environment={"B": "2", "A": "0"})
    environment = dict(made(hangar, order).environment)
    del environment["CONTEXTAGENT_PILOT_MARK"]
    assert environment == {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "HOME": hangar.real("/home"),
        "MACHINEFEATURES": "/etc/machinefeatures",
        "JOBFEATURES": "/etc/jobfeatures",
        "JOBOUTPUTS": "mine",
        "A": "1",
        "B": "2",
    }


@needs_root
def test_an_account_is_named_in_the_environment(hangar: Hangar) -> None:
    environment = made(hangar, hangar.order(is_account=True), is_account=True).environment
    assert (environment["USER"], environment["LOGNAME"]) == ("tester", "tester")


# ---- its folder and files ----


@needs_root
def test_the_folder_is_the_accounts_alone(hangar: Hangar) -> None:
    hangar.host.files.make_folder("/scratch", 0o755)
    for workdir in ("/home/pilot-1", "/scratch/below/plt", "/home/pilot-1"):
        made(hangar, hangar.order(is_account=True, workdir=workdir), is_account=True)
        found = os.stat(hangar.real(workdir))
        assert (found.st_uid, found.st_mode & 0o7777) == (hangar.account.uid, 0o700)


@needs_root
def test_root_makes_no_folder_that_the_user_named_or_could_lead_elsewhere(hangar: Hangar) -> None:
    hangar.host.files.make_folder("/etc", 0o755)
    order = hangar.order(is_account=True, workdir="/etc/mine", is_users=True)
    assert refused(hangar, order, is_account=True)[0] == "workdir"
    os.symlink(hangar.real("/etc"), hangar.real("/home/link"))
    os.symlink(hangar.real("/etc"), hangar.real("/link"))
    hangar.host.files.make_folder("/open", 0o777)
    os.symlink(hangar.real("/etc"), hangar.real("/open/link"))
    for workdir in ("/home/link/mine", "/link/mine", "/open/link/mine"):
        order = hangar.order(is_account=True, workdir=workdir)
        assert refused(hangar, order, is_account=True)[0] == "workdir"
    assert not hangar.host.files.exists("/etc/mine")


@needs_root
def test_root_makes_no_folder_below_what_is_no_folder_or_where_others_could_be_first(hangar: Hangar) -> None:
    put(hangar, b"", path="/file")
    hangar.host.files.make_folder("/open", 0o1775)
    hangar.host.files.make_folder("/open/roots", 0o755)
    for workdir in ("/file/mine", "/open/gone/mine"):
        order = hangar.order(is_account=True, workdir=workdir)
        assert refused(hangar, order, is_account=True)[0] == "workdir"
    made(hangar, hangar.order(is_account=True, workdir="/open/roots/mine"), is_account=True)
    assert os.listdir(hangar.real("/open")) == ["roots"]


@needs_root
def test_another_accounts_folder_is_no_place_for_a_pilot(hangar: Hangar) -> None:
    hangar.host.files.make_folder("/other")
    assert refused(hangar, hangar.order(is_account=True, workdir="/other"), is_account=True) == (
        "workdir",
        "its folder '/other' belongs to uid 0, not to 'tester'",
    )


def test_a_folder_that_is_none_is_refused(hangar: Hangar) -> None:
    put(hangar, b"", path="/file")
    assert refused(hangar, hangar.order(workdir="/file")) == ("workdir", "its folder '/file' is no folder")
    assert refused(hangar, hangar.order(workdir="/file/below"))[0] == "workdir"


def test_its_files_lie_in_its_folder_and_nowhere_else(hangar: Hangar) -> None:
    made(hangar, hangar.order(pilot={"files": {"a": "1", "b/c": "2"}}))
    made(hangar, hangar.order(pilot={"files": {"b/c": "3"}}))
    assert hangar.host.files.read("/home/pilot-1/a", max_bytes=9) == b"1"
    assert hangar.host.files.read("/home/pilot-1/b/c", max_bytes=9) == b"3"
    assert os.stat(hangar.real("/home/pilot-1/a")).st_mode & 0o7777 == 0o600
    for name in ("../x", "/x", "a/../../x"):
        assert refused(hangar, hangar.order(pilot={"files": {name: "1"}})) == (
            "files",
            f"its file '{name}' would lie outside of its folder",
        )


@needs_root
def test_files_are_written_with_the_accounts_rights(hangar: Hangar) -> None:
    hangar.host.files.make_folder("/home/pilot-1")
    hangar.host.files.link("/home/pilot-1/b", hangar.real("/"))
    hangar.host.files.give("/home/pilot-1", hangar.account.uid, hangar.account.gid)
    order = hangar.order(is_account=True, pilot={"files": {"b/evil": "1"}})
    assert refused(hangar, order, is_account=True)[0] == "files"
    assert not hangar.host.files.exists("/evil")


# ---- its folders of certificates ----


@pytest.mark.parametrize(
    ("key", "reason", "name"),
    [
        ("ca_dir", "ca-dir", "X509_CERT_DIR"),
        ("voms_dir", "voms-dir", "X509_VOMS_DIR"),
        ("vomses", "vomses", "X509_VOMSES"),
    ],
)
def test_a_folder_of_certificates_must_not_be_empty(hangar: Hangar, key: str, reason: str, name: str) -> None:
    order = hangar.order(pilot={key: "/certs"})
    assert refused(hangar, order) == (reason, f"'/certs' ('pilot.{key}') can't be read: No such file or directory")
    hangar.host.files.make_folder("/certs", 0o755)
    assert refused(hangar, order) == (reason, f"'/certs' ('pilot.{key}') is empty")
    hangar.host.files.write("/certs/x", b"x")
    assert made(hangar, order).environment[name] == hangar.real("/certs")


def test_vomses_may_be_a_file(hangar: Hangar) -> None:
    put(hangar, b"", path="/vomses")
    assert refused(hangar, hangar.order(pilot={"vomses": "/vomses"}))[0] == "vomses"
    put(hangar, b"x", path="/vomses")
    assert made(hangar, hangar.order(pilot={"vomses": "/vomses"})).environment["X509_VOMSES"]


@needs_root
def test_what_the_account_can_not_read_is_as_good_as_empty(hangar: Hangar) -> None:
    hangar.host.files.make_folder("/certs", 0o700)
    hangar.host.files.write("/certs/x", b"x")
    order = hangar.order(is_account=True, pilot={"ca_dir": "/certs"})
    assert refused(hangar, order, is_account=True) == (
        "ca-dir",
        "'/certs' ('pilot.ca_dir') can't be read: Permission denied",
    )


# ---- its credential ----


def with_credential(hangar: Hangar, *, kind: str | None = "proxy", **more: Any) -> Order:
    changes = {name: more.pop(name) for name in ("is_account", "is_users") if name in more}
    settings = {"credential.path": "/cred", "credential.kind": kind}
    return hangar.order(
        pilot={**settings, **{name.replace("__", "."): value for name, value in more.items()}}, **changes
    )


def test_a_credential_of_ones_own_is_used_where_it_stands(hangar: Hangar, pem: dict[str, bytes]) -> None:
    put(hangar, pem["good"])
    found = made(hangar, with_credential(hangar, credential__env="MY_PROXY", credential__refresh_s=60))
    assert found.environment["X509_USER_PROXY"] == found.environment["MY_PROXY"] == hangar.real("/cred")
    assert found.refresh_s == 0
    found.close()
    assert hangar.host.files.exists("/cred")


def test_a_token_is_named_by_another_variable(hangar: Hangar) -> None:
    put(hangar, token(exp=time.time() + DAY_S))
    assert made(hangar, with_credential(hangar, kind="jwt")).environment["BEARER_TOKEN_FILE"] == hangar.real("/cred")
    put(hangar, b"opaque")
    assert made(hangar, with_credential(hangar, kind="token")).environment["BEARER_TOKEN_FILE"] == hangar.real("/cred")
    assert "it is no JSON web token" in refused(hangar, with_credential(hangar, kind="jwt"))[1]


def test_a_credential_of_an_unknown_kind_is_looked_at_from_outside(hangar: Hangar) -> None:
    put(hangar, b"anything")
    assert (
        hangar.real("/cred") in made(hangar, with_credential(hangar, kind=None, credential__env="X")).environment["X"]
    )


@pytest.mark.parametrize(
    ("name", "cause"),
    [("expired", "it expired "), ("chain", "it expired "), ("early", "it is not valid yet")],
)
def test_a_proxy_that_is_not_good_now_starts_nothing(
    hangar: Hangar, pem: dict[str, bytes], name: str, cause: str
) -> None:
    put(hangar, pem[name])
    reason, said = refused(hangar, with_credential(hangar))
    assert reason == "credential"
    assert cause in said


def test_a_credential_must_be_good_for_as_long_as_a_pilot_is_wanted(hangar: Hangar, pem: dict[str, bytes]) -> None:
    put(hangar, pem["good"])
    assert "must be good for 100000 s" in refused(hangar, with_credential(hangar, min_lifetime_s=100_000))[1]
    made(hangar, with_credential(hangar, min_lifetime_s=100_000, credential__refresh_s=3600))
    put(hangar, token(exp=time.time() + 300))
    assert "must be good for 600 s" in refused(hangar, with_credential(hangar, kind="token"))[1]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\n", "it is empty"),
        (b"no pem", "it holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "it holds no private key"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----",
            "it holds a certificate that can't be read",
        ),
        (
            b"-----BEGIN CERTIFICATE-----" + b"A" * 200_000 + b"-----BEGIN PRIVATE KEY-----",
            "it holds a certificate that can't be read",
        ),
        (b"x" * (1 << 20) + b"x", "it is larger than 1048576 bytes"),
    ],
)
def test_what_is_no_proxy_is_said_to_be_none(hangar: Hangar, data: bytes, cause: str) -> None:
    put(hangar, data)
    assert refused(hangar, with_credential(hangar)) == (
        "credential",
        f"cannot use '/cred' as the pilot's credential: {cause}",
    )


def test_what_is_for_others_to_read_or_no_file_is_refused(hangar: Hangar) -> None:
    assert "No such file" in refused(hangar, with_credential(hangar))[1]
    put(hangar, b"x", mode=0o640)
    assert "others can read it (mode 0640, it must be 0600)" in refused(hangar, with_credential(hangar))[1]
    hangar.host.files.remove("/cred")
    hangar.host.files.make_folder("/cred")
    assert "it is no regular file" in refused(hangar, with_credential(hangar))[1]
    hangar.host.files.remove("/cred")
    hangar.host.files.link("/cred", "/etc/passwd")
    assert "it is a link" in refused(hangar, with_credential(hangar))[1]


@needs_root
def test_a_credential_of_roots_is_copied_to_where_the_account_alone_can_read_it(
    hangar: Hangar, pem: dict[str, bytes]
) -> None:
    put(hangar, pem["good"])
    order = with_credential(hangar, is_account=True, credential__refresh_s=60)
    found = made(hangar, order, is_account=True)
    path = found.environment["X509_USER_PROXY"]
    assert path == hangar.real(credential.copy_path(hangar.host, 1))
    stat = os.stat(path)
    assert (stat.st_uid, stat.st_mode & 0o7777, found.refresh_s) == (hangar.account.uid, 0o600, 60)
    assert Path(path).read_bytes() == pem["good"]
    found.close()
    assert not os.path.exists(path)


@needs_root
def test_a_changed_source_is_copied_again_and_a_bad_one_is_not(hangar: Hangar, pem: dict[str, bytes]) -> None:
    put(hangar, pem["good"])
    found = made(hangar, with_credential(hangar, is_account=True, credential__refresh_s=60), is_account=True)
    copy = Path(found.environment["X509_USER_PROXY"])
    before = copy.stat().st_ino
    assert found.refresh() == ""
    assert copy.stat().st_ino == before  # nothing new, nothing written
    put(hangar, pem["long"])
    assert found.refresh() == ""
    assert copy.read_bytes() == pem["long"]
    put(hangar, pem["expired"])
    assert "it expired" in found.refresh()
    assert found.refresh().endswith(", keeping the one that it has")
    hangar.host.files.remove("/cred")
    assert "No such file" in found.refresh()
    assert copy.read_bytes() == pem["long"]


@needs_root
def test_the_user_can_not_have_a_file_of_roots_copied(hangar: Hangar) -> None:
    put(hangar, b"secret of root's")
    order = with_credential(hangar, kind=None, is_account=True, is_users=True)
    assert "it belongs to uid 0, not to the pilot's account" in refused(hangar, order, is_account=True)[1]


@needs_root
def test_another_accounts_file_and_one_with_two_names_are_refused(hangar: Hangar) -> None:
    put(hangar, b"x", uid=hangar.account.uid + 1)
    order = with_credential(hangar, kind=None, is_account=True)
    assert "it belongs to uid" in refused(hangar, order, is_account=True)[1]
    put(hangar, b"x", uid=0)
    os.link(hangar.real("/cred"), hangar.real("/home/mine"))
    assert "it has several names" in refused(hangar, order, is_account=True)[1]


@needs_root
def test_a_credential_of_roots_to_which_the_account_could_lead_is_refused(hangar: Hangar) -> None:
    hangar.host.files.make_folder("/secret")
    put(hangar, b"secret of root's", path="/secret/cred")
    put(hangar, b"a token", path="/home/cred")  # root put it there itself, and the account can't
    os.symlink(hangar.real("/secret"), hangar.real("/home/link"))
    os.symlink("secret", hangar.real("/roots-link"))

    def order(path: str) -> Order:
        return with_credential(hangar, kind=None, credential__path=path, is_account=True)

    cause = f"it is root's, and '{hangar.real('/home')}' on its way is not root's alone to write"
    said = f"cannot use '/home/link/cred' as the pilot's credential: {cause}"
    assert refused(hangar, order("/home/link/cred"), is_account=True) == ("credential", said)
    for path in ("/home/cred", "/roots-link/cred"):
        assert made(hangar, order(path), is_account=True).environment


@needs_root
def test_below_a_root_nobody_elses_credential_is_taken(hangar: Hangar, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hangar, b"x")
    monkeypatch.setattr(hangar.host, "caller", lambda: (12345, 12345))
    assert refused(hangar, with_credential(hangar, kind=None)) == ("credential", "its credential is another's")


def test_a_pilot_is_told_of_the_credential_that_it_can_read(hangar: Hangar, pem: dict[str, bytes]) -> None:
    put(hangar, pem["good"])
    order = with_credential(hangar).replace(remaining_s=77, features={"job/x": "1"}, hostname="h")
    found = Ready(hangar.host, order, None)
    found.make()
    setting = found._setting()
    assert setting.pilot["credential.path"] == hangar.real("/cred")
    assert (setting.workdir, setting.account, setting.remaining_s) == (hangar.real("/home/pilot-1"), "", 77)


# ---- what is in a credential ----


def test_a_chain_is_good_no_longer_than_any_of_it(pem: dict[str, bytes]) -> None:
    said = validity_of_chain(pem["chain"])
    assert said["until"] < time.time() < validity_of_chain(pem["good"])["until"]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "it holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----", "it holds no private key"),
        (b"-----BEGIN CERTIFICATE-----PRIVATE KEY-----", "it holds a certificate that can't be read"),
    ],
)
def test_what_is_no_chain_has_a_cause(data: bytes, cause: str) -> None:
    assert validity_of_chain(data) == {"cause": cause}


def test_a_real_proxy_is_read_like_any_chain(pem: dict[str, bytes], tmp_path: Path) -> None:
    """A proxy as voms-proxy-init makes it: its own certificate, its key, and its owner's certificate."""
    owner, conf = tmp_path / "owner", tmp_path / "conf"
    owner.write_bytes(pem["long"])
    conf.write_text("[p]\nproxyCertInfo=critical,language:id-ppl-inheritAll\nkeyUsage=critical,digitalSignature\n")
    name = ["-subj", "/DC=org/CN=long/CN=12345", "-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-new", *name, "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "csr"))
    signed = ["-CA", str(owner), "-CAkey", str(owner), "-set_serial", "12345", "-days", "1", "-extfile", str(conf)]
    openssl("x509", "-req", "-in", str(tmp_path / "csr"), *signed, "-extensions", "p", "-out", str(tmp_path / "cert"))
    owners = pem["long"][: pem["long"].index(b"-----BEGIN PRIVATE")]
    said = validity_of_chain((tmp_path / "cert").read_bytes() + (tmp_path / "key").read_bytes() + owners)
    assert DAY_S - 600 < said["until"] - time.time() <= DAY_S


class Said:
    """A channel of which only one word is heard."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.answer: dict[str, Any] = {}

    def receive(self) -> bytes | None:
        return self.data

    def send(self, message: bytes) -> None:
        self.answer = json.loads(message)


def test_the_child_answers_with_what_it_found(pem: dict[str, bytes]) -> None:
    credential._load()
    channel = Said(pem["good"])
    credential._proxies(channel)  # type: ignore[arg-type]  # all of it that is used
    assert channel.answer == validity_of_chain(pem["good"])
    channel = Said(None)
    credential._tokens(channel)  # type: ignore[arg-type]  # as above
    assert channel.answer == {"cause": "opaque"}


def test_a_reader_that_dies_is_the_credentials_fault(hangar: Hangar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential, "_PARSE_S", -1.0)  # no time at all
    put(hangar, b"x")
    with pytest.raises(CredentialError, match="it can't be parsed"):
        credential.read(hangar.host, "/cred", "proxy", account=None, may_be_roots=True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (token(exp=5, nbf=3), {"from": 3, "until": 5}),
        (token(sub="x"), {"from": None, "until": None}),
        (token(exp="soon"), {"cause": "its times are no numbers"}),
        (token(exp=True), {"cause": "its times are no numbers"}),
        (b"a.b", {"cause": "opaque"}),
        (b"a.!!!!.c", {"cause": "opaque"}),
        (b"a." + base64.urlsafe_b64encode(b"[1]") + b".c", {"cause": "opaque"}),
        (b"", {"cause": "opaque"}),
    ],
)
def test_a_token_says_how_long_it_is_good(data: bytes, said: dict[str, object]) -> None:
    assert validity_of_token(data) == said


@given(st.binary(max_size=200))
def test_nothing_that_a_token_can_be_breaks_its_reader(data: bytes) -> None:
    assert set(validity_of_token(data)) <= {"from", "until", "cause"}
    assert set(validity_of_token(b"a." + base64.urlsafe_b64encode(data) + b".c")) <= {"from", "until", "cause"}


# ---- its program ----


def test_a_script_is_started_by_its_first_line(hangar: Hangar) -> None:
    put(hangar, b"#!/bin/sh -e\n", path="/home/epilog.sh")
    found = made(hangar, hangar.order(script="/home/epilog.sh", pilot={"command": None}))
    assert found.argv == ("/bin/sh", "-e", hangar.real("/home/epilog.sh"), "start")


def test_a_script_that_no_line_starts_or_that_has_gone_can_not_be_started(hangar: Hangar) -> None:
    order = hangar.order(script="/home/epilog.sh", pilot={"command": None})
    assert refused(hangar, order)[0] == "not-startable"
    put(hangar, b"#!/bin/sh\r\n", path="/home/epilog.sh")
    reason, said = refused(hangar, order)
    assert (reason, "CR LF" in said) == ("not-startable", True)


def test_a_program_is_looked_for_below_the_root_then_on_this_machine(hangar: Hangar) -> None:
    put(hangar, b"", path="/pilot")
    assert made(hangar, hangar.order(pilot={"command": "/pilot"})).argv == (hangar.real("/pilot"),)
    assert made(hangar, hangar.order(pilot={"command": "/bin/sh"})).argv == ("/bin/sh",)
    assert made(hangar, hangar.order(pilot={"command": "./pilot"})).argv == ("./pilot",)
    assert made(hangar, hangar.order(pilot={"command": ["sh", "x"]})).argv == ("/usr/bin/sh", "x")
    assert refused(hangar, hangar.order(pilot={"command": "none-such"}))[0] == "not-startable"


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (None, ()),
        ("true", ("/usr/bin/true",)),
        ("kill $(cat pid)", ("/bin/sh", "-c", "kill $(cat pid)")),
        (["sh", "-c", "x"], ("/usr/bin/sh", "-c", "x")),
    ],
)
def test_the_stop_command_is_read_like_the_command(hangar: Hangar, command: object, argv: tuple[str, ...]) -> None:
    assert made(hangar, hangar.order(pilot={"stop.command": command})).stop_argv == argv


def test_settings_that_do_not_say_how_are_refused_by_their_own_reason(hangar: Hangar) -> None:
    assert refused(hangar, hangar.order(pilot={"command": None}))[0] == "pilot-incomplete"
