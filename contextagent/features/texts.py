"""What login shells are told: where features and job outputs are."""

from __future__ import annotations

from contextagent.features.values import JOB_FEATURES, MACHINE_FEATURES

_BY = "# Machine and job features, and where job outputs go; written again at each boot"


def profiles(outputs: str) -> dict[str, str]:
    """Return path to text of what the shells of both families read at a login.

    Args:
        outputs: An address or a folder without a quote or a blank in it.
    """
    told = {"MACHINEFEATURES": MACHINE_FEATURES, "JOBFEATURES": JOB_FEATURES, "JOBOUTPUTS": outputs}
    sh = "".join(f"{name}='{place}'\nexport {name}\n" for name, place in told.items())
    # csh looks for its history within quotes, too
    csh = "".join(f"setenv {name} '{place.replace('!', chr(92) + '!')}'\n" for name, place in told.items())
    return {"/etc/profile.d/mjf.sh": f"{_BY}\n{sh}", "/etc/profile.d/mjf.csh": f"{_BY}\n{csh}"}
