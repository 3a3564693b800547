"""Every key of the settings, once: its type, unit, default, who may set it, and whether it has an effect yet.

The reader, `query policy`, the error messages and docs/reference/settings.md are made from this table or tested against
it.  It is plain tuples, so that a boot pays nothing measurable for it.

A type is a tuple: its kind, then what bounds it (see `describe`).  Who may set a key is a word a voice: `I` the image's
policy, `S` the site, `D` the site by disk only, `U` the user; after the letter `<` means only tighter or earlier than
the voice above, `>` only stricter, `^` up to the ceiling, `/` only for one's own scripts, `?` only for a pilot of one's
own (`policy.userpilot`).
"""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from contextagent.model import Owner, Voice

    Type = tuple[Any, ...]

GIB = 1 << 30
MIB = 1 << 20
_MAX = (1 << 53) - 1
_TEN_YEARS_S = 315_360_000

FLAG = ("flag",)
TEXT = ("text",)
BLOCK = ("block",)
ACCOUNT = ("account",)
PATH = ("path",)
URL = ("url",)
SERVICE = ("service",)
BYTES = ("bytes", 1, _MAX)
SECONDS = ("int", "seconds", 1, _TEN_YEARS_S)
SECONDS_0 = ("int", "seconds", 0, _TEN_YEARS_S)
DAYS = ("int", "days", 1, 36_500)
EPOCH = ("int", "seconds since 1970", 0, 253_402_300_799)
COUNT = ("int", "", 1, (1 << 31) - 1)
COUNT_0 = ("int", "", 0, (1 << 31) - 1)
TEXTS = ("list", TEXT)
PATHS = ("list", PATH)
COMMAND = ("command",)
"""A program and its arguments as a list, or a text."""
VARIABLES = ("map", BLOCK, ("variable",))
NAMED_FILES = ("map", BLOCK, ("file-name",))
FILE = ("file",)
CODE = ("int", "", 100, 799)
CODES = ("map", CODE, ("exit-code",))
LOG_PATTERN = ("record", ("pattern", ("pattern",), True), ("code", CODE, True))
TRUST = ("words", "off", "prefer", "enforce")
PROFILE = ("words", "unprivileged", "guarded", "root")
SIGNER = ("record", ("subject", TEXT, True), ("issuer", TEXT, True))
LOGIN = ("record", ("name", ACCOUNT, True), ("keys", TEXTS, False), ("sudo", FLAG, False))
COLLECTOR = (
    "record",
    ("host", TEXT, True),
    ("port", ("int", "", 1, 65_535), False),
    ("protocol", ("words", "relp", "tls", "tcp", "udp"), False),
    ("ca", TEXT, False),
    ("cert", TEXT, False),
    ("key", TEXT, False),
    ("peer", TEXT, False),
)
DIALECTS = ("words", "auto", "openstack", "vac", "ec2", "nimbus", "cloudstack")
PRESET_NAMES = ("words", "standard", "strict", "vacuum", "hepix2012")
FREQUENCY = ("words", "once", "every-boot")
FRAMEWORKS = ("words", "dirac", "panda", "htcondor", "slurm", "gridengine", "alice", "glideinwms", "command")
PROTECTED = (
    *(
        "/usr",
        "/bin",
        "/sbin",
        "/lib*",
        "/boot",
        "/opt",
        "/var/lib/rpm",
        "/var/lib/dpkg",
        "/etc/ld.so.*",
        "/etc/profile.d",
    ),
    *(
        "/etc/pam.d",
        "/etc/sudoers*",
        "/etc/cron*",
        "/etc/yum.repos.d",
        "/etc/apt",
        "/etc/systemd/system",
        "/etc/init.d",
    ),
    *("/etc/modprobe.d", "/etc/environment"),
)

NOW = True
LATER = False

