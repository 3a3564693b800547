"""The agent's own program: what is in it, what it needs, and the agent's real work under tables of old kernels."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from contextagent import __version__
from tests.machine import REPOSITORY, Machine, run
from tests.rpm.conftest import ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rpm.places import Bare

NAMES = ("prolog.sh", "epilog.sh")
KERNELS = ("2.6.32", "2.6.18")
LIBRARIES = "import netifaces, pycdlib, requests, ssl, yaml"
# Site and user, each before and after the network; each line says who ran, and as whom
LINE = 'print(os.environ["CONTEXTAGENT_OWNER"], os.path.basename(sys.argv[0]), os.getuid(), flush=True)'
SCRIPT = f"#!/python\nimport os, sys\n{LINE}\n"

CRYPTO = """
import hashlib, hmac, os, ssl
assert hashlib.sha512(b"abc").hexdigest().startswith("ddaf35a193617aba")
assert [hashlib.new(name, b"").digest_size for name in ("md5", "sha1", "sha256", "sha3_256", "blake2b")]
assert hmac.new(b"k", b"m", "sha256").hexdigest().startswith("b60090e3")
assert len(os.urandom(33)) == 33
print(ssl.OPENSSL_VERSION.split()[0], ssl.HAS_TLSv1_3, ssl.create_default_context().verify_mode.name)
"""
YAML = """
import yaml
print(yaml.safe_load("a: [1, {b: no}]\\nd: |\\n  x\\n"))
"""
DISC = """
import io, pycdlib
disc = pycdlib.PyCdlib()
disc.new(joliet=3, rock_ridge="1.09", vol_ident="CONTEXT")
disc.add_fp(io.BytesIO(b"hello"), 5, "/INIT.SH;1", rr_name="init.sh", joliet_path="/init.sh")
image = io.BytesIO()
disc.write_fp(image)
disc.close()
disc.open_fp(image)
out = io.BytesIO()
disc.get_file_from_iso_fp(out, rr_path="/init.sh")
print(out.getvalue().decode(), disc.pvd.volume_identifier.decode().strip())
"""
WEB = """
import http.server, threading, requests
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(requests.get("http://127.0.0.1:%d/" % server.server_port, timeout=9).text)
server.shutdown()
"""
LINKS = """
import netifaces
print(netifaces.ifaddresses("lo")[netifaces.AF_INET][0]["addr"])
"""
LOGS = """
import socket, tempfile
from contextagent.collectors import Endpoint
from contextagent.host.reach import reach
from contextagent.host.syslog import Syslog
there = socket.create_server(("127.0.0.1", 0))
away = socket.socket()
away.bind(("127.0.0.1", 0))
ends = [Endpoint(host="127.0.0.1", port=each.getsockname()[1]) for each in (there, away)]
print([bool(said) for said in reach(ends, timeout_s=60)])
path = tempfile.mkdtemp() + "/log"
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
daemon.bind(path)
way = Syslog(path)
way.send("tag", ["hello"])
print(way.dropped, daemon.recv(99).partition(b": ")[2].decode())
"""
PIECES = {
    "crypto": (CRYPTO, "OpenSSL True CERT_REQUIRED\n"),
    "yaml": (YAML, "{'a': [1, {'b': False}], 'd': 'x\\n'}\n"),
    "disc": (DISC, "hello CONTEXT\n"),
    "web": (WEB, "hello\n"),
    "links": (LINKS, "127.0.0.1\n"),
    "logs": (LOGS, "[False, True]\n0 hello\n"),
}


def disk(folder: Path, text: str) -> Path:
    """Return a context with one script of each owner and half, all with the same text."""
    for owner in ("", "user"):
        (folder / owner).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (folder / owner / name).write_text(text)
    return folder


def segments(program: Path) -> set[int]:
    """Return the types of the program's ELF segments."""
    data = program.read_bytes()
    offset, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    return {struct.unpack_from("<I", data, offset + size * index)[0] for index in range(count)}


def test_the_program_asks_for_no_loader_and_no_library(program: Path) -> None:
    interpreter, dynamic = 3, 2
    assert not segments(program) & {interpreter, dynamic}


def test_the_program_names_no_folder_of_its_builder(program: Path) -> None:
    data = program.read_bytes()
    assert [place for place in (REPOSITORY, program.parent) if os.fsencode(place) in data] == []


def test_the_program_is_the_agent(program: Path) -> None:
    assert run((str(program), "--version")).out == f"contextagent {__version__}\n"


def test_every_module_of_the_agent_is_in_it_and_can_be_imported(plain: Path) -> None:
    files = sorted((REPOSITORY / "contextagent").rglob("*.py"))
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files]
    wanted = [name.removesuffix(".__init__") for name in names if not name.endswith(".__main__")]
    code = f"import sys\nfor name in {wanted!r}:\n    __import__(name)\n"
    code += "print({m.__spec__.origin for n, m in sys.modules.items() if n.startswith('contextagent.')})"
    assert ask((str(plain),), code).out in {"{'frozen', 'built-in'}\n", "{'built-in', 'frozen'}\n"}


DIGEST = "from contextagent.runner.chronicle import agent_sha512; print(agent_sha512())"
CHANGED = {
    "runner/status.py": ("\nNEW = 1\n", True),
    "host/_guestos.c": ("\n/* new */\n", True),
    "kit/pack.py": ("\nNEW = 1\n", False),  # no part of a boot
}


