"""What is asked of the log daemons: the settings, else one of the older ways to name a log server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contextagent.collectors import Collector
from contextagent.collectors.asked import asked
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import merge

if TYPE_CHECKING:
    from contextagent.policy.settings import Settings


def settings(**values: object) -> Settings:
    said = {f"logging.{name}": Setting(value=value) for name, value in values.items()}
    return merge(Layer(voice="image", values=said))


@pytest.mark.parametrize(
    ("said", "host", "port"),
    [
        ("loghost", "loghost", 514),
        (" loghost.example.org\n", "loghost.example.org", 514),
        ("loghost:10514", "loghost", 10514),
        ("192.0.2.1", "192.0.2.1", 514),
        ("2001:db8::1", "2001:db8::1", 514),
        ("[2001:db8::1]:1514", "2001:db8::1", 1514),
    ],
)
def test_an_older_form_is_a_collector_by_udp(said: str, host: str, port: int) -> None:
    logging, problems = asked(settings(), (("SYSLOG_SERVER", said),))
    assert logging.collectors == (Collector(host=host, port=port, protocol="udp"),)
    assert not problems


@pytest.mark.parametrize(
    "said", ["", "two words", "a;b", "$(id)", "host:0", "host:99999", "host:x", "-n", 'a"b', "x" * 256]
)
def test_an_older_form_that_names_no_host_is_ignored_and_said(said: str) -> None:
    logging, problems = asked(settings(), (("SYSLOG_SERVER", said),))
    assert not logging.collectors
    assert [problem.message for problem in problems] == ["cannot use 'SYSLOG_SERVER': it names no host, ignoring it"]


def test_where_the_settings_name_a_collector_the_older_forms_say_nothing() -> None:
    given = settings(collectors=({"host": "new", "protocol": "tcp"},))
    logging, problems = asked(given, (("SYSLOG_SERVER", "old"),))
    assert logging.collectors == (Collector(host="new", protocol="tcp"),)
    assert not problems


def test_two_older_forms_that_name_the_same_host_are_one_collector() -> None:
    logging, _ = asked(settings(), (("SYSLOG_SERVER", "a"), ("syslog", "a"), ("other", "b")))
    assert [collector.host for collector in logging.collectors] == ["a", "b"]
