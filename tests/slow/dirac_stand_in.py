"""In the place of `dirac-pilot.py`, which is in no package index: takes its words, variables and files as that does.

What it found is in /report.json, which has to be there for it to be written; then it ends as the Pilot does that was
given no job.
"""

from __future__ import annotations

import getopt
import json
import os
import sys
from pathlib import Path
from urllib.request import urlopen

SHORT = "a:cde:g:hkl:n:o:m:r:s:t:u:x:y:zC:D:E:F:G:K:M:N:O:P:Q:R:S:T:W:X:Z:"
LONG = """
    requiredTag= gridCEType= cert debug extraPackages= loggerURL= help keepPP project= name= option= tag= section= url=
    maxNumberOfProcessors= modules= userEnvVariables= pipInstallOptions= release= execute= CEType= pilotLogging setup=
    configurationServer= disk= commandExtensions= pilotCFGFile= Group= certLocation= MaxCycles= PollingTime= Name=
    Queue= StopOnApplicationFailure= StopAfterFailedMatches= OwnerDN= wnVO= pilotProcessors= reference= CPUTime=
    gateway= commands= commandOptions= pilotUUID= preinstalledEnv= preinstalledEnvPrefix=
    architectureScript= CVMFS_locations=
"""


def main() -> int:
    """Return the exit code."""
    options, rest = getopt.getopt(sys.argv[1:], SHORT, LONG.split())
    given = dict(options)
    try:
        processors = int(urlopen(os.path.join(os.environ["JOBFEATURES"], "allocated_cpu")).read())
    except Exception:  # noqa: BLE001  # as the Pilot: whatever it is, it takes one
        processors = 1
    settings = Path(given.get("-F", "pilot.json"))
    found = {
        "argv": sys.argv[1:],
        "rest": rest,
        "environment": dict(os.environ),
        "processors": processors,
        "settings": json.loads(settings.read_text()),
        "mode": settings.stat().st_mode & 0o777,
        "folder": str(Path.cwd()),
        "uid": os.getuid(),
        "proxy": Path(os.environ["X509_USER_PROXY"]).read_text(),
        "proxy mode": Path(os.environ["X509_USER_PROXY"]).stat().st_mode & 0o777,
    }
    for name in ("X509_CERT_DIR", "X509_VOMS_DIR", "X509_VOMSES"):
        if not os.listdir(os.environ[name]):
            sys.stdout.write(f"[ERROR] Could not find/set {name}\n")
            return 1
    Path("/report.json").write_text(json.dumps(found))
    why = "Nothing to do for more than 10 cycles"
    sys.stdout.write(f'JobAgent INFO: JobAgent will stop with message "{why}", execution complete.\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
