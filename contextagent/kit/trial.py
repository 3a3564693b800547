"""What a simulated boot is to be tried with: a disk or a bundle, user data, a policy; every file is looked at first."""

from __future__ import annotations

import os
import stat

from contextagent.errors import UsageError
from contextagent.model import Value
from contextagent.policy.settings import load_image_policy, merge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host

_GZIP, _TAR, _TAR_AT = b"\x1f\x8b", b"ustar", 257


class Trial(Value):
    """What is to be tried.

    Attributes:
        disk: Real path of a folder or image that stands for a ROM disk, or `none`.
        bundle: The site's bundle, or a folder to be packed into one; empty for none.
        user_data: A file; empty for none.
        policy: Real path of `--policy`; empty for this machine's own.
        bundle_name: What the policy calls the bundle.
        dialect: What the policy has the metadata service speak.
        has_stop: Whether the machine is stopped in the end.
    """

    disk: str
    bundle: str = ""
    user_data: str = ""
    policy: str = ""
    bundle_name: str
    dialect: str
    has_stop: bool = False

    @property
    def has_service(self) -> bool:
        """Whether there is anything for a metadata service to give."""
        return bool(self.bundle or self.user_data)


def read_trial(
    host: Host, path: str, *, bundle: str = "", user_data: str = "", policy: str = "", has_stop: bool = False
) -> Trial:
    """Return what is to be tried, after a look at every file.

    Args:
        host: This machine.
        path: A context disk (a folder, an image, `none`) or a bundle.
        bundle: A bundle, or a folder that becomes one.
        user_data: A file.
        policy: A file instead of the image's policy.
        has_stop: The machine is stopped in the end.

    Raises:
        UsageError: There is nothing at one of the paths, or nothing that fits.
        InvalidInputError: The policy is invalid.
    """
    disk = path
    if path != "none" and _is_bundle(path):
        if bundle:
            raise UsageError(f"cannot use '{bundle}' as the bundle: '{path}' is one already")
        disk, bundle = "none", path
    if bundle:
        _check_readable(bundle, may_be_folder=True)
    if user_data:
        _check_readable(user_data, may_be_folder=False)
    settings = merge(load_image_policy(host, policy or None, may_write=False))
    return Trial(
        disk=disk if disk == "none" else os.path.realpath(disk),
        bundle=bundle,
        user_data=user_data,
        policy=os.path.realpath(policy) if policy else "",
        bundle_name=settings["metadata.bundle"],
        dialect=settings["metadata.dialect"],
        has_stop=has_stop,
    )


def _is_bundle(path: str) -> bool:
    """Return whether a path is a bundle, and no disk.

    Raises:
        UsageError: It can't be read, or is a device.
    """
    kind = _check_readable(path, may_be_folder=True)
    if stat.S_ISDIR(kind):
        if os.path.realpath(path) == "/":
            raise UsageError("cannot use '/' as a disk: it is this machine itself")
        return False
    with open(path, "rb") as file:
        head = file.read(_TAR_AT + len(_TAR))
    return head.startswith(_GZIP) or head[_TAR_AT:] == _TAR


def _check_readable(path: str, *, may_be_folder: bool) -> int:
    """Return a path's mode.

    Raises:
        UsageError: It can't be used.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not (may_be_folder and stat.S_ISDIR(mode)):
            wanted = "neither a file nor a folder" if may_be_folder else "not a file"
            raise UsageError(f"cannot use '{path}': {wanted}", hint="of a device, simulate with a copy: dd if=DEVICE")
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(f"cannot use '{path}': {(error.strerror or str(error)).lower()}") from error
    return mode
