"""What a machine says about itself: clocks, boot, kernel, DMI; and its console."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host.files import Files

_OWN = "/contextagent"
_MEMORY = "/proc/meminfo"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_DMI_NAMES = ("sys_vendor", "product_name", "bios_vendor", "bios_version", "chassis_asset_tag")
_CLOUDS = (
    *("amazon", "openstack", "cloudstack", "opennebula", "nimbus", "google", "alibaba", "digitalocean", "oraclecloud"),
    *("exoscale", "scaleway", "hetzner", "vultr", "upcloud"),
)
"""Words in the DMI of clouds that answer at 169.254.169.254; Azure's are every Hyper-V's as well, and say nothing."""
_MAX_BYTES = 1 << 16
_STA_UNSYNC = 0x40
"""`STA_UNSYNC` of adjtimex(2)."""


def utc_ns() -> int:
    """Return the wall clock, nanoseconds since the epoch."""
    return time.time_ns()


def mono_ns() -> int:
    """Return the monotonic clock in nanoseconds."""
    return time.monotonic_ns()


def boot_ns() -> int:
    """Return the clock since boot in nanoseconds, sleep included; kernels before 2.6.39 have only the one without."""
    try:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    except OSError:
        return time.monotonic_ns()


def cpus() -> int:
    """Return how many CPUs the machine has that it may use; at least 1."""
    return os.cpu_count() or 1


def memory_bytes(files: Files) -> tuple[int, int]:
    """Return how much memory and how much swap the machine has; 0 where it does not say."""
    text = _text(files, _MEMORY) or _real_text(_MEMORY)
    return _memory(text, "MemTotal:"), _memory(text, "SwapTotal:")


def _memory(text: str, name: str) -> int:
    words = text.partition(name)[2].partition("\n")[0].split()
    return int(words[0]) * 1024 if words and words[0].isdigit() else 0


def is_clock_synchronised() -> bool:
    """Return whether the kernel's clock is marked as kept by a time service (adjtimex(2), STA_UNSYNC clear)."""
    from contextagent.host.guestos import native  # noqa: PLC0415  # a missing C part fails here, not at import

    return not native.clock_status() & _STA_UNSYNC


def boot_id(files: Files) -> str:
    """Return this boot's id; a root without one shows this machine's, since the boot is the same."""
    return (_text(files, _BOOT_ID) or _real_text(_BOOT_ID)).strip()


def kernel_release() -> str:
    """Return the running kernel's release, as `uname -r`."""
    return os.uname().release


def kernel_words(files: Files) -> tuple[str, ...]:
    """Return the words of the kernel's command line."""
    return tuple((_text(files, "/proc/cmdline") or _real_text("/proc/cmdline")).split())


def product_uuid(files: Files) -> str:
    """Return the DMI product UUID; below another root only what is there, or every trial would share an identity."""
    return _text(files, "/sys/class/dmi/id/product_uuid").strip().lower()


def is_cloud(files: Files) -> bool:
    """Return whether DMI names a cloud whose machines have a metadata service."""
    said = [_text(files, f"/sys/class/dmi/id/{name}").strip().lower() for name in _DMI_NAMES]
    return any(word in text for text in said for word in _CLOUDS) or product_uuid(files).startswith("ec2")


def run_folder(files: Files) -> tuple[str, bool]:
    """Return the folder for the agent's state of this boot, and whether what is in it outlives the boot.

    It is below `/run` where that is a file system of its own without a disk, as since systemd; else below `/var/run`,
    as on SL5 and SL6.  Below another root nothing is a mount: there `/run` will do, unless `/var/run` alone is there.
    """
    if files.root != "/":
        old = files.real("/var/run")  # a link is what newer systems have there
        is_old = os.path.isdir(old) and not os.path.islink(old) and not files.exists("/run")
        return ("/var/run" if is_old else "/run") + _OWN, True
    try:
        device = os.stat("/run").st_dev
        is_in_memory = os.major(device) == 0 and device != os.stat("/").st_dev
    except OSError:
        is_in_memory = False
    return ("/run" if is_in_memory else "/var/run") + _OWN, not is_in_memory


def caller() -> tuple[int, int]:
    """Return the effective uid and gid of this process."""
    return os.geteuid(), os.getegid()


def oom_kills() -> int:
    """Return the kernel's count of out-of-memory kills (/proc/vmstat, since Linux 4.13); 0 where there is none."""
    _, _, after = _real_text("/proc/vmstat").partition("\noom_kill ")
    return int(after.partition("\n")[0] or 0)


def announce(text: str) -> None:
    """Put one line on the console and in the kernel's log; what can't be written there is told nowhere else."""
    line = "contextagent: " + "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
    for path, data in (("/dev/console", line + "\r\n"), ("/dev/kmsg", "<5>" + line + "\n")):
        try:
            # O_NONBLOCK: a serial console whose other side has stopped would hold up the boot
            fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            os.write(fd, data.encode())
        except OSError:
            continue
        finally:
            os.close(fd)


def _text(files: Files, path: str) -> str:
    """Return a file's text below the root; empty when there is none."""
    # /sys/class/dmi/id is itself a link, so only the last component is kept from being one
    try:
        return files.read(path, max_bytes=_MAX_BYTES).decode("ascii", "replace")
    except OSError:
        return ""


def _real_text(path: str) -> str:
    try:
        with open(path, "rb") as file:  # opened as text it would cost a boot another module
            return file.read(_MAX_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
