# What the C part offers; its docstrings say what each does.

OWN_PIDS: int
KEEP_DAEMONS: int
OWN_ACCOUNT: int
RLIMIT_AS: int
RLIMIT_CORE: int
RLIMIT_CPU: int
RLIMIT_NOFILE: int
RLIMIT_NPROC: int

def spawn(
    argv: tuple[bytes, ...],
    environment: tuple[bytes, ...],
    folder: str,
    fds: tuple[int, int, int],
    rights: tuple[int, int],
    limits: tuple[tuple[int, int, int], ...],
    flags: int,
    /,
) -> tuple[int, int]: ...
def mount(source: str, target: str, kind: str, flags: int, /) -> None: ...
def umount(target: str, flags: int, /) -> None: ...
def prctl(option: int, value: int, /) -> None: ...
def reserve(fd: int, start: int, size: int, /) -> None: ...
def clock_status() -> int: ...
