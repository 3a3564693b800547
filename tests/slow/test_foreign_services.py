"""Machines contextualised from metadata services that are not ours: Nova's own code, and moto's.

moto knows EC2's instance id and token at 169.254.169.254, and no user data; all other paths of that address are its
S3, so that user data and bundle are put there as public objects.
"""

from __future__ import annotations

import email.mime.multipart
import email.mime.text
import gzip
import json
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.machine import AGENT, Machine, run
from tests.network import SERVICE, Network
from tests.slow import environments
from tests.tars import file, tgz

if TYPE_CHECKING:
    from collections.abc import Iterator

BUNDLE = "/context/default.tgz"
META_DATA, USER_DATA = "/openstack/latest/meta_data.json", "/openstack/latest/user_data"
EC2_META_DATA, EC2_USER_DATA = "/latest/meta-data/instance-id", "/latest/user-data"
UUID = "9f5c1a44-3f5e-4a9a-8d0f-5a8f2e0c7b11"
SCRIPT = b"#!/bin/sh\necho hello\n"


class Nova(NamedTuple):
    """Nova's metadata service.

    Attributes:
        url: Where it is.
        requests: File with the path of each request.
        user_data: File with the user data of the instance that asks.
    """

    url: str
    requests: Path
    user_data: Path

    def asked(self) -> list[str]:
        """Return what was asked for, and forget it."""
        paths = self.requests.read_text().split()
        self.requests.write_text("")
        return paths


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nova]:
    """Run Nova's service with vendor data of the cloud's."""
    folder = tmp_path_factory.mktemp("nova")
    requests, user_data, vendor_data = (folder / name for name in ("requests", "user_data", "vendor_data.json"))
    vendor_data.write_text(json.dumps({"cloud-init": "#!/bin/sh\necho vendor\n"}))
    python = environments.python(environments.NOVA, "nova.api.metadata.handler")
    words: list[str | Path] = [
        python,
        Path(__file__).parent / "nova_metadata.py",
        "serve",
        requests,
        user_data,
        vendor_data,
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        yield Nova(f"http://127.0.0.1:{process.stdout.readline().strip()}", requests, user_data)
        process.terminate()


@pytest.fixture
def nova(running: Nova) -> Nova:
    running.requests.write_text("")
    running.user_data.write_bytes(SCRIPT)
    return running


def boot(machine: Machine, url: str, dialect: str = "auto") -> dict[str, Any]:
    """Boot from a service, and return the status."""
    machine.put("etc/contextagent/policy.yaml", f"metadata: {{dialect: {dialect}, total_s: 5}}\n")
    machine.metadata = url
    machine.run("run", "--disk", "none")
    return machine.status()


def scripts(status: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["id"], each["state"]) for each in status["scripts"]]


@pytest.mark.parametrize("dialect", ["auto", "openstack"])
def test_novas_user_data_runs_and_its_vendor_data_is_there_and_not_asked_for(
    dialect: str, nova: Nova, machine: Machine
) -> None:
    status = boot(machine, nova.url, dialect)
    assert (status["result"], status["sources"]["user"]) == ("ok", "metadata:openstack")
    assert scripts(status) == [("user/post-network/user-data", "ok")]
    assert nova.asked() == [BUNDLE, META_DATA, USER_DATA]
    with urllib.request.urlopen(f"{nova.url}/openstack/latest/vendor_data.json", timeout=10) as vendor:
        assert b"echo vendor" in vendor.read()
    (state,) = (machine.root / "var/lib/contextagent/instances").glob("*/state.json")
    assert json.loads(state.read_text())["state"]["ids"]["openstack-uuid"] == UUID


def test_novas_ec2_tree_gives_the_same_user_data_under_another_id(nova: Nova, machine: Machine) -> None:
    status = boot(machine, nova.url, "ec2")
    assert (status["result"], status["sources"]["user"]) == ("ok", "metadata:ec2")
    assert nova.asked() == [BUNDLE, EC2_META_DATA, EC2_USER_DATA]
    (state,) = (machine.root / "var/lib/contextagent/instances").glob("*/state.json")
    assert json.loads(state.read_text())["state"]["ids"]["ec2-instance-id"] == "i-0000002a"


def test_an_instance_of_novas_without_user_data_has_its_keys_and_no_material(nova: Nova, machine: Machine) -> None:
    nova.user_data.write_bytes(b"")
    status = boot(machine, nova.url)
    assert (scripts(status), status["warnings"]) == ([], [])
    assert [each["verdict"] for each in status["verdicts"] if each["source"] != "disk"] == ["absent", "absent"]


