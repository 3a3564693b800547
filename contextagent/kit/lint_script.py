"""Mistakes in one script: how it starts, whether a shell can read it, and what it must not do where it runs."""

from __future__ import annotations

import re

from contextagent.kit.finding import Finding
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.host import Host
    from contextagent.kit.finding import Level
    from contextagent.model import Owner, Phase

SYNTAX_BYTES = 64 << 10
"""A longer script carries a payload behind its last line, which is no shell text."""
MAX_SLEEP_S = 30
_SHEBANG_BYTES = 255
_SHELLS = ("sh", "bash", "dash")
_KNOWN = frozenset(
    "/bin/sh /bin/bash /bin/dash /bin/sed /usr/bin/sh /usr/bin/bash /usr/bin/dash /usr/bin/sed /usr/bin/env"
    " /usr/bin/awk /usr/bin/perl /usr/bin/python3 /usr/libexec/platform-python".split()
)
_AT_START = (
    r"(?:^|[;&|({`]|\b(?:then|do|else|exec|nohup|if|while|until|time)\s|!\s|\b(?:ba|da)?sh\s+-c\s+[\"'])\s*"
    r"(?:[A-Za-z_]\w*=\S*\s+)*(?:/[\w/.-]*/)?"
)
_OPTIONS = r"(?:-\S+\s+)*"
_ACTIONS = r"(?:start|stop|restart|try-restart|condrestart|reload|force-reload)\b"
_LATER = "do it in post-network.d"
_OF_THE_NETWORK = f"the distribution brings the network up, after this phase: {_LATER}"
# systemd's own: a unit is started when what it is ordered after is done, and that may be this script's phase
_UNIT_JOBS = (
    rf"systemctl\s+{_OPTIONS}(?:{_ACTIONS}|(?:try-)?reload-or-(?:try-)?restart\b)",
    r"systemctl\s+(?=[^;&|]{0,200}--now\b)[^;&|]{0,200}?\b(?:enable|disable|reenable|mask|preset)\b",
    r"systemd-(?:run|mount)\s+(?![^;&|]{0,200}--scope)\S",
)
_NO_BLOCK = "(?![^;&|]{0,200}--no-block)"
_BLOCKING = (
    *(
        (_NO_BLOCK + job, "it waits for a unit while the boot waits for this script: add --no-block")
        for job in _UNIT_JOBS
    ),
    (
        rf"(?:service\s+\S+|(?:invoke-rc\.d|rc-service)\s+\S+|/etc/(?:rc\.d/)?init\.d/[\w.@-]+)\s+{_ACTIONS}",
        f"it waits for a service, which may wait for the network: {_LATER}, or by 'systemctl --no-block'",
    ),
    (r"(?:dhclient|dhcpcd|udhcpc|ifup|nm-online|networkctl|nmcli\s(?![^;&|]{0,200}--offline))", _OF_THE_NETWORK),
    (r"\S*wait-online\b", f"it waits for the network, which comes after this phase: {_LATER}"),
    (
        r"(?:apt|apt-get|aptitude|yum|dnf|microdnf|zypper|pip|pip3)\s",
        f"packages need the network, which comes after this phase: {_LATER}",
    ),
    (
        r"(?:curl|wget|scp|rsync|ntpdate|git\s+(?:clone|fetch|pull))\s",
        f"it needs the network, which comes after this phase: {_LATER}",
    ),
)
# In either phase: this script is a part of the boot whose end these wait for
_ENDLESS = (
    (
        r"systemctl\s+(?=[^;&|]{0,200}--wait\b)[^;&|]{0,200}?\bis-system-running\b",
        "it waits for the end of the boot, which waits for this script: start a unit of your own with --no-block",
    ),
    (
        rf"{_NO_BLOCK}systemctl\s+{_OPTIONS}(?:isolate|default|rescue|emergency)\b",
        "it waits for a target while the boot waits for this script: add --no-block",
    ),
)
_ROOT_COMMANDS = (
    "mount umount useradd adduser usermod userdel groupadd chpasswd modprobe insmod sysctl iptables ip6tables nft"
    " firewall-cmd hostnamectl mkfs mkfs.ext4 mkfs.xfs swapon shutdown reboot poweroff halt setenforce setsebool chown"
    " apt-get apt yum dnf rpm systemctl service update-ca-trust ldconfig sudo su"
).split()
_ROOT_COMMAND = re.compile(_AT_START + rf"(?P<word>{'|'.join(map(re.escape, _ROOT_COMMANDS))})(?=\s|$)")
_ROOT_TARGET = re.compile(r">>?\s*(?P<path>/(?:etc|usr|opt|root|boot|bin|sbin|lib)/[\w./-]*)")
_BLOCKERS, _WAITERS = (
    tuple((re.compile(_AT_START + rf"(?P<call>{pattern}[^;&|<>\"'`)]*)"), why) for pattern, why in each)
    for each in (_BLOCKING, _ENDLESS)
)
_LEFT_BEHIND = re.compile(r"(?:\s|\d*[<>]+(?:&\d|\s*[^\s;&|]+))*&(?!&)")
_SLEEP = re.compile(_AT_START + r"sleep\s+(?P<number>\d+)(?P<unit>[smhd]?)(?![\w.])")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SOURCED = re.compile(
    _AT_START
    + r"(?:\.|source)\s+[\"']?(?P<place>\./|\$\{?(?:CONTEXTAGENT_CONTEXT_DIR|PWD)\}?/)?(?P<name>\w[\w./-]*)"
    + r"[\"']?\s*(?:$|[;&|)#])"
)
_HERE = re.compile(r"<<(?P<dash>-?)\s*\\?[\"']?(?P<word>\w+)")
_SYNTAX = re.compile(r"^[^\n]*?:\s+(?:line\s+)?(?P<line>\d+):\s*(?P<what>[^\n]*)", re.MULTILINE)


