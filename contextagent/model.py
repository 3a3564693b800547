"""The words of the field as values: what a context is, what a plan is, what happened.

Every value is immutable, compared by content and built with keywords only.  `Value` stands in for a frozen, slotted,
keyword-only dataclass, because importing `dataclasses` alone would double the start-up cost of a boot (ADR 0002).
Closed sets are `Literal` types for the same reason: they cost nothing at run time, and mypy proves each `match` whole.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Literal, Protocol, Self, dataclass_transform

    Owner = Literal["site", "user"]
    Phase = Literal["pre-network", "post-network", "stop"]
    VerdictName = Literal["found", "absent", "unreachable", "broken"]
    Profile = Literal["unprivileged", "guarded", "root", "caller"]
    StepKind = Literal["script", "file", "account", "reload", "lockdown", "pilot"]
    Frequency = Literal["once", "every-boot"]
    ScriptState = Literal["pending", "ok", "failed", "timeout", "skipped", "refused", "interrupted"]
    PhaseState = Literal["pending", "running", "ok", "degraded", "failed", "skipped"]
    Result = Literal["running", "ok", "degraded", "failed", "none"]
    Trust = Literal["signed", "channel", "none"]
    EndReason = Literal["exit", "timeout", "limit", "oom", "abort", "agent-restart"]
    EntryKind = Literal["file", "folder", "link", "other"]
    OfferRole = Literal["script", "file", "settings", "feature", "key", "kept", "companion"]
    Voice = Literal["image", "site-disk", "site", "user"]
else:

    def dataclass_transform(**_options: object) -> Any:  # noqa: ANN401  # a decorator
        """Do nothing at run time: the type checker alone needs to know."""
        return lambda cls: cls


OWNERS: tuple[Owner, ...] = ("user", "site")
"""Owners in the order in which their scripts run: the seeds' "Site scripts are run after these!"."""
PHASES: tuple[Phase, ...] = ("pre-network", "post-network", "stop")


class _ValueType(type):
    """Turn the annotations of a class body into slots, and the assignments beside them into defaults."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _ValueType:
        own = [field for field in body.get("__annotations__", ()) if field not in ("_fields", "_defaults")]
        defaults = {field: body.pop(field) for field in own if field in body}
        body["__slots__"] = tuple(own)
        cls = super().__new__(mcs, name, bases, body)
        for base in bases:
            defaults = {**getattr(base, "_defaults", {}), **defaults}
            own = [*getattr(base, "_fields", ()), *own]
        cls._fields = tuple(own)
        cls._defaults = defaults
        return cls

    if TYPE_CHECKING:
        _fields: tuple[str, ...]
        _defaults: dict[str, object]


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=True)
class Value(metaclass=_ValueType):
    """An immutable record: fields from the annotations of the class body, given by keyword, compared by content."""

    if not TYPE_CHECKING:

        def __init__(self, **given: object) -> None:
            cls = type(self)
            for field in cls._fields:
                if field in given:
                    value = given.pop(field)
                elif field in cls._defaults:
                    value = cls._defaults[field]
                else:
                    message = f"{cls.__name__} needs {field!r}"
                    raise TypeError(message)
                object.__setattr__(self, field, value)
            if given:
                message = f"{cls.__name__} has no {', '.join(sorted(given))}"
                raise TypeError(message)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a value never changes; `replace` makes another one."""
        message = f"{type(self).__name__} is immutable"
        raise AttributeError(message)

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is of the same class with equal fields."""
        return type(self) is type(other) and self._items() == other._items()

    def __hash__(self) -> int:
        """Return a hash by content; fields that are mappings make a value unhashable, as with a dataclass."""
        return hash((type(self), self._items()))

    def __repr__(self) -> str:
        """Return `Class(field=value, …)`."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.fields())})"

    def _items(self) -> tuple[object, ...]:
        return tuple(getattr(self, field) for field in type(self)._fields)

    def fields(self) -> Iterator[tuple[str, Any]]:
        """Yield each field's name and value, in the order of the class body."""
        for field in type(self)._fields:
            yield field, getattr(self, field)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict, values as they are."""
        return dict(self.fields())

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**self.as_dict(), **changes})


class Problem(Value):
    """Something wrong, said once: a fixed word in kebab-case, a sentence to act on, and where a person wrote it."""

    reason: str
    message: str
    path: str = ""
    line: int = 0

    def text(self) -> str:
        """Return `path:line: message`, as compilers print it; without a path the message alone."""
        where = f"{self.path}:{self.line}: " if self.line else f"{self.path}: " if self.path else ""
        return where + self.message


class Entry(Value):
    """One name in a folder of a medium; `path` is relative to the medium's root, without a leading slash."""

    path: str
    kind: EntryKind
    size_bytes: int = 0
    mode: int = 0o644
    target: str = ""

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]


