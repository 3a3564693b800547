"""A collector counts as reachable only if a real connection, and its TLS in both directions, were good."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from contextagent.collectors import Endpoint
from contextagent.host.reach import MAX_ENDS, has_name, is_tls_failure, reach

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 20
"""Enough for any machine: nothing here may hang on it."""


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A real CA below a folder, and what it has certified."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.ca = str(folder / "ca.pem")
        out = ("-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=the CA")
        self._openssl("req", "-x509", *_NEW_KEY, *out)

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)

    def certify(self, name: str, extension: str) -> tuple[str, str]:
        """Return certificate and key of that common name, with an extension such as `subjectAltName=DNS:x`."""
        folder = self._folder
        (folder / "ext").write_text(f"{extension}\n")
        self._openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext")
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
        return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


class Collector:
    """A TLS server on a port of its own, which reads until the other side goes."""

    def __init__(self, certificate: tuple[str, str], *, client_ca: str = "") -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        if client_ca:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_ca)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return  # closed
            plain.settimeout(PATIENCE_S)
            try:
                with plain, self._context.wrap_socket(plain, server_side=True) as wrapped:
                    wrapped.recv(100)
            except OSError:
                continue  # the other side, or we, refused

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "good")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "bad")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def tried(end: Endpoint) -> str:
    return reach([end], timeout_s=PATIENCE_S)[0]


def test_a_port_that_listens_is_reachable_and_one_that_does_not_is_refused(listener: socket.socket) -> None:
    assert not tried(Endpoint(host="127.0.0.1", port=port_of(listener)))
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = port_of(gone)
    assert tried(Endpoint(host="127.0.0.1", port=port)) == "Connection refused"
    assert not is_tls_failure("Connection refused")


def test_a_name_is_resolved_and_one_that_is_none_is_said(listener: socket.socket) -> None:
    assert not tried(Endpoint(host="localhost", port=port_of(listener)))
    assert "can't be resolved" in tried(Endpoint(host="no.such.host.invalid", port=514))
    assert "can't be resolved" in tried(Endpoint(host="ü" * 300, port=514))


def test_collectors_that_do_not_answer_are_given_up_together(listener: socket.socket, authority: Authority) -> None:
    # a listener that accepts nothing never answers a handshake
    silent = Endpoint(host="127.0.0.1", port=port_of(listener), ca=authority.ca)
    good = Endpoint(host="127.0.0.1", port=port_of(listener))
    began = time.monotonic()
    answers = reach([silent, good, silent], timeout_s=3)
    took = time.monotonic() - began
    assert answers == ["it did not answer in time", "", "it did not answer in time"]
    assert took < PATIENCE_S


def test_of_too_many_collectors_the_first_are_tried(listener: socket.socket) -> None:
    good = Endpoint(host="127.0.0.1", port=port_of(listener))
    answers = reach([good] * (MAX_ENDS + 2), timeout_s=PATIENCE_S)
    assert answers == [""] * MAX_ENDS + ["it was not tried: there are too many"] * 2


@pytest.mark.parametrize("extension", ["subjectAltName=DNS:logs.example.org", "basicConstraints=CA:FALSE"])
def test_the_right_certificate_is_taken_by_its_alternative_name_or_its_common_name(
    authority: Authority, extension: str
) -> None:
    server = Collector(authority.certify("logs.example.org", extension))
    try:
        end = Endpoint(host="127.0.0.1", port=server.port, ca=authority.ca, peer="logs.example.org")
        assert not tried(end)
        assert tried(end.replace(peer="other.example.org")) == "its certificate is not that of 'other.example.org'"
        assert tried(end.replace(peer="")) == "its certificate is not that of '127.0.0.1'"
    finally:
        server.close()


def test_a_certificate_of_another_authority_is_refused(authority: Authority, stranger: Authority) -> None:
    server = Collector(stranger.certify("logs.example.org", "subjectAltName=IP:127.0.0.1"))
    try:
        said = tried(Endpoint(host="127.0.0.1", port=server.port, ca=authority.ca))
        assert said.startswith("its certificate is refused: ")
        assert is_tls_failure(said)
    finally:
        server.close()


def test_a_collector_that_refuses_our_certificate_is_not_reachable(authority: Authority, stranger: Authority) -> None:
    server = Collector(
        authority.certify("logs", "subjectAltName=IP:127.0.0.1"),
        client_ca=authority.ca,
    )
    good, bad = (
        authority.certify("vm", "basicConstraints=CA:FALSE"),
        stranger.certify("vm", "basicConstraints=CA:FALSE"),
    )
    try:
        end = Endpoint(host="127.0.0.1", port=server.port, ca=authority.ca)
        assert not tried(end.replace(cert=good[0], key=good[1]))
        assert tried(end.replace(cert=bad[0], key=bad[1]))
        assert tried(end)
    finally:
        server.close()


def test_what_speaks_no_tls_is_not_reachable_by_tls(authority: Authority, listener: socket.socket) -> None:
    def answer() -> None:
        plain, _ = listener.accept()
        with plain:
            plain.sendall(b"220 welcome\r\n" * 100)

    thread = threading.Thread(target=answer)
    thread.start()
    said = tried(Endpoint(host="127.0.0.1", port=port_of(listener), ca=authority.ca))
    thread.join()
    assert said.startswith("no TLS can be agreed on") or "reset" in said


def test_certificates_of_ours_that_cannot_be_read_are_said(listener: socket.socket, tmp_path: Path) -> None:
    end = Endpoint(host="127.0.0.1", port=port_of(listener), ca=str(tmp_path / "none.pem"))
    assert tried(end).startswith("our own certificates can't be used: No such file")


@pytest.mark.parametrize(
    ("certificate", "is_its"),
    [
        ({"subjectAltName": (("DNS", "Logs.Example.org"),)}, True),
        ({"subjectAltName": (("DNS", "*.example.org"),)}, True),
        ({"subjectAltName": (("DNS", "*.org"),)}, False),
        ({"subjectAltName": (("DNS", "other"),), "subject": ((("commonName", "logs.example.org"),),)}, False),
        ({"subject": ((("organizationName", "logs.example.org"),), (("commonName", "logs.example.org"),))}, True),
        ({}, False),
    ],
)
def test_a_certificate_is_of_the_names_in_it(certificate: dict[str, object], *, is_its: bool) -> None:
    assert has_name(certificate, "logs.example.org") is is_its