# key, type, default, who may set it, whether it has an effect yet, meaning
ROWS: tuple[tuple[str, Type, Any, str, bool, str], ...] = (
    ("preset", PRESET_NAMES, "standard", "I", NOW, "the defaults to start from"),
    (
        "sources",
        ("list", ("words", "disk", "metadata")),
        ("disk", "metadata"),
        "I",
        NOW,
        "where to look, in this order",
    ),
    ("disk.site_devices", ("list", ("device",)), ("rom",), "I", NOW, "disks that may speak as the site"),
    ("disk.flat_owner", ("words", "site", "user"), "site", "I", NOW, "whose the flat names on a disk are"),
    ("disk.reader", ("words", "mount", "library"), "mount", "I", NOW, "how a disk is read"),
    ("disk.expected", FLAG, False, "I", NOW, "wait 30 s, and a missing disk is broken"),
    ("disk.broken", ("words", "stop", "next"), "stop", "I", NOW, "whether a broken source ends the search"),
    ("disk.eject", FLAG, False, "I", NOW, "eject the medium once it is read"),
    ("metadata.address", SERVICE, "http://169.254.169.254", "I", NOW, "where the metadata service is"),
    ("metadata.dialect", DIALECTS, "auto", "I", NOW, "what the metadata service speaks"),
    ("metadata.imds", ("words", "auto", "v1", "v2"), "auto", "I", NOW, "version of the EC2 metadata service"),
    ("metadata.required", ("words", "auto", "yes", "no"), "auto", "I D", NOW, "whether an unreachable service fails"),
    ("metadata.bundle", ("file-name",), "default.tgz", "I D", NOW, "the site bundle's name"),
    ("metadata.connect_s", SECONDS, 5, "I", NOW, "time to the first connection"),
    ("metadata.try_s", SECONDS, 10, "I", NOW, "time for one try"),
    ("metadata.total_s", SECONDS, 60, "I", NOW, "time for all tries"),
    ("caps.members", COUNT, 1024, "I S<", NOW, "files in a bundle"),
    ("caps.member_bytes", BYTES, 16 * MIB, "I S<", NOW, "size of one file in a bundle, unpacked"),
    ("caps.total_bytes", BYTES, 64 * MIB, "I S<", NOW, "size of a bundle, unpacked"),
    ("caps.ratio", COUNT, 200, "I S<", NOW, "unpacked size by packed size"),
    ("user.profile", PROFILE, "unprivileged", "I D^", NOW, "rights of the user's scripts"),
    ("user.ceiling", PROFILE, "unprivileged", "I", NOW, "the most that `user.profile` can be"),
    ("user.account", ACCOUNT, "contextuser", "I", NOW, "account of the user's scripts"),
    ("site.profile", ("words", "guarded", "root"), "root", "I D", NOW, "rights of the site's scripts"),
    ("trust.signers", ("list", SIGNER), (), "I D", NOW, "who may sign the site's material; nothing is verified yet"),
    ("trust.ca_dir", PATH, "/etc/grid-security/certificates", "I D", LATER, "folder of CA certificates"),
    ("trust.crl", ("words", "ignore", "prefer", "require"), "prefer", "I D", LATER, "revocation lists"),
    ("trust.site", TEXT, None, "I D", LATER, "the site's name, as manifests name it"),
    ("trust.metadata", TRUST, "prefer", "I D>", NOW, "signatures on what it gives; `enforce` refuses all, yet"),
    ("trust.disk", TRUST, "off", "I D>", LATER, "signatures on what a disk gives"),
    ("access.root_keys", TEXTS, (), "S", NOW, "SSH keys that may log in as root"),
    ("access.accounts", ("list", LOGIN), (), "S", NOW, "accounts to make, with SSH keys"),
    ("ban.users", TEXTS, (), "S", LATER, "requesters whose material is refused"),
    ("ban.pilot", FLAG, False, "S", NOW, "refuse the pilot"),
    ("logging.collectors", ("list", COLLECTOR), (), "I S", NOW, "where logs go"),
    ("logging.facilities", TEXTS, ("*.info", "authpriv.*"), "I S", NOW, "what is logged"),
    ("logging.script_output", ("words", "site", "all", "none"), "site", "I S", NOW, "whose output goes to syslog"),
    ("logging.audit", FLAG, False, "I S", NOW, "audit what is executed"),
    ("logging.journal_upload", URL, None, "I S", NOW, "where the journal goes"),
    ("trace.on_full", ("words", "degrade", "strict"), "degrade", "I", NOW, "what a full disk does to user scripts"),
    ("trace.keep_days", DAYS, 90, "I", NOW, "age at which a trace may go"),
    ("environment.protect", PATHS, PROTECTED, "I", LATER, "the software environment"),
    ("environment.exclude", TEXTS, (), "I", LATER, "globs that are not part of it"),
    ("environment.on_change", ("words", "trace", "no-pilot"), "trace", "I S", LATER, "what a changed environment does"),
    ("lifetime.max_s", SECONDS, None, "I S<", NOW, "life from the first boot"),
    ("lifetime.shutdowntime", EPOCH, None, "I S< U<", NOW, "when this machine ends"),
    ("lifetime.grace_s", SECONDS_0, 600, "I S<", NOW, "least notice of an end"),
    ("image.max_age_days", DAYS, None, "I", LATER, "age at which an image has expired"),
    ("image.expired", ("words", "warn", "drain", "no-pilot"), "warn", "I", LATER, "what an expired image does"),
    ("features.machine.KEY", TEXT, None, "I S", NOW, "a machine feature; else what others say, or the machine knows"),
    ("features.job.KEY", TEXT, None, "I S", NOW, "a job feature; else what others say, or the machine knows"),
    ("watch.http", ("loopback",), "127.0.0.1:253", "I", NOW, "where features are served, or off"),
    ("lockdown", FLAG, False, "I D", LATER, "hide the context from unprivileged processes"),
    ("scripts.ID.wall_s", SECONDS, 600, "I S/ U/", NOW, "time a script may take"),
    ("scripts.ID.cpu_s", SECONDS, None, "I S/ U/", NOW, "CPU time of each of its processes"),
    ("scripts.ID.memory_bytes", BYTES, None, "I S/ U/", NOW, "memory of each of its processes"),
    ("scripts.ID.processes", COUNT, 4096, "I S/ U/", NOW, "processes"),
    ("scripts.ID.files", ("int", "", 8, 1 << 20), 1024, "I S/ U/", NOW, "open files of each of its processes"),
    ("scripts.ID.output_bytes", BYTES, 16 * GIB, "I S/ U/", NOW, "output"),
    ("scripts.ID.frequency", FREQUENCY, None, "I S/ U/", NOW, "none: every boot for a site's, once for a user's"),
    ("scripts.ID.on_error", ("words", "no-pilot", "continue"), "no-pilot", "I S/", NOW, "what its failure does"),
    ("scripts.ID.rerun", ("words", "never", "safe"), "never", "I S/ U/", NOW, "whether it runs again once interrupted"),
    ("scripts.ID.daemons", ("words", "kill", "keep"), "keep", "I S/", NOW, "what a site's script leaves running"),
    ("phase_budget_s", SECONDS, 1800, "I", NOW, "time for a phase before the network or after it"),
    ("stop_budget_s", SECONDS, 60, "I", NOW, "time for the stop phase"),
    ("pilot.from_user", FLAG, False, "I", NOW, "whether a user may bring the pilot"),
    ("pilot.framework", FRAMEWORKS, None, "I S U?", NOW, "which pilot"),
    ("pilot.user", ("account", "root"), None, "I S U?", NOW, "account it runs as"),
    ("pilot.workdir", PATH, None, "I S U?", NOW, "folder it runs in"),
    ("pilot.command", COMMAND, None, "I S U?", NOW, "what is started; none: the framework's own program"),
    ("pilot.args", ("list", BLOCK), (), "I S U?", NOW, "its arguments"),
    ("pilot.env", VARIABLES, {}, "I S U?", NOW, "its environment"),
    ("pilot.files", NAMED_FILES, {}, "I S U?", NOW, "files to be written into its folder"),
    ("pilot.features", ("words", "path", "url"), None, "I S U?", NOW, "how it is told the features"),
    ("pilot.credential.kind", TEXT, None, "I S U?", NOW, "what credential it needs"),
    ("pilot.credential.path", PATH, None, "I S U?", NOW, "where the credential is"),
    ("pilot.credential.env", ("variable",), None, "I S U?", NOW, "variable that names the credential"),
    ("pilot.credential.refresh_s", SECONDS, None, "I S U?", NOW, "how often the credential is read again"),
    ("pilot.ca_dir", PATH, None, "I S U?", NOW, "folder of CA certificates"),
    ("pilot.voms_dir", PATH, None, "I S U?", NOW, "folder of VOMS servers"),
    ("pilot.vomses", PATH, None, "I S U?", NOW, "file or folder of VOMS addresses"),
    ("pilot.instances", ("int", "", 1, 1024), None, "I S U?", NOW, "how many"),
    ("pilot.min_lifetime_s", SECONDS_0, None, "I S U?", NOW, "no start with less left"),
    ("pilot.stop.signal", ("signal",), "TERM", "I S U?", NOW, "signal that ends it"),
    ("pilot.stop.command", COMMAND, None, "I S U?", NOW, "command that ends it"),
    ("pilot.stop.timeout_s", SECONDS, 60, "I S U?", NOW, "time it has to end"),
    ("pilot.restart.max", COUNT_0, 0, "I S U?", NOW, "how often it is started again"),
    ("pilot.restart.backoff_s", SECONDS_0, None, "I S U?", NOW, "time before it is started again"),
    ("pilot.result.exit_codes", CODES, {}, "I S U?", NOW, "exit codes to shutdown codes"),
    ("pilot.result.log_patterns", ("list", LOG_PATTERN), (), "I S U?", NOW, "log patterns to shutdown codes"),
    ("pilot.result.empty_file", FILE, None, "I S U?", NOW, "file whose emptiness means no work"),
    ("pilot.on_exit", ("words", "finish", "restart", "idle"), "finish", "I S U?", NOW, "what its end does"),
    ("pilot.outputs", ("list", FILE), (), "I S U?", NOW, "logs that are handed over"),
    ("pilot.heartbeat.file", ("file-name",), None, "I S U?", NOW, "name of the heartbeat in the job outputs"),
    ("pilot.heartbeat.seconds", SECONDS, None, "I S U?", NOW, "how often it beats; 60 s without it"),
    ("pilot.require_trace", ("words", "no", "configured", "reachable"), "no", "I S U?", NOW, "no trace, no pilot"),
)
_BY_KEY = {row[0]: row for row in ROWS}
OPEN_SECTIONS = ("scripts.", "features.machine.", "features.job.")
"""Sections whose next name is the writer's own."""

