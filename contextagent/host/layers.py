"""The file systems of a throw-away view: this machine's, each below a layer of its own that takes what is written.

Every mount of this machine is either shown through such an overlay, or read-only, or not at all.  What the kernel alone
may show of itself (`/proc`, `/sys`) is read-only; `/dev` holds the few devices that hold nothing; `/run` and `/tmp`
begin empty, as at a boot.  All of it is mounted in a namespace of the caller's own, and nothing of it is left behind.
"""

from __future__ import annotations

import errno
import os
import stat

from contextagent.errors import RefusedError
from contextagent.host.guestos import native
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WORK = "/sys"
"""Where the caller's own namespace has its tmpfs: a folder that every machine has, and that nothing else here needs."""
VIEW = f"{WORK}/view"
FRESH = ("/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108  # of the view's own
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
_PSEUDO = frozenset(
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs mqueue nfsd "
    "nsfs proc pstore rpc_pipefs securityfs selinuxfs smackfs sysfs tracefs".split()
)
"""File systems that show the kernel, or another program; what is below them in the view is an empty folder."""
_OPTIONS = ("redirect_dir=on,metacopy=off,index=off", "redirect_dir=on", "")
"""From the newest kernels to the oldest; folders may be renamed, and a changed file is a whole one."""
_MAX_COPY_BYTES = 1 << 20
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18


class Layer(Value):
    """One file system of this machine as the view shows it.

    Attributes:
        point: Where it is, on this machine and in the view.
        upper: Folder that takes what is written, as the overlay keeps it; empty for one that begins empty.
    """

    point: str
    upper: str = ""

    @property
    def root(self) -> str:
        """Where it is seen from the caller's own namespace."""
        return VIEW + self.point.rstrip("/")


class Layers(Value):
    """What was mounted.

    Attributes:
        layers: Every file system that can be written to in the view, parents first.
        made: Paths in the view that are there from the beginning, and not on this machine.
        warnings: What can't be shown, in words.
    """

    layers: tuple[Layer, ...]
    made: frozenset[str]
    warnings: tuple[str, ...]


def refused(cause: str, error: OSError | None = None) -> RefusedError:
    """Return the error of a machine of which no view can be had."""
    detail = f": {(error.strerror or str(error)).lower()}" if error else ""
    return RefusedError(f"cannot make 'a throw-away view of this machine': {cause}{detail}", reason="no-view")


def build(keep: Iterable[str]) -> Layers:
    """Mount this machine's file systems at `VIEW`, in the caller's mount namespace, which is nobody else's.

    Args:
        keep: Real paths, files or folders, that the view shows read-only at their own place, whatever is there.

    Raises:
        RefusedError: The kernel can't do it here.
    """
    points = _points()  # before anything is mounted here
    try:
        native.mount("none", "/", "", _REC | _PRIVATE)
        native.mount("contextagent", WORK, "tmpfs", _NOSUID | _NODEV, "mode=0700")
        os.mkdir(VIEW)
    except OSError as error:
        raise refused("no mount is allowed here", error) from error
    builder = _Builder()
    builder.overlay("/")
    for point, is_shown in points:
        builder.show(point, is_shown=is_shown)
    builder.fresh()
    for path in keep:
        builder.keep(path)
    return Layers(layers=tuple(builder.layers), made=frozenset(builder.made), warnings=tuple(builder.warnings))


def _points() -> list[tuple[str, bool]]:
    """Return this machine's mount points but `/`, parents first, and whether each is one that can be shown."""
    found: dict[str, bool] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            point = before.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
            found[os.fsdecode(point)] = after.split()[0] not in _PSEUDO
    return [(point, found[point]) for point in sorted(found) if point != "/" and not is_fresh(point)]


def is_fresh(path: str) -> bool:
    """Return whether a path is below one that begins empty in the view."""
    return any(path == place or path.startswith(f"{place}/") for place in FRESH)


class _Builder:
    """A view under way."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.made: set[str] = set()
        self.warnings: list[str] = []

    def overlay(self, point: str) -> None:
        """Show a file system of this machine, with a layer over it that takes what is written.

        Raises:
            RefusedError: It is `/`, and can't be shown so.
        """
        place = f"{WORK}/{len(self.layers)}"
        layer = Layer(point=point, upper=f"{place}/upper")
        for name in ("", "/lower", "/upper", "/work"):
            os.mkdir(place + name)
        try:
            native.mount(point, f"{place}/lower", "", _BIND)
            _copy_look(point, layer.upper)
            _mount_overlay(layer, f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work")
        except OSError as error:
            if point == "/":
                raise refused(_overlay_cause(error), error) from error
            self._read_only(point)
            return
        self.layers.append(layer)

    def show(self, point: str, *, is_shown: bool) -> None:
        """Show what is mounted somewhere below `/`; what can't be shown is an empty folder, or the file beneath."""
        try:
            kind = os.stat(point).st_mode
            if not is_shown or stat.S_IFMT(os.lstat(VIEW + point).st_mode) != stat.S_IFMT(kind):
                return
        except OSError:
            return  # hidden by a later mount, or nobody may see it
        if stat.S_ISDIR(kind):
            self.overlay(point)
        else:
            self._copy(point, kind)

    def _copy(self, point: str, kind: int) -> None:
        """Put a copy in the place of a single file that is mounted, as containers have it."""
        if not stat.S_ISREG(kind) or os.stat(point).st_size > _MAX_COPY_BYTES:
            self._read_only(point)
            return
        with open(point, "rb") as file:
            data = file.read(_MAX_COPY_BYTES)
        with open(VIEW + point, "wb") as file:
            file.write(data)
        _copy_look(point, VIEW + point)

    def _read_only(self, point: str) -> None:
        try:
            _bind(point, VIEW + point)
            self.warnings.append(f"cannot let '{point}' be written to in the view, showing it read-only")
        except OSError:
            self.warnings.append(f"cannot show '{point}' in the view, leaving it out")

    def fresh(self) -> None:
        """Mount what begins empty; `/proc` and `/sys` follow with the namespaces that they show.

        Raises:
            RefusedError: The machine has none of these folders.
        """
        for point in FRESH:
            try:
                if not os.path.lexists(VIEW + point):
                    os.mkdir(VIEW + point)
                    self.made.add(point)
                elif os.path.islink(VIEW + point):
                    if point in ("/run", "/tmp"):  # noqa: S108  # a link into what is shown already
                        continue
                    raise refused(f"'{point}' is a link")
                if point in ("/dev", "/run", "/tmp"):  # noqa: S108  # the view's own
                    mode = "1777" if point == "/tmp" else "0755"  # noqa: S108  # see above
                    native.mount("contextagent", VIEW + point, "tmpfs", _NOSUID | _NODEV, f"mode={mode}")
                    self.layers.append(Layer(point=point))
            except OSError as error:
                raise refused(f"no empty '{point}' can be had", error) from error
        self._devices()

    def _devices(self) -> None:
        dev = f"{VIEW}/dev"
        for name in _DEVICES:
            if os.path.exists(f"/dev/{name}"):
                with open(f"{dev}/{name}", "x", encoding="utf-8"):
                    pass
                # a device may be written to all the same; but its owner and mode are this machine's
                _bind(f"/dev/{name}", f"{dev}/{name}", no=_NOSUID | _NOEXEC)
        for name, end in _LINKS.items():
            os.symlink(f"/proc/self/fd{end}", f"{dev}/{name}")
        os.symlink("pts/ptmx", f"{dev}/ptmx")
        for name in ("pts", "shm"):
            os.mkdir(f"{dev}/{name}")
        native.mount("devpts", f"{dev}/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
        native.mount("contextagent", f"{dev}/shm", "tmpfs", _NOSUID | _NODEV, "mode=1777")
        self.made |= {f"/dev/{name}" for name in (*_DEVICES, *_LINKS, "ptmx", "pts", "shm")}

    def keep(self, path: str) -> None:
        """Show a file or folder of this machine read-only, and where the view begins empty, its parents with it.

        Raises:
            RefusedError: It can't be shown.
        """
        try:
            if not os.path.lexists(VIEW + path):
                self._make_way(path)
            _bind(path, VIEW + path)
        except OSError as error:
            raise refused(f"'{path}' can't be shown in it", error) from error

    def _make_way(self, path: str) -> None:
        at = ""
        for part in path.split("/")[1:-1]:
            at = f"{at}/{part}"
            if not os.path.lexists(VIEW + at):
                os.mkdir(VIEW + at, 0o755)
                os.chmod(VIEW + at, 0o755)  # noqa: S103  # the way to what everybody may read
                self.made.add(at)
        if os.path.isdir(path):
            os.mkdir(VIEW + path)
        else:
            with open(VIEW + path, "x", encoding="utf-8"):
                pass
        self.made.add(path)


def _mount_overlay(layer: Layer, places: str) -> None:
    for index, options in enumerate(_OPTIONS):
        try:
            native.mount("overlay", layer.root or VIEW, "overlay", _NODEV, f"{places},{options}".rstrip(","))
        except OSError as error:
            if error.errno != errno.EINVAL or index == len(_OPTIONS) - 1:
                raise
        else:
            return


def _overlay_cause(error: OSError) -> str:
    if error.errno == errno.ENODEV:
        return "this kernel has no overlayfs"
    return "its root file system can't be the lower layer of an overlay"


def _copy_look(source: str, target: str) -> None:
    """Give a folder or file the owner and mode of another one."""
    found = os.stat(source)
    os.chown(target, found.st_uid, found.st_gid)
    os.chmod(target, stat.S_IMODE(found.st_mode))


def _bind(source: str, target: str, *, no: int = _NOSUID | _NODEV) -> None:
    native.mount(source, target, "", _BIND)
    native.mount("none", target, "", _BIND | _REMOUNT | _RDONLY | no)


def show_kernel() -> None:
    """Mount `/proc` and `/sys` of the namespaces that this process is in, read-only.

    Raises:
        OSError: As the kernel says it.
    """
    flags = _RDONLY | _NOSUID | _NODEV | _NOEXEC
    native.mount("proc", f"{VIEW}/proc", "proc", flags)
    native.mount("sysfs", f"{VIEW}/sys", "sysfs", flags)


def enter() -> None:
    """Make the view the root of this process, in a mount namespace of its own, and lose sight of everything else.

    Raises:
        OSError: As the kernel says it.
    """
    native.mount("none", "/", "", _REC | _PRIVATE)
    native.mount(VIEW, VIEW, "", _BIND | _REC)  # a mount of this namespace's own, which may become its root
    os.chdir(VIEW)
    native.pivot_root(".", ".")
    native.umount(".", 2)  # MNT_DETACH: the old root lies on top of the new one now
    os.chdir("/")