class ScriptFile(Value):
    """One script to be looked at.

    Attributes:
        path: What to call it.
        data: Its bytes.
        owner: Whose it is.
        phase: When it runs.
        profile: With which rights its owner's scripts run.
        names: What lies in its working folder, by path within it.
        neighbours: The text of all scripts of its folder, itself included, in which a sourced file's name may be made.
    """

    path: str
    data: bytes
    owner: Owner
    phase: Phase
    profile: str = "unprivileged"
    names: frozenset[str] = frozenset()
    neighbours: str = ""


def check_script(host: Host, script: ScriptFile) -> list[Finding]:
    """Return every mistake in one script."""
    look = _Look(host, script)
    look.all()
    return look.findings


class _Look:
    """One look through a script."""

    def __init__(self, host: Host, script: ScriptFile) -> None:
        self._host = host
        self._script = script
        self._lines = script.data.decode("utf-8", "replace").split("\n")
        self.findings: list[Finding] = []

    def all(self) -> None:
        """Look for everything."""
        data = self._script.data
        if not data.strip():
            self._say("warning", "empty", "there is nothing in this script", 0)
            return
        if data.startswith(b"\x7fELF"):
            self._say(
                "error", "compiled", "it is a compiled program, which the agent does not run; call it from a script", 0
            )
            return
        interpreter = self._interpreter()
        if interpreter.rpartition("/")[2] in _SHELLS:
            if self._has_line_ends_of_windows():
                return
            self._check_syntax(interpreter)
            self._check_calls()

    def _say(self, level: Level, rule: str, message: str, line: int) -> None:
        self.findings.append(Finding(level=level, rule=rule, message=message, path=self._script.path, line=line))

    def _interpreter(self) -> str:
        """Return what the script runs by, as a path; empty where that can't be said."""
        first = self._lines[0]
        if first.startswith("\ufeff"):
            self._say(
                "error", "byte-order-mark", "a byte order mark stands before '#!': save it as UTF-8 without one", 1
            )
            return ""
        if not first.startswith("#!"):
            hint = (
                "'#!' must be the very first characters"
                if first.lstrip().startswith("#!")
                else "say so in its first line"
            )
            self._say("warning", "shebang-missing", f"no '#!' in its first line: it is run by /bin/sh; {hint}", 1)
            return "/bin/sh"
        words = first[2:].split()
        if first.endswith("\r"):
            self._say("error", "shebang-crlf", "the first line ends in CR LF (Windows line ends): nothing runs it", 1)
        elif not words:
            self._say("error", "shebang-empty", "'#!' names no interpreter", 1)
        elif not words[0].startswith("/"):
            self._say("error", "shebang-relative", f"the interpreter '{words[0]}' is no absolute path", 1)
        elif len(first.encode()) > _SHEBANG_BYTES:
            self._say("error", "shebang-long", f"the first line is longer than {_SHEBANG_BYTES} bytes", 1)
        else:
            return self._known(words)
        return ""

    def _known(self, words: list[str]) -> str:
        if words[0] == "/usr/bin/env":
            program = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
            if len(words) > 2 and words[1] != "-S":  # noqa: PLR2004  # env and one word are what the kernel splits
                self._say("error", "shebang-form", "the kernel gives env all words as one: write 'env -S'", 1)
                return ""
            return f"/usr/bin/{program}"
        if words[0] not in _KNOWN:
            self._say("warning", "shebang-unknown", f"'{words[0]}' is in few images: make sure that it is in yours", 1)
        return words[0]

    def _has_line_ends_of_windows(self) -> bool:
        for number, line in enumerate(self._lines, 1):
            if line.endswith("\r"):
                self._say(
                    "error",
                    "crlf",
                    "this line ends in CR LF (Windows line ends), which a shell takes as part of it",
                    number,
                )
                return True
        return False

    def _check_syntax(self, interpreter: str) -> None:
        """Let the shell read the script without running it; what stands behind an `exit` at the margin is data."""
        data = self._script.data
        if len(data) > SYNTAX_BYTES:
            return
        done = self._host.run([interpreter.rpartition("/")[2], "-n"], timeout_s=10, stdin=data)
        found = None if done.is_ok or done.exit_code == 127 else _SYNTAX.search(done.text())  # noqa: PLR2004  # no such shell
        if found is None:
            return
        line = int(found["line"])
        end = next(
            (number for number, text in enumerate(self._lines, 1) if re.fullmatch(r"exit(\s+\d+)?\s*;?", text)), line
        )
        if end >= line:
            what = re.sub(r"^syntax error:?\s*", "", found["what"].strip(), flags=re.IGNORECASE)
            self._say(
                "error",
                "syntax",
                f"{interpreter.rpartition('/')[2]} can't read it: {what}",
                min(line, self._last_line()),
            )

    def _last_line(self) -> int:
        """Return the last line's number: a shell counts the end of the file as one more."""
        return len(self._lines) - (not self._lines[-1])

    def _check_calls(self) -> None:
        for number, line in _commands(self._lines):
            self._check_sourced(number, line)
            if self._script.phase != "stop":
                self._check_blocking(number, line)
            if self._script.owner == "user" and self._script.profile != "root":
                self._check_rights(number, line)

    def _check_sourced(self, number: int, line: str) -> None:
        found = _SOURCED.search(line)
        if found is None:
            return
        name = found["name"]
        if not found["place"]:
            if name in self._script.names:
                message = f"a shell looks for '{name}' in PATH only, not in this folder: write './{name}'"
                self._say("error", "source-by-path", message, number)
            return
        word = re.compile(rf"(?<![\w.-]){re.escape(name.rpartition('/')[2])}(?![\w-])")
        if name not in self._script.names and len(word.findall(self._script.neighbours)) < 2:  # noqa: PLR2004  # this one
            self._say("error", "source-missing", f"there is no '{name}' in this folder, and no script makes it", number)

    def _check_blocking(self, number: int, line: str) -> None:
        is_early = self._script.phase == "pre-network"
        where = "before the network" if is_early else "during the boot"
        for pattern, why in (*_WAITERS, *_BLOCKERS) if is_early else _WAITERS:
            for found in pattern.finditer(line):
                if not _LEFT_BEHIND.match(line, found.end("call")):
                    self._say("warning", "blocking", f"'{_short(found['call'])}' {where}: {why}", number)
        nap = _SLEEP.search(line) if is_early else None
        if nap and int(nap["number"]) * _UNITS_S[nap["unit"]] > MAX_SLEEP_S:
            message = f"'sleep {nap['number']}{nap['unit']}' before the network holds up the whole boot"
            self._say("warning", "blocking", message, number)

    def _check_rights(self, number: int, line: str) -> None:
        why = "the user's scripts run as an unprivileged account (user.profile)"
        if found := _ROOT_COMMAND.search(line):
            self._say("warning", "needs-root", f"'{found['word']}' needs root, and {why}", number)
        if found := _ROOT_TARGET.search(line):
            self._say("warning", "needs-root", f"only root may write '{found['path']}', and {why}", number)


def _commands(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield each line that may hold a command, with its number: no comments, and nothing inside a here-document."""
    end: re.Match[str] | None = None
    for number, line in enumerate(lines, 1):
        if end is not None:
            if (line.lstrip("\t") if end["dash"] else line) == end["word"]:
                end = None
            continue
        code = re.sub(r"(?:^|\s)#.*", "", line).strip()
        if code:
            yield number, code
        end = _HERE.search(line) if "<<<" not in line else None


def _short(call: str) -> str:
    words = " ".join(call.split())
    return words if len(words) <= 40 else words[:40] + "…"  # noqa: PLR2004  # enough to know it by
