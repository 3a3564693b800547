"""The competitors, each at a piece of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from contextagent.host import Host
from contextagent.policy.imagefile import load_image_policy
from tests.bench import lab
from tests.bench.measure import Case

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.network import Service

PYTHON = ["python3", "-I", "-S"]
CODE = f"{lab.AGENT}:{lab.AGENT_IN_TREE}"
PROGRAM = f"{lab.PROGRAM.parent}:{lab.PROGRAM_IN_TREE.rpartition('/')[0]}"
_AGENT = f"python3 -I -S {lab.AGENT_IN_TREE}/__main__.py run"
_CLOUD_INIT = (
    "cloud-init init --local; cloud-init init; cloud-init modules --mode=config; cloud-init modules --mode=final"
)


def floor(work: lab.Work, name: str = "dash: unpack, run") -> Case:
    """Return the bare shell at this work."""
    return Case(name, ["sh", "/opt/bench/floor.sh"], _floor_binds(work), work.by_phase)


def python_floor(work: lab.Work) -> Case:
    """Return the bare Python at this work."""
    return Case("Python: unpack, run", [*PYTHON, "/opt/bench/floor.py"], _floor_binds(work), work.by_phase)


def metadata_floor(work: lab.Work, service: Service) -> Case:
    """Return the bare shell at this work, which `curl` brings."""
    argv = ["sh", "/opt/bench/floor_metadata.sh"]
    return _at(service, Case("dash: curl, unpack, run", argv, _floor_binds(work), work.by_phase))


def _floor_binds(work: lab.Work) -> list[str]:
    return [f"{work.folder / 'seed'}:/seed", f"{lab.HERE}:/opt/bench"]


def agent(work: lab.Work, name: str = "contextagent") -> Case:
    """Return the agent at this work: both phases, with trace, state and confinement."""
    return Case(name, _both("--disk /disk"), [CODE, f"{work.folder / 'disk'}:/disk"], work.by_phase)


def in_program(case: Case) -> list[Case]:
    """Return what the agent does in that case, done by the program that the packages bring; nothing without one."""
    if not lab.PROGRAM.exists():
        return []
    ours, theirs = f"{lab.PROGRAM_IN_TREE} run", _AGENT.split()
    is_alone = case.argv[: len(theirs)] == theirs
    argv = (
        [*ours.split(), *case.argv[len(theirs) :]] if is_alone else [word.replace(_AGENT, ours) for word in case.argv]
    )
    binds = [PROGRAM if bind == CODE else bind for bind in case.binds]
    return [case._replace(name=f"{case.name}, own program", argv=argv, binds=binds)]


def metadata_agent(work: lab.Work, service: Service, name: str, policy: str = "", *, is_new: bool = False) -> Case:
    """Return the agent at this work, which a metadata service brings.

    Args:
        work: The scripts.
        service: What brings them.
        name: How the table calls it.
        policy: The image's; none if empty.
        is_new: Whether the image was never started: its policy has to be parsed in this boot.
    """
    image = _image(policy)
    # cloud-init is in the tree, too: as in an image that runs this agent, it is switched off there
    binds = [CODE, f"{image / 'etc/cloud'}:/etc/cloud", f"{image / 'etc/contextagent'}:/etc/contextagent"]
    case = _at(service, Case(name, _both("--disk none"), binds, work.by_phase))
    return case if is_new else case._replace(state=image / "var/lib")


def idle_agent(name: str, phase: str, words: str, network: str = "-") -> Case:
    """Return the agent on a machine that was given nothing."""
    return Case(name, f"{_AGENT} {phase} --disk none {words}".split(), [CODE], [], network=network)


def _both(words: str) -> list[str]:
    return ["sh", "-c", f"{_AGENT} pre-network {words} && {_AGENT} post-network {words}"]


def _image(policy: str) -> Path:
    """Make what an image carries: no cloud-init that would run, a policy, and its parse from an earlier start."""
    name = "".join(letter if letter.isalnum() else "-" for letter in policy.strip()) or "plain"
    image = lab.CACHE / f"image-{name}"
    for folder in ("etc/cloud", "etc/contextagent", "var/lib"):
        (image / folder).mkdir(parents=True, exist_ok=True)
    (image / "etc/cloud/cloud-init.disabled").touch()
    if policy:
        (image / "etc/contextagent/policy.yaml").write_text(policy)
        load_image_policy(Host(str(image)))
    return image


def cloud_init(work: lab.Work, kind: Literal["tuned", "default"]) -> Case:
    """Return Debian's cloud-init at this work: all four stages, tuned for it or as the distribution sets it up."""
    binds = [f"{work.folder / 'nocloud'}:/var/lib/cloud/seed/nocloud", _cloud_config("disk", kind)]
    return Case(f"cloud-init, {kind}", ["sh", "-c", _CLOUD_INIT], binds, work.by_owner, is_overlaid=True)


def metadata_cloud_init(work: lab.Work, service: Service, kind: Literal["tuned", "default"]) -> Case:
    """Return Debian's cloud-init at this work, which a metadata service brings."""
    binds = [_cloud_config("metadata", kind)]
    case = Case(f"cloud-init, {kind}", ["sh", "-c", _CLOUD_INIT], binds, work.by_owner, is_overlaid=True)
    return _at(service, case)


def _cloud_config(source: str, kind: str) -> str:
    place = "cloud.cfg" if kind == "tuned" else "cloud.cfg.d/99-bench.cfg"
    return f"{lab.CACHE / f'{source}-{kind}.cfg'}:/etc/cloud/{place}"


def _at(service: Service, case: Case) -> Case:
    return case._replace(network=service.network, service=service)