if TYPE_CHECKING:

    class Medium(Protocol):
        """A context's file tree, wherever it stands: a mounted disk, an ISO read by the library, a folder, a bundle.

        Paths are relative, without a leading slash; no method follows a link.
        """

        name: str
        are_links_inside: bool

        def folder(self, path: str) -> tuple[Entry, ...]:
            """Return one folder's entries in C-locale order (`""`: the root); empty where there is no such folder.

            Raises:
                BrokenSourceError: The medium can't be read there.
            """

        def read(self, path: str, *, max_bytes: int) -> bytes:
            """Return a regular file's bytes.

            Raises:
                BrokenSourceError: It is no regular file, larger than `max_bytes`, or can't be read.
            """

        def chunks(self, path: str, *, max_bytes: int) -> Iterator[bytes]:
            """Yield a regular file's bytes in pieces of at most 64 KiB; raises as `read` does."""


class Offer(Value):
    """One thing that a layout or a user-data form offers, before it is copied, bounded and digested.

    What it holds is `data`, or, where that is None, the file `path` of the medium it was found on.

    `name` means, by role: script: its name in the id (`pre-network.d/10-mount`); file: the absolute target path;
    settings: the file's name (`site.yaml`); feature: `machine/KEY` or `job/KEY`; key: the account it asks for
    (`root`, or empty for the owner's own); kept: what it is, kept and not run (`reason` says why); companion: its
    path in the owner's working folder, which holds everything of the native folder as it stood, scripts too.
    """

    owner: Owner
    role: OfferRole
    name: str
    path: str = ""
    data: bytes | None = None
    phase: Phase = "post-network"
    rank: int = 0
    mode: int = 0o644
    link: str = ""
    reason: str = ""


class Reading(Value):
    """What one layout of one medium, or one user data, said.

    Attributes:
        layout: The layout's name; for user data the form's (`mime`, `cloud-config`, …).
        offers: Everything offered, in the order found.
        user_data: Raw user data that the layout carries, still to be read by `payloads.userdata`; None if it has none.
        bundle: A tar (or tar.gz) that user data consists of, still to be extracted; None if it is no such thing.
        variables: `context.sh` variables, as they stand.
        variables_owner: Whose the variables are.
        ids: The instance's identity by kind (`vmid`, `openstack-uuid`, …); empty when the layout names none.
        requester: Who asked for the machine, as far as its meta data tells: `project`, `name`.
        warnings: What was passed over, and what happens next.
    """

    layout: str
    offers: tuple[Offer, ...] = ()
    user_data: bytes | None = None
    bundle: bytes | None = None
    variables: Mapping[str, str] = {}
    variables_owner: Owner = "site"
    ids: Mapping[str, str] = {}
    requester: Mapping[str, str] = {}
    warnings: tuple[Problem, ...] = ()


class Script(Value):
    """A script that is staged: copied to the agent's own state, where `content` is its path in the instance's folder.

    `is_user_data` says that it came as such, which cloud-init would run, too.
    """

    owner: Owner
    phase: Phase
    name: str
    rank: int
    sha512: str
    size_bytes: int
    content: str
    is_user_data: bool = False

    @property
    def id(self) -> str:
        """`owner/phase/name`: unique, and the key in plan, trace, status and settings (docs/reference/context.md)."""
        return f"{self.owner}/{self.phase}/{self.name}"


class PlacedFile(Value):
    """A file that an owner wants put at `target`; as in `Script`, but `content` is empty where `link` is set."""

    owner: Owner
    target: str
    sha512: str
    size_bytes: int
    mode: int
    content: str
    link: str = ""
    is_user_data: bool = False


class LoginKey(Value):
    """One SSH public key (a whole authorized_keys line) for an account; `account` empty means the owner's own."""

    owner: Owner
    account: str
    line: str


