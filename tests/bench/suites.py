"""The comparisons: which competitors do which work."""

from __future__ import annotations

from contextlib import ExitStack
from typing import get_args

from tests.bench import lab
from tests.bench.cases import (
    PYTHON,
    agent,
    cloud_init,
    floor,
    idle_agent,
    metadata_agent,
    metadata_cloud_init,
    metadata_floor,
    python_floor,
)
from tests.bench.measure import Case, Run, measure, median
from tests.bench.network import FarSide, dead, serving
from tests.bench.report import Report, Suite, report


def disk(rounds: int) -> Report:
    """Compare the boot that everything is about: 2 user and 4 site scripts."""
    work = lab.work(2, 4)
    cases = [floor(work), python_floor(work), agent(work), cloud_init(work, "tuned"), cloud_init(work, "default")]
    return _compared(Suite("a boot from a disk, both phases: 2 user and 4 site scripts", rounds, cases))


def metadata(rounds: int) -> Report:
    """Compare the same boot, brought by an EC2-style metadata service at its real address."""
    work = lab.work(2, 4)
    with ExitStack() as stack:
        service = stack.enter_context(serving(work.folder / "service"))
        packed = stack.enter_context(serving(work.folder / "service-tar"))
        strict = stack.enter_context(serving(work.folder / "service", imds="v2"))
        whole = stack.enter_context(serving(work.folder / "service-cloud-init"))
        ec2, imds = "metadata: {dialect: ec2}\n", "metadata: {dialect: ec2, imds: v2}\n"
        cases = [
            metadata_floor(work, service),
            metadata_agent(work, service, "contextagent, dialect named", ec2),
            metadata_agent(work, packed, "contextagent, same, user data a tar", ec2),
            metadata_agent(work, service, "contextagent, same, image's first start", ec2, is_new=True),
            metadata_agent(work, service, "contextagent, dialect auto"),
            metadata_agent(work, strict, "contextagent, IMDSv2 named", imds),
            metadata_agent(work, strict, "contextagent, IMDSv2 found out", ec2),
            metadata_cloud_init(work, whole, "tuned"),
            metadata_cloud_init(work, whole, "default"),
        ]
        return _compared(Suite("a boot from a metadata service, both phases: 2 user and 4 site scripts", rounds, cases))


def none(rounds: int) -> Report:
    """Compare machines that were given nothing, before the network."""
    cases = [
        Case("Python: nothing", [*PYTHON, "-c", "pass"], [], []),
        idle_agent("contextagent, no context", "pre-network", ""),
    ]
    return _compared(Suite("no context at all, pre-network", rounds, cases))


def dead_service(rounds: int) -> Report:
    """Compare machines that were given nothing, after the network, with a metadata service that is dead in some way."""
    told = {"refuses": "refuses", "silent": "is on no link", "swallows": "answers no packet"}
    with ExitStack() as stack:
        cases = [
            idle_agent("--metadata none", "post-network", "--metadata none"),
            idle_agent("no network but loopback", "post-network", ""),
        ]
        cases += [
            idle_agent(f"the service {told[kind]}", "post-network", "", stack.enter_context(dead(kind)))
            for kind in get_args(FarSide)
        ]
        return _compared(Suite("no context at all, post-network", max(rounds // 4, 2), cases))


def scripts(rounds: int) -> Report:
    """Compare many scripts, to tell what one more of them costs."""
    cases = []
    for count in (10, 100, 1000):
        work = lab.work(count // 5, count - count // 5)
        cases += [floor(work, f"dash: {count} scripts"), agent(work, f"contextagent: {count} scripts")]
    suite = Suite("many scripts", max(rounds // 3, 1), cases)
    runs = measure(suite.cases, suite.rounds)
    remarks = [f"one more script, {who}: {_per_script_ms(runs, who):.2f} ms CPU" for who in ("dash", "contextagent")]
    return report(suite, runs, *remarks)


def _per_script_ms(runs: dict[str, list[Run]], who: str) -> float:
    """Return what one more script costs, ms of CPU, between 10 of them and 1000."""
    few, many = (median(runs[f"{who}: {count} scripts"], "cpu_s") for count in (10, 1000))
    return (many - few) / 990 * 1e3


def output(rounds: int) -> Report:
    """Compare one script that prints 100 MB."""
    work = lab.work(2, 4, output_bytes=100_000_000)
    return _compared(Suite("100 MB of output", max(rounds // 3, 1), [floor(work), agent(work)]))


def _compared(suite: Suite) -> Report:
    return report(suite, measure(suite.cases, suite.rounds))