def multipart() -> bytes:
    """Return a multipart as a client of Nova's would make one."""
    whole = email.mime.multipart.MIMEMultipart()
    whole.attach(email.mime.text.MIMEText("#cloud-config\nruncmd:\n- [echo, hello]\n", "cloud-config"))
    whole.attach(email.mime.text.MIMEText(SCRIPT.decode(), "x-shellscript"))
    whole.attach(email.mime.text.MIMEText("#!/bin/sh\necho early\n", "cloud-boothook"))
    return whole.as_bytes()


PARTS = ["user/pre-network/boothook-003", "user/post-network/runcmd-001", "user/post-network/part-002"]
FORMS = {
    "gzip'd script": (gzip.compress(SCRIPT), ["user/post-network/user-data"]),
    "multipart": (multipart(), PARTS),
    "gzip'd multipart": (gzip.compress(multipart()), PARTS),
    "multipart with CRLF": (multipart().replace(b"\n", b"\r\n"), PARTS),
    "tar.gz": (tgz(file("post-network.d/10-a", SCRIPT)).getvalue(), ["user/post-network/post-network.d/10-a"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_nova_hands_over_user_data_in_any_form_byte_by_byte(form: str, nova: Nova, machine: Machine) -> None:
    data, wanted = FORMS[form]
    nova.user_data.write_bytes(data)
    status = boot(machine, nova.url)
    assert scripts(status) == [(script, "ok") for script in wanted]
    assert status["result"] == "ok"


# -- moto


@pytest.fixture(scope="module")
def cloud() -> Iterator[Network]:
    """Return a network with moto's server at the service's own address."""
    python = environments.python(environments.MOTO, "moto.server")
    with Network() as network:
        enter = ("nsenter", f"--net={network.far}", "--")
        words = (*enter, python.parent / "moto_server", "-H", SERVICE, "-p", "80")
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            assert any("Running on" in line for line in process.stderr), "moto did not start"
            yield network
            process.terminate()


@pytest.fixture
def moto(cloud: Network, tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """Return what is put into moto's S3 before the agent asks, by path; it is taken out again."""
    objects: dict[str, bytes] = {}
    yield objects
    for path in objects:
        _curl(cloud, "DELETE", path, tmp_path / "body")


def _curl(network: Network, method: str, path: str, body: Path) -> None:
    words = ("curl", "-sf", "-H", "x-amz-acl: public-read", "-X", method, "-T", str(body), f"http://{SERVICE}{path}")
    body.touch()
    done = run((*network.prefix, *words))
    assert done.code == 0, done.err


def boot_in_the_cloud(machine: Machine, network: Network, objects: dict[str, bytes], policy: str) -> dict[str, Any]:
    body = machine.root / "body"
    for path, data in objects.items():
        body.write_bytes(b"")
        _curl(network, "PUT", path.rpartition("/")[0], body)
        body.write_bytes(data)
        _curl(network, "PUT", path, body)
    machine.put("etc/contextagent/policy.yaml", policy)
    run((*network.prefix, *AGENT, "--root", str(machine.root), "run", "--disk", "none"))
    return machine.status()


@pytest.mark.parametrize("imds", ["auto", "v1", "v2"])
@pytest.mark.parametrize("dialect", ["ec2", "auto"])
def test_moto_gives_the_instance_id_and_has_nothing_else(
    dialect: str, imds: str, cloud: Network, moto: dict[str, bytes], machine: Machine
) -> None:
    status = boot_in_the_cloud(machine, cloud, moto, f"metadata: {{dialect: {dialect}, imds: {imds}}}\n")
    assert status["result"] == "none"
    assert {each["verdict"] for each in status["verdicts"]} == {"absent"}
    (state,) = (machine.root / "var/lib/contextagent/instances").glob("*/state.json")
    assert json.loads(state.read_text())["state"]["ids"]["ec2-instance-id"] == "i-fake"


def test_moto_gives_user_data_and_the_sites_bundle_from_its_objects(
    cloud: Network, moto: dict[str, bytes], machine: Machine
) -> None:
    moto[EC2_USER_DATA] = multipart()
    moto[BUNDLE] = tgz(file("epilog.sh", b"#!/bin/sh\necho site\n")).getvalue()
    status = boot_in_the_cloud(machine, cloud, moto, "metadata: {imds: v2}\n")
    assert status["sources"] == {"user": "metadata:ec2", "site": "metadata:ec2"}
    assert [name for name, _ in scripts(status)] == [*PARTS, "site/post-network/epilog.sh"]
    assert status["result"] == "ok"