class Kept(Value):
    """A payload that is kept (0600) and not run, and why; `content` as in `Script`."""

    name: str
    sha512: str
    size_bytes: int
    content: str
    reason: str


class Supply(Value):
    """All that one owner supplied, from one source, staged.

    Attributes:
        source: `disk:L1+L2` (layouts sorted), `metadata:DIALECT`, `cached:…`, or `cloud-init`.
        trust: How the owner's word is known.
        settings: The owner's settings file: its name, and its text; None when there is none.
        directions: As `settings`, of a site-trusted disk that only says how to fetch what is in the rest of this.
        features: `machine/KEY` or `job/KEY` to value.
        variables: `context.sh` variables for this owner's scripts.
        user_data: Name of the user-data form that was read; empty when there was none.
        companions: Other files of the working folder: path in it, SHA-512, size.
        digest: SHA-512 over everything above, so that a changed supply is seen.
    """

    owner: Owner
    source: str
    trust: Trust = "none"
    scripts: tuple[Script, ...] = ()
    files: tuple[PlacedFile, ...] = ()
    keys: tuple[LoginKey, ...] = ()
    kept: tuple[Kept, ...] = ()
    settings: tuple[str, str] | None = None
    directions: tuple[str, str] | None = None
    features: Mapping[str, str] = {}
    variables: Mapping[str, str] = {}
    user_data: str = ""
    companions: tuple[tuple[str, str, int], ...] = ()
    digest: str = ""

    @property
    def is_material(self) -> bool:
        """Whether this is more than variables and keys, which alone end no search (docs/reference/context.md)."""
        return bool(self.scripts or self.files or self.settings or self.user_data)


class Verdict(Value):
    """What was found out about one source for one owner; `facts` are for the trace alone (its record `source`)."""

    owner: Owner
    source: str
    verdict: VerdictName
    reason: str
    duration_s: float
    facts: Mapping[str, Any] = {}


class Limits(Value):
    """A script's bounds; None means none. Units: seconds, bytes, counts."""

    wall_s: float
    cpu_s: int | None
    memory_bytes: int | None
    processes: int | None
    files: int | None
    output_bytes: int | None


class Step(Value):
    """One thing the agent will do to the machine. The plan is a sequence of these; `run` executes the same value.

    `skip` is the fixed reason why the step is not taken (`once-done`, `cloud-init`, …), or None.  The rest is for the
    runner: the staged `content`, where a file goes (`target`, `mode`, or `link`), whose keys (`target`), which
    (`lines`), how the account is had (`argument`: `there`, `make`, `sudo`); a script's `argument` and settings; what
    daemons are `told` (`collectors.Target`), when (`argument`, see `runner.logsetup`), where logs go to (`lines`).
    """

    id: str
    kind: StepKind
    owner: Owner
    phase: Phase
    sha512: str
    profile: Profile
    limits: Limits | None
    frequency: Frequency | None
    skip: str | None
    late: bool
    content: str = ""
    target: str = ""
    mode: int = 0
    link: str = ""
    lines: tuple[str, ...] = ()
    argument: str = "start"
    daemons: str = "keep"
    on_error: str = "no-pilot"
    rerun: str = ""
    told: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """A script's name: the id without owner and phase."""
        return self.id.split("/", 2)[2] if self.kind == "script" else self.id


class Plan(Value):
    """The ordered steps of one phase, or of all (`phase` None)."""

    phase: Phase | None
    steps: tuple[Step, ...]


class Ending(Value):
    """How a script ended, and what it cost. Times in seconds; `out_bytes` counts all output, also what was not kept.

    `box` is what held its process tree: `pid-namespace`, or `tree` where its descendants were followed.
    """

    state: ScriptState
    reason: EndReason
    exit_code: int | None
    signal: int | None
    wall_s: float
    user_s: float = 0.0
    sys_s: float = 0.0
    maxrss_bytes: int = 0
    out_bytes: int = 0
    out_sha512: str = ""
    killed: int = 0
    sha512_after: str = ""
    box: str = "tree"
    detail: str = ""

    @property
    def has_run(self) -> bool:
        """Whether the script was executed at all: of what was not, there is not even a digest of no output."""
        return self.reason != "abort" or bool(self.out_sha512)
