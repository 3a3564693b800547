"""A throw-away view of this machine: the same files, but nothing that is done there is done here.

Mount, PID, network, IPC and UTS namespaces belong to a user namespace with every account of this machine in it, so
that root of the view is root of these namespaces and of nothing else: it may mount a tmpfs, set up links and make
accounts, but load no module, set no clock, make no device.  Since it still owns what root owns, files that the kernel
shows are read-only there, and its mounts are locked by the kernel against being undone (mount_namespaces(7)).

Process 1 of the view (`inside`) starts what it is told to.  It ends when this program does, however that is, and the
kernel ends everything else of the view with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import struct

from contextagent import jsontext
from contextagent.errors import ContextAgentError
from contextagent.host import inside, layers, program
from contextagent.host.guestos import native
from contextagent.host.layers import refused
from contextagent.host.sockets import daemon_sockets
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 1 << 17, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30
_ALL_IDS = "0 0 4294967295\n"
_NO_MORE = ("user", "cgroup")
"""Kinds of namespaces that nobody in the view may make: they would open parts of the kernel that it has no use for."""
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _CAP_SYS_BOOT = 1, 24, 22
_SIGKILL = 9
_MAX_OUTPUT_BYTES = 4 << 20
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _IFF_UP = 0x8914, 0x8916, 0x891C, 1


class Ended(Value):
    """How a program in the view ended: its exit code (negative: the signal), and the beginning of what it wrote."""

    exit_code: int
    out: str
    err: str


class View:
    """A view of this machine.  This process gets a mount namespace of its own for it, and has to end with it.

    Args:
        lent: Real paths that are shown read-only, like a disc in a drive.
        needed: Real paths that are shown in any case, read-only where the view begins empty.
        without: Paths that the view shows as if they had never been.

    Attributes:
        layers: Where what was written is found, once the view has been closed.
        made: Paths that were there from the beginning, and are not on this machine.
        hidden: Paths of this machine's daemons' sockets, which the view shows as little as what was to be left out.
        warnings: What is not as on this machine.

    Raises:
        RefusedError: No view can be had here.
    """

    def __init__(self, *, lent: Sequence[str], needed: Sequence[str], without: Sequence[str]) -> None:
        if os.geteuid() != 0:
            raise refused("only root may make one")
        self.hidden = tuple(daemon_sockets())
        try:
            native.unshare(_NEWNS)
        except OSError as error:
            raise refused("no mount namespace is allowed here", error) from error
        _raise_limits()
        built = layers.build((*filter(layers.is_fresh, needed), *lent))
        self.layers, self.made, self.warnings = built.layers, built.made, built.warnings
        self._out = os.open(layers.WORK, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._err = os.open(layers.WORK, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._keeper = os.fork()
        if self._keeper == 0:
            _in_child(lambda: self._keep(orders, answers))
        os.close(orders)
        os.close(answers)
        self._net = -1
        try:
            self._begin()
            self._order({"forget": [*without, *self.hidden]})
        except BaseException:
            self.close()
            raise

    def run(self, argv: Sequence[str]) -> Ended:
        """Run a program in the view, as its root and without input, and wait for it.

        Raises:
            ContextAgentError: The view is gone.
        """
        code = self._order({"run": list(argv)})
        out, err = (os.pread(fd, _MAX_OUTPUT_BYTES, 0).decode("utf-8", "replace") for fd in (self._out, self._err))
        return Ended(exit_code=code, out=out, err=err)

    def read(self, path: str, *, max_bytes: int) -> bytes | None:
        """Return the end of a file in the view, at most `max_bytes` of it; None where there is no such file.

        Raises:
            ContextAgentError: The view is gone.
        """
        code = self._order({"read": path, "max": max_bytes})
        return None if code else os.pread(self._out, max_bytes, 0)

    def _order(self, order: dict[str, object]) -> int:
        for fd in (self._out, self._err):
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
        self._tell(order)
        return int(self._hear()["code"])

    def close(self) -> None:
        """End everything in the view; what was written stays until this process ends.  A second call does nothing."""
        if self._keeper:
            for fd in (self._orders, self._answers, self._out, self._err, *([self._net] if self._net >= 0 else [])):
                os.close(fd)
            os.waitpid(self._keeper, 0)  # it ends after process 1 of the view, which ends after everything else there
            self._keeper = 0

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Let this process make sockets in the view's network; those that are made stay there."""
        own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            native.setns(self._net, _NEWNET)
            yield
        finally:
            native.setns(own, _NEWNET)
            os.close(own)

    @contextlib.contextmanager
    def address(self, address: str) -> Iterator[None]:
        """Let the view's network have an address, on its loopback link: no other can be made without a module."""
        with self.network():
            _set_link("lo:0", _SIOCSIFADDR, address)
            _set_link("lo:0", _SIOCSIFNETMASK, "255.255.255.255")
        try:
            yield
        finally:
            with self.network(), contextlib.suppress(OSError):  # the view's root may have taken it away
                _set_link("lo:0", _SIOCSIFFLAGS, 0)

    def room(self) -> tuple[int, int]:
        """Return how many bytes the view's writes may take, and how many are left."""
        found = os.statvfs(layers.WORK)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    # How a view begins, from the outside.

    def _begin(self) -> None:
        """Take the view's first process through its beginning.

        Raises:
            RefusedError: The kernel refuses a step.
        """
        self._hear()  # it has its namespaces
        try:
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{self._keeper}/{name}", "w", encoding="ascii") as file:
                    file.write(_ALL_IDS)
        except OSError as error:
            raise refused("its accounts can't be had in a user namespace", error) from error
        self._tell({})
        init = int(self._hear()["pid"])
        self._net = os.open(f"/proc/{init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._show_kernel(init)
            with self.network():
                _set_link("lo", _SIOCSIFFLAGS, _IFF_UP)
        except OSError as error:
            raise refused("its /proc, /sys or network can't be had", error) from error
        self._tell({})

    def _show_kernel(self, init: int) -> None:
        """Mount `/proc` and `/sys` by a child that is in the view's PID and network namespaces, and still ours."""
        pids = os.open(f"/proc/{init}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            native.setns(pids, _NEWPID)
            native.setns(self._net, _NEWNET)
            inner = os.fork()
            if inner == 0:
                _in_child(layers.show_kernel)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        os.close(pids)
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise OSError(code, os.strerror(code))

    def _tell(self, message: dict[str, object]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died, which the answer will show
            os.write(self._orders, jsontext.dumps(message).encode() + b"\n")

    def _hear(self) -> dict[str, int | str]:
        """Return the view's next answer.

        Raises:
            RefusedError: It could not begin.
            ContextAgentError: It has died.
        """
        line = inside.read_line(self._answers)
        if not line:
            raise ContextAgentError("cannot go on with 'the view': its first process has died", reason="view-died")
        answer: dict[str, int | str] = jsontext.loads(line)
        if "refused" in answer:
            number = int(answer["errno"])
            raise refused(str(answer["refused"]), OSError(number, os.strerror(number)))
        return answer

    # The same, from the inside.

    def _keep(self, orders: int, answers: int) -> None:
        """Make the namespaces, start their first process, and wait for it."""
        native.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        for fd in (self._orders, self._answers):
            os.close(fd)
        try:
            native.unshare(_NEWUSER | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS)
        except OSError as error:
            inside.answer(answers, {"refused": "the kernel allows no user namespace here", "errno": error.errno})
            return
        inside.answer(answers, {})
        inside.read_line(orders)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        pid = os.fork()
        if pid == 0:
            _in_child(lambda: self._init(orders, answers))
        inside.answer(answers, {"pid": pid})
        os.close(orders)
        os.close(answers)
        os.waitpid(pid, 0)

    def _init(self, orders: int, answers: int) -> None:
        """Become process 1 of the view: `inside`, run by the view's own Python.

        Nothing of this machine's may be left open in it: the view's root could reach through it.
        """
        native.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if not inside.read_line(orders):
            return
        try:
            os.setsid()  # no terminal of ours is theirs
            for kind in _NO_MORE:
                _forbid(kind)
            native.unshare(_NEWNS)
            layers.enter()
            native.prctl(_PR_CAPBSET_DROP, _CAP_SYS_BOOT)  # it would end the view
            with contextlib.suppress(OSError):
                native.new_keyring()  # a kernel without keys needs none
            inside.become(program.python(), program.path(), (orders, answers, self._out, self._err))
        except OSError as error:
            inside.answer(answers, {"refused": "its root can't be entered", "errno": error.errno})


def _in_child(work: Callable[[], None]) -> NoReturn:
    """Do the work and end: nothing of the parent's may run on in its copy.  The exit code is an errno."""
    code = 1
    try:
        work()
        code = 0
    except OSError as error:
        code = error.errno or 1
    finally:
        os._exit(code)


def _raise_limits() -> None:
    """Let this process have what an init has: in the view nobody can raise a limit any more."""
    with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
        most = int(file.read())
    for kind, wanted in ((resource.RLIMIT_NOFILE, most), (resource.RLIMIT_NPROC, resource.RLIM_INFINITY)):
        soft, hard = resource.getrlimit(kind)
        if hard not in (wanted, resource.RLIM_INFINITY):
            with contextlib.suppress(OSError, ValueError):  # root without that right: as `run` would fare here
                resource.setrlimit(kind, (soft, wanted))


def _forbid(kind: str) -> None:
    """Let nobody below this user namespace make a namespace of a kind."""
    with (
        contextlib.suppress(FileNotFoundError),  # before Linux 4.9, which had fewer kinds as well
        open(f"/proc/sys/user/max_{kind}_namespaces", "w", encoding="ascii") as file,
    ):
        file.write("0")


def _set_link(name: str, request: int, value: str | int) -> None:
    """Give a link flags (a number) or an IPv4 address, in the network that this process is in."""
    if isinstance(value, str):
        argument = struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(value))
    else:
        argument = struct.pack("16sH14x", name.encode(), value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        fcntl.ioctl(made, request, argument)
