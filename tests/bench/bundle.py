"""Large bundles: the agent beside `curl` to a file and `tar xzf`, which digest, judge and record nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import lab
from tests.bench.cases import metadata_agent
from tests.bench.measure import Case, measure
from tests.bench.network import serving
from tests.bench.report import Report, Suite, report
from tests.large import POLICY, make_large_bundle

if TYPE_CHECKING:
    from tests.bench.network import Service

_SIZES = {"100 MB": 100_000_000, "1 GB": 1_000_000_000}
_PLACED_BYTES = 10_000_000
"""Of all of it, for the file that the bundle has put in place, so that it is there three times."""
_ORDER = ["prolog.sh", "epilog.sh"]
_FLOOR = """
set -e
mkdir -p /var/lib/floor
cd /var/lib/floor
curl -sf --connect-timeout 2 -o default.tgz http://169.254.169.254/context/default.tgz
tar xzf default.tgz
./prolog.sh start
./epilog.sh start
"""


def bundle(rounds: int) -> Report:
    """Compare boots with a bundle of 100 MB and of 1 GB that no packer makes smaller."""
    reports = [_compared(name, size, max(rounds // 2, 1)) for name, size in _SIZES.items()]
    return Report(
        "\n\n".join(each.text for each in reports),
        {name: each.figures for name, each in zip(_SIZES, reports, strict=True)},
        all(each.is_right for each in reports),
    )


def _compared(name: str, size_bytes: int, rounds: int) -> Report:
    with tempfile.TemporaryDirectory(dir=lab.CACHE) as place:
        folder = Path(place)
        (folder / "context").mkdir()
        (folder / "latest/meta-data").mkdir(parents=True)
        (folder / "latest/meta-data/instance-id").write_text("i-0001\n")
        scripts = {each: f"#!/bin/sh\necho {each} >>/run/bench.order\n" for each in _ORDER}
        packed = folder / "context/default.tgz"
        make_large_bundle(packed, scripts, companion_bytes=size_bytes - _PLACED_BYTES, placed_bytes=_PLACED_BYTES)
        with serving(folder) as service:
            suite = Suite(f"a site's bundle of {name} from a metadata service, both phases", rounds, _cases(service))
            return report(suite, measure(suite.cases, suite.rounds))


def _cases(service: Service) -> list[Case]:
    work = lab.Work(lab.CACHE, _ORDER, _ORDER)
    floor = Case("dash: curl to a file, tar xzf, run", ["sh", "-c", _FLOOR], [], _ORDER)
    return [
        floor._replace(network=service.network, service=service),
        metadata_agent(work, service, "contextagent", POLICY),
    ]
