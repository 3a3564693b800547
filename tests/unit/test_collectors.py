"""What each log daemon is told: the fixtures' texts, the house rule that none lacks one, and words that stay words."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contextagent.collectors import (
    BEGIN,
    DAEMONS,
    END,
    Collector,
    Logging,
    Machine,
    Target,
    load,
    targets,
    with_block,
    without_block,
)
from contextagent.collectors.words import links, selected, selectors
from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURES = REPOSITORY / "tests/fixtures/collectors"
HELPERS = {"asked", "rsyslog_legacy", "words"}
ROWS = (REPOSITORY / "docs/reference/logging.md").read_text()
REAL = "".join(path.read_text() for path in sorted((REPOSITORY / "tests/slow").glob("test_log_*daemons.py")))
RSYSLOGS = ("5.8.10", "7.4.4", "8.24.0", "8.2302.0")


def asked(daemon: str) -> tuple[Logging, Machine]:
    """Return what a fixture asks of which machine."""
    given = json.loads((FIXTURES / daemon / "asked.json").read_text())
    logging: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in given["logging"].items()
    }
    if "collectors" in logging:
        logging["collectors"] = tuple(Collector(**each) for each in logging["collectors"])
    return Logging(**logging, boot_id="5a1f0c9e"), Machine(**given["machine"])


def told(daemon: str, logging: Logging, machine: Machine) -> Target:
    target = load(daemon).target(logging, machine)
    assert target
    return target


def machines() -> Iterator[tuple[str, Machine]]:
    """Yield every daemon with the machine of its fixture, rsyslog in each of its generations."""
    for daemon in DAEMONS:
        machine = asked(daemon)[1]
        for version in RSYSLOGS if daemon == "rsyslog" else ("",):
            yield daemon, machine.replace(versions={daemon: version})


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_daemon_has_a_fixture_with_a_readme_a_test_with_the_real_one_and_a_row_in_the_reference(daemon: str) -> None:
    readme = FIXTURES / daemon / "README.md"
    assert readme.is_file(), f"{readme} is missing"
    assert "From: " in readme.read_text(), f"{readme} does not say where it comes from"
    assert "Changed: " in readme.read_text(), f"{readme} does not say what was changed"
    assert f'.tell("{daemon}"' in REAL, f"no test tells a real {daemon}"
    paths = [file.path for file in told(daemon, *asked(daemon)).files]
    row = next((line for line in ROWS.splitlines() if line.startswith("|") and f"`{paths[0]}`" in line), "")
    assert row, f"docs/reference/logging.md has no row for {paths[0]}"
    for name in (word.rpartition("/")[2] for word in told(daemon, *asked(daemon)).check[:1]):
        assert f"`{name} " in row, f"the row of {daemon} does not say that {name} checks it"


def test_no_fixture_and_no_module_speaks_of_a_daemon_that_is_not_there() -> None:
    assert {path.name for path in FIXTURES.iterdir()} == set(DAEMONS)
    modules = {path.stem for path in (REPOSITORY / "contextagent/collectors").glob("[a-z]*.py")}
    assert modules == set(DAEMONS) | HELPERS


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_daemon_is_told_what_its_fixture_says(daemon: str) -> None:
    logging, machine = asked(daemon)
    placed = {
        file.path: with_block(machine.texts.get(file.path, ""), file.text) if file.is_block else file.text
        for file in told(daemon, logging, machine).files
    }
    root = FIXTURES / daemon / "told"
    assert placed == {f"/{path.relative_to(root)}": path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_machine_that_is_asked_nothing_is_told_nothing() -> None:
    for _, machine in machines():
        assert targets(Logging(), machine) == ()


@pytest.mark.parametrize("daemon", [name for name in DAEMONS if name not in ("journal_upload", "auditd")])
def test_a_machine_without_a_daemon_is_told_nothing_of_it(daemon: str) -> None:
    logging, _ = asked(daemon)
    assert load(daemon).target(logging, Machine(programs={})) is None


def test_what_was_asked_and_is_not_there_is_said() -> None:
    asking = Logging(audit=True, journal_upload="https://journal.site.example")
    found = targets(asking, Machine(programs={}))
    assert [(target.files, [problem.reason for problem in target.problems]) for target in found] == [
        ((), ["no-upload"]),
        ((), ["no-audit"]),
    ]


@pytest.mark.parametrize("init", ["systemd", "sysv"])
def test_every_command_asks_for_nothing_that_a_boot_would_wait_for(init: str) -> None:
    for daemon, machine in machines():
        logging, _ = asked(daemon)
        target = load(daemon).target(logging, machine.replace(init=init))
        for command in (target.take_up, target.bring_back) if target else ():
            assert "systemctl" not in command or "--no-block" in command
            assert init == "systemd" or "systemctl" not in command


ODD = "\"'\\$%{}()[];,#&|@!~=+* \t\r\n\0\x1b\x7fé\u2028\u202e"
WORDS = st.text(st.sampled_from(f"aZ09.-_:/{ODD}"), max_size=24)
TAME = st.from_regex(r"/?[a-zA-Z0-9._:-]{1,12}", fullmatch=True)
ALMOST_TAME = st.builds("{}{}{}".format, TAME, st.sampled_from(ODD), TAME)
FIELDS = st.one_of(st.just(""), TAME, ALMOST_TAME, WORDS)
COLLECTORS = st.builds(
    Collector,
    host=st.one_of(TAME, ALMOST_TAME, WORDS),
    port=st.integers(0, 65_535),
    protocol=st.sampled_from(["relp", "tls", "tcp", "udp"]),
    ca=FIELDS,
    cert=FIELDS,
    key=FIELDS,
    peer=FIELDS,
)


def shape(text: str) -> str:
    """Return a configuration with each word of it as one letter: what is left is its grammar."""
    return re.sub(r"[A-Za-z0-9._:/@+=,*-]+", "w", text)


def harmless(collector: Collector) -> Collector:
    """Return a collector of the same kind whose words mean nothing to any daemon."""
    host = "::1" if ":" in collector.host else "host"
    return Collector(
        host=host,
        port=collector.port,
        protocol=collector.protocol,
        peer="" if not collector.peer else host if collector.peer == collector.host else "peer",
        **{name: f"/{name}" if getattr(collector, name) else "" for name in ("ca", "cert", "key")},
    )


@given(COLLECTORS)
@example(Collector(host='a"\n$ModLoad omprog\n'))
@example(Collector(host="a)", protocol="udp"))
def test_a_collector_is_refused_or_its_words_change_nothing_but_themselves(collector: Collector) -> None:
    is_refused = not links([collector])[0]
    for daemon, machine in machines():
        if daemon not in ("rsyslog", "sysklogd", "syslog_ng"):
            continue
        target = told(daemon, Logging(collectors=(collector,), boot_id="1"), machine)
        if is_refused:
            assert not target.files
            assert [problem.reason for problem in target.problems] == ["bad-collector"]
            assert target.problems[0].message.isprintable()
            continue
        model = told(daemon, Logging(collectors=(harmless(collector),), boot_id="1"), machine)
        assert [shape(file.text) for file in target.files] == [shape(file.text) for file in model.files]


@given(st.lists(WORDS, max_size=4))
@example(["*.info @evil\n*.*"])
@example(['*.info") then { action(type="omprog"'])
def test_selectors_are_those_of_syslog_conf_or_refused(facilities: list[str]) -> None:
    chosen, problems = selectors(facilities)
    assert chosen[-1] == "authpriv.*"
    assert all(re.fullmatch(r"[a-z0-7*,]+\.!?=?[a-z*]+", each) for each in chosen)
    assert all(problem.message.isprintable() for problem in problems)


@pytest.mark.parametrize(
    ("facilities", "chosen"),
    [((), ()), (("*",), ("*.info",)), (("bad", "mail.err"), ("mail.err",)), (("authpriv.*",), ())],
)
def test_a_slip_of_the_pen_does_not_end_all_logging(facilities: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    assert selectors(facilities)[0] == (*chosen, "authpriv.*")


@given(st.text(max_size=40))
@example("https://a.example/\nURL=http://evil")
def test_a_url_for_the_journal_is_refused_or_one_word(url: str) -> None:
    target = load("journal_upload").target(Logging(journal_upload=url), asked("journal_upload")[1])
    if target and target.files:
        assert target.files[0].text.splitlines()[-1] == f"URL={url}"
        assert len(target.files[0].text.splitlines()) == 3


@pytest.mark.parametrize(
    ("chosen", "facility", "severities"),
    [
        ("*.info", "cron", "emerg alert crit err warning notice info"),
        ("*.info;cron.none", "cron", ""),
        ("*.info;cron.!err", "cron", "warning notice info"),
        ("*.info;cron.!=info", "cron", "emerg alert crit err warning notice"),
        ("mail,cron.=debug", "cron", "debug"),
        ("security.panic", "auth", "emerg"),
        ("kern.*", "cron", ""),
    ],
)
def test_selectors_mean_what_they_mean_to_a_classic_syslogd(chosen: str, facility: str, severities: str) -> None:
    assert selected(chosen.split(";"))[facility] == tuple(severities.split())


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"protocol": "tls"}, "without a 'ca' nobody knows who answers"),
        ({"ca": "/a"}, "RELP inside TLS takes a 'cert' and a 'key'"),
        ({"protocol": "tcp", "ca": "/a"}, "'tls' has"),
        ({"protocol": "tls", "ca": "/a", "cert": "/b"}, "go together"),
        ({"protocol": "tls", "ca": "a"}, "no absolute path"),
        ({"host": "--help"}, "no name and no address"),
        ({"port": 65_536}, "is no port"),
    ],
)
def test_a_collector_that_would_be_less_than_it_says_is_refused_with_the_cause(
    given: dict[str, Any], cause: str
) -> None:
    found, problems = links([Collector(**{"host": "collector.site.example", **given})])
    assert found == ()
    assert cause in problems[0].message


@pytest.mark.parametrize("odd", [char for char in ODD if char not in "=+@,*"])
@pytest.mark.parametrize("field", ["host", "ca", "cert", "key", "peer"])
def test_no_character_that_a_configuration_could_take_for_its_own_gets_into_it(field: str, odd: str) -> None:
    good = Collector(host="host", protocol="tls", ca="/ca", cert="/cert", key="/key", peer="peer")
    assert links([good])[0]
    assert not links([good.replace(**{field: f"{getattr(good, field)}{odd}x"})])[0]


LINES = st.lists(st.sampled_from(["*.* /var/log/all\n", "# a comment\n", "\n", "last line without an end"]), max_size=4)


@given(LINES, st.sampled_from(["a @host\n", "one\ntwo\n", ""]))
def test_our_lines_in_a_file_of_others_come_and_go_and_leave_the_rest_alone(lines: list[str], block: str) -> None:
    current = "".join(lines)
    placed = with_block(current, block)
    assert placed.startswith(current)
    assert placed.endswith(f"{BEGIN}\n{block}{END}\n")
    assert with_block(placed, block) == placed
    assert without_block(placed).rstrip("\n") == current.rstrip("\n")


def test_of_a_block_that_lost_its_end_only_what_is_known_as_ours_goes() -> None:
    current = f"*.* /a\n{BEGIN}\n*.* @host\nmail.* /b\n"
    assert without_block(current) == "*.* /a\n*.* @host\nmail.* /b\n"
    assert without_block(current, "*.* @host\n") == "*.* /a\nmail.* /b\n"