@pytest.mark.parametrize("changed", CHANGED)
def test_the_digest_of_the_agent_tells_of_a_change_in_what_boots(plain: Path, tmp_path: Path, changed: str) -> None:
    for name in ("contextagent", "packaging"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    added, is_told = CHANGED[changed]
    path = tmp_path / "contextagent" / changed
    path.write_text(path.read_text() + added)
    build = tmp_path / "packaging/rpm/interpreter/build.sh"
    cache = str(REPOSITORY / ".cache/interpreter")
    environment = os.environ | {"PYTHON": sys.executable, "CONTEXTAGENT_INTERPRETER_CACHE": cache}
    subprocess.run([build, tmp_path / "python"], env=environment, stdout=subprocess.DEVNULL, check=True)
    digests = [ask((str(each),), DIGEST).out for each in (plain, tmp_path / "python")]
    assert all(len(digest) == 129 for digest in digests)
    assert (digests[0] != digests[1]) == is_told


def test_nothing_outside_can_change_what_it_runs(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('taken in')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('taken in')")
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "yaml.py")}
    done = run(
        (str(plain), "-c", "import sys, yaml; print(sys.path, yaml.__spec__.origin)"),
        cwd=str(tmp_path),
        environment=environment,
    )
    assert (done.out, done.err) == ("[] frozen\n", "")


def test_requests_trusts_the_machines_own_authorities(plain: Path) -> None:
    code = "import certifi, os, requests; print(requests.certs.where(), os.path.dirname(certifi.__file__))"
    assert ask((str(plain),), code).out.startswith("/etc/")


@pytest.mark.parametrize("piece", PIECES)
def test_each_library_does_its_work(plain: Path, kernel: tuple[str, ...], piece: str) -> None:
    code, answer = PIECES[piece]
    assert ask((*kernel, str(plain)), code).out == answer


@pytest.mark.parametrize("piece", set(PIECES) - {"web", "links", "logs"})
def test_each_library_does_its_work_where_nothing_else_is(bare: Bare, kernel: tuple[str, ...], piece: str) -> None:
    code, answer = PIECES[piece]
    done = bare.run("/python", "-c", code, kernel=kernel)
    assert (done.out, done.err) == (answer, "")


@pytest.mark.parametrize("medium", ["folder", "iso"])
def test_it_contextualises_below_a_root(
    program: Path, kernel: tuple[str, ...], machine: Machine, tmp_path: Path, medium: str
) -> None:
    machine.put("etc/contextagent/policy.yaml", "phase_budget_s: 900\n")
    order = tmp_path / "order"
    source = disk(tmp_path / "disk", f'#!/bin/sh\necho "$1 $CONTEXTAGENT_OWNER ${{0##*/}}" >> {order}\n')
    if medium == "iso":
        subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", f"{source}.iso", source], check=True)
        source = source.with_suffix(".iso")
    words = ("--root", str(machine.root), "--disk", str(source), "--metadata", "none")
    done = [run((*kernel, str(program), "run", *phase, *words)) for phase in ((), ("stop",))]
    assert [(each.code, each.err) for each in done] == [(0, ""), (0, "")]
    boot = ["user prolog.sh", "site prolog.sh", "user epilog.sh", "site epilog.sh"]
    shutdown = ["site epilog.sh", "site prolog.sh", "user epilog.sh", "user prolog.sh"]
    assert order.read_text().splitlines() == [*(f"start {it}" for it in boot), *(f"stop {it}" for it in shutdown)]
    assert facts(program, machine, "status")["result"] == "ok"
    assert facts(program, machine, "query", "policy.phase_budget_s")["value"] == 900
    assert run((str(program), "trace", "verify", "--root", str(machine.root))).code == 0


def facts(program: Path, machine: Machine, *words: str) -> Any:
    """Return what the program prints as JSON."""
    return json.loads(run((str(program), *words, "--root", str(machine.root), "--format", "json")).out)


def test_it_contextualises_a_machine_where_nothing_else_is(bare: Bare, kernel: tuple[str, ...]) -> None:
    disk(bare.root / "disk", SCRIPT)
    done = bare.run("/usr/bin/contextagent", "run", "--disk", "/disk", "--metadata", "none", kernel=kernel)
    assert (done.code, done.err) == (0, "")
    output = sorted((bare.root / "var/lib/contextagent/instances").glob("*/output/*/*/*.log"))
    lines = {path.read_text() for path in output}
    assert lines == {f"{who} {name} {uid}\n" for who, uid in (("user", 990), ("site", 0)) for name in NAMES}


def test_it_makes_and_reads_a_disk_where_nothing_else_is(bare: Bare, kernel: tuple[str, ...]) -> None:
    disk(bare.root / "disk", SCRIPT)
    packed = bare.run("/usr/bin/contextagent", "pack", "/disk", "-o", "/disk.iso", kernel=kernel)
    assert (packed.code, packed.err) == (0, "")
    done = bare.run("/usr/bin/contextagent", "run", "--disk", "/disk.iso", "--metadata", "none", kernel=kernel)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("name", KERNELS)
def test_what_an_old_kernel_lacks_is_refused_by_the_table(oldkernel: Path, plain: Path, name: str) -> None:
    code = (
        "import os\nprint(os.uname().release[:6])\ntry:\n    os.memfd_create('x')\nexcept OSError as e: print(e.errno)"
    )
    assert ask((str(oldkernel), name, str(plain)), code).out == f"{name}\n38\n"