LETTERS: dict[Voice, str] = {"image": "I", "site-disk": "SD", "site": "S", "user": "U"}
"""The columns in which each voice is found: a disk of the site is the site, too."""


class Key(Value):
    """One row of the table.

    Attributes:
        name: The dotted key; an open section's own name is in it, where one was asked for.
        type: Its type: kind, then bounds.
        default: What holds when nobody says anything; None means none.
        who: Who may set it, in the words of the module's first lines.
        is_supported: Whether it has an effect yet.
        meaning: One line for people.
    """

    name: str
    type: Type
    default: Any
    who: str
    is_supported: bool
    meaning: str

    def rule(self, voice: Voice) -> str | None:
        """Return how `voice` may set it: empty for freely, or one of `< > ^ / ?`; None if it may not."""
        for word in self.who.split():
            if word[0] in LETTERS[voice]:
                return word[1:]
        return None

    def setters(self) -> str:
        """Return in words who may set it."""
        names = {"I": "the image's policy", "S": "the site", "D": "the site by disk", "U": "the user"}
        words = [names[word[0]] + (" for its own scripts" if word[1:] == "/" else "") for word in self.who.split()]
        return ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else words[0]


def row_name(name: str) -> str:
    """Return the table's name of a dotted key: `scripts.site/stop/x.sh.wall_s` is `scripts.ID.wall_s`."""
    if name.startswith("scripts."):
        return f"scripts.ID.{name.rpartition('.')[2]}"
    for section in OPEN_SECTIONS[1:]:
        if name.startswith(section) and len(name) > len(section):
            return section + "KEY"
    return name


