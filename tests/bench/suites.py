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
    in_program,
    metadata_agent,
    metadata_cloud_init,
    metadata_floor,
    python_floor,
)
from tests.bench.measure import Case, measure, median
from tests.bench.network import FarSide, dead, serving
from tests.bench.report import Report, Suite, report

_COUNTS = (10, 100, 1000)


def disk(rounds: int) -> Report:
    """Compare the boot that everything is about: 2 user and 4 site scripts."""
    work = lab.work(2, 4)
    cases = [floor(work), python_floor(work), agent(work), *in_program(agent(work))]
    cases += [cloud_init(work, "tuned"), cloud_init(work, "default")]
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
        named = metadata_agent(work, service, "contextagent, dialect named", ec2)
        cases = [
            metadata_floor(work, service),
            named,
            *in_program(named),
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
    idle = idle_agent("contextagent, no context", "pre-network", "")
    cases = [Case("Python: nothing", [*PYTHON, "-c", "pass"], [], []), idle, *in_program(idle)]
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
    cases = {}
    for count in _COUNTS:
        work = lab.work(count // 5, count - count // 5)
        ours = agent(work, f"contextagent: {count} scripts")
        cases[count] = [floor(work, f"dash: {count} scripts"), ours, *in_program(ours)]
    suite = Suite("many scripts", max(rounds // 3, 1), [case for each in cases.values() for case in each])
    runs = measure(suite.cases, suite.rounds)
    remarks = []
    for few, many in zip(cases[_COUNTS[0]], cases[_COUNTS[-1]], strict=True):
        more = [
            (figure(runs[many.name]) - figure(runs[few.name])) / (_COUNTS[-1] - _COUNTS[0])
            for figure in (lambda each: median(each, "cpu_s"), lambda each: min(run.cpu_s for run in each))
        ]
        who = few.name.replace(f": {_COUNTS[0]} scripts", "")
        remarks.append(f"one more script, {who}: {more[0] * 1e3:.2f} ms CPU, by the least figures {more[1] * 1e3:.2f}")
    return report(suite, runs, *remarks)


def output(rounds: int) -> Report:
    """Compare one script that prints 100 MB."""
    work = lab.work(2, 4, output_bytes=100_000_000)
    return _compared(Suite("100 MB of output", max(rounds // 3, 1), [floor(work), agent(work)]))


def _compared(suite: Suite) -> Report:
    return report(suite, measure(suite.cases, suite.rounds))