def find(name: str) -> Key | None:
    """Return the key of that dotted name; None when there is none."""
    row = _BY_KEY.get(row_name(name))
    if row is None:
        return None
    return Key(name=name, type=row[1], default=row[2], who=row[3], is_supported=row[4], meaning=row[5])


def script_key(script_id: str, field: str) -> str:
    """Return the dotted key of one field of one script's section."""
    return f"scripts.{script_id}.{field}"


def split_script_key(name: str) -> tuple[str, str] | None:
    """Return script id and field of a dotted key; None where it is no key of a script's section."""
    if not name.startswith("scripts."):
        return None
    script_id, _, field = name[len("scripts.") :].rpartition(".")
    return script_id, field


def is_script_of(name: str, owner: Owner) -> bool:
    """Whether a dotted key is in the section of a script of that owner."""
    return name.startswith(f"scripts.{owner}/")


def describe(kind: Type) -> str:
    """Return a type in the words of an error message: `it is not …`."""
    match kind[0]:
        case "words":
            return "one of " + ", ".join(kind[1:])
        case "int":
            _, unit, least, most = kind
            return f"a whole number{' of ' if unit else ''}{unit} from {least} to {most}"
        case "bytes":
            return "a whole number of bytes, or of KiB, MiB or GiB"
        case "list":
            return "a list, each " + describe(kind[1])
        case "record":
            return "a map of " + ", ".join(field if needed else f"[{field}]" for field, _, needed in kind[1:])
        case "map":
            return f"a map of {_KEYS[kind[2][0]]}, each {describe(kind[1])}"
        case _:
            return _WORDS[kind[0]]


_WORDS = {
    "flag": "yes or no",
    "text": "a text",
    "block": "a text",
    "account": "the name of an account without root's rights (a-z, 0-9, _ and -; at most 32)",
    "path": "an absolute path",
    "url": "an http or https URL",
    "service": "an http URL with a literal address",
    "file-name": "a file name without a slash",
    "device": "rom, or a device's name without a slash",
    "loopback": "127.0.0.1:PORT, or off",
    "command": "a text, or a list of texts",
    "variable": "a variable's name (letters, digits and _)",
    "file": "a path, absolute or below the pilot's folder",
    "pattern": "a text, in which * is anything",
    "signal": "a signal's name",
    "exit-code": "an exit code from 0 to 255",
}
_KEYS = {"variable": "variables", "file-name": "file names", "exit-code": "exit codes"}
