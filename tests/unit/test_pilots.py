"""How each framework's pilot is started, and which shutdown code each of its ends is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import InvalidInputError
from contextagent.pilots import Launch, Setting, conditions
from contextagent.pilots.conditions import Standing
from contextagent.pilots.frameworks import FRAMEWORKS, code_of, features_form, launch, problems
from contextagent.pilots.parts import Option, has_option, has_pattern
from contextagent.policy import schema
from contextagent.policy.settings import Layer, load_material, merge

QUEUE = Option(short="-q", long="--queue")
OTHERS = [name for name, framework in FRAMEWORKS.items() if framework is None]
READY = [name for name, framework in FRAMEWORKS.items() if framework]


def setting(**changed: Any) -> Setting:
    whole: dict[str, Any] = {
        "pilot": {},
        "instance_id": "vm-42",
        "boot_id": "1f0c",
        "number": 1,
        "remaining_s": 86400,
        "features": {"job/allocated_cpu": "8", "job/job_id": "4c4c4544-0000-4000-8000-00000000cafe"},
        "machine_features": "/etc/machinefeatures",
        "job_features": "/etc/jobfeatures",
        "job_outputs": "/etc/joboutputs",
        "workdir": "/var/lib/contextuser/pilot-1",
        "account": "contextuser",
        "home": "/var/lib/contextuser",
        "hostname": "vm42",
    }
    return Setting(**(whole | changed))


def started(framework: str, *args: str, **pilot: Any) -> Launch:
    return launch(framework, setting(pilot={"args": args, **pilot}))


def code(framework: str, exit_code: int | None = 0, log: str = "", empty: bool | None = None, **pilot: Any) -> int:  # noqa: FBT001  # the last answer of a short list
    signal = None if exit_code is not None else 9
    said = {f"result.{key}": value for key, value in pilot.items()}
    return code_of(framework, said, exit_code, signal, log.encode(), empty)[0]


def test_the_table_knows_every_framework_that_can_be_asked_for() -> None:
    assert set(FRAMEWORKS) == set(schema.FRAMEWORKS[1:])


@pytest.mark.parametrize("framework", OTHERS)
def test_a_framework_without_a_pilot_yet_is_refused_in_one_sentence_that_names_the_key(framework: str) -> None:
    (problem,) = problems(framework, {})
    assert problem.message == f"cannot start the pilot: 'pilot.framework' {framework} is not yet supported"
    with pytest.raises(InvalidInputError, match="not yet supported") as raised:
        launch(framework, setting())
    assert raised.value.reason == "not-yet-supported"


def test_each_framework_is_told_the_features_in_a_form_that_it_reads() -> None:
    assert {name: features_form(name) for name in READY} == {"dirac": "url", "panda": "path", "command": "path"}


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("/opt/pilot", ("/opt/pilot",)),
        ("/opt/pilot.py", ("/usr/bin/env", "python3", "/opt/pilot.py")),
        ("exit 3", ("/bin/sh", "-c", "exit 3")),
        ("exec ./pilot -x", ("/bin/sh", "-c", "exec ./pilot -x")),
        ('./pilot "a b"', ("/bin/sh", "-c", './pilot "a b"')),
        ("./first\n./second", ("/bin/sh", "-c", "./first\n./second")),
        ("cd /opt && ./pilot", ("/bin/sh", "-c", "cd /opt && ./pilot")),
        ("./pilot >log 2>&1", ("/bin/sh", "-c", "./pilot >log 2>&1")),
        (("/opt/my pilot", "-x"), ("/opt/my pilot", "-x")),
    ],
)
def test_a_word_is_a_program_a_list_its_arguments_too_and_anything_else_a_line_of_the_shell(
    command: object, argv: tuple[str, ...]
) -> None:
    assert started("command", command=command).argv == argv


def test_arguments_follow_a_text_of_plain_words() -> None:
    assert started("command", "-y", command="/opt/pilot -x").argv == ("/opt/pilot", "-x", "-y")
    made = started("panda", "-q", "CLOUD", command="python3 /opt/pilot.py")
    assert made.argv[:4] == ("python3", "/opt/pilot.py", "-q", "CLOUD")


def test_arguments_follow_a_program_and_its_own() -> None:
    assert started("command", "$HOME", "b c", command=("/opt/pilot", "-x")).argv == ("/opt/pilot", "-x", "$HOME", "b c")


@pytest.mark.parametrize(
    ("framework", "pilot", "key"),
    [
        ("command", {}, "'pilot.command' is missing"),
        ("command", {"command": "./pilot $X", "args": ("-y",)}, "'pilot.args' can't be given to a line"),
        ("dirac", {"command": "cd /opt; ./dirac-pilot.py"}, "'pilot.args' can't be given to a line"),
        ("panda", {"args": ("-j", "managed")}, "'pilot.args' has no -q (the queue's name)"),
    ],
)
def test_a_pilot_of_which_something_is_missing_is_not_started(framework: str, pilot: Any, key: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        launch(framework, setting(pilot=pilot))
    assert key in str(raised.value)
    assert raised.value.reason == "pilot-incomplete"


def test_the_files_of_a_pilot_are_those_that_were_written_in_its_settings() -> None:
    assert started("dirac", files={"pilot.json": '{"a": "ä"}\n'}).files == {"pilot.json": '{"a": "ä"}\n'.encode()}


def test_the_dirac_pilot_is_told_its_cpus_and_who_it_is() -> None:
    words = "-N CLOUD.example.org -Q default -n CLOUD.Example.org -S Prod -C dips://dirac.example.org:9135/C --wnVO vo"
    made = started("dirac", *words.split())
    stamp = made.environment["DIRAC_PILOT_STAMP"]
    assert shlex.join(made.argv) == f"/usr/bin/env python3 dirac-pilot.py {words} -P 8 --pilotUUID {stamp}"
    assert made.environment == {
        "PILOT_UUID": "cloud://vm-42",
        "DIRAC_PILOT_STAMP": stamp,
        "JOB_ID": "4c4c4544-0000-4000-8000-00000000cafe",
    }
    assert len(stamp) == 32
    assert int(stamp, 16)


def test_no_two_starts_of_a_dirac_pilot_have_one_stamp_and_no_two_on_one_machine_one_reference() -> None:
    starts = [setting(), setting(number=2), setting(boot_id="2"), setting(instance_id="vm-43")]
    made = [launch("dirac", each).environment for each in starts]
    assert len({each["DIRAC_PILOT_STAMP"] for each in made}) == len(starts)
    assert made[1]["PILOT_UUID"] == "cloud://vm-42:2"


def test_a_dirac_pilot_of_which_no_features_are_known_is_named_after_its_instance() -> None:
    made = launch("dirac", setting(features={}))
    assert "-P" not in made.argv
    assert made.environment["JOB_ID"] == "vm-42"


def test_the_panda_pilot_is_told_how_long_it_has() -> None:
    made = started(
        "panda", "-q", "CLOUD", "-j", "managed", "--url", "https://panda.example.org", command="/opt/pilot.py"
    )
    words = "-q CLOUD -j managed --url https://panda.example.org --pilot-user generic -i PR -w generic -l 86400"
    assert shlex.join(made.argv) == f"/usr/bin/env python3 /opt/pilot.py {words}"


def test_a_panda_pilot_on_a_machine_without_an_end_has_its_own_lifetime() -> None:
    assert "-l" not in launch("panda", setting(pilot={"args": ("-q", "CLOUD")}, remaining_s=None)).argv


def test_a_panda_pilot_leaves_the_other_processes_of_its_account_alone() -> None:
    assert started("panda", "-q", "CLOUD").environment == {"PILOT_NOKILL": "1"}


@pytest.mark.parametrize(
    ("framework", "args", "added"),
    [
        ("panda", "-qCLOUD --lifetime 60", "--pilot-user -i -w"),
        ("panda", "--queue=CLOUD --pilot-user=atlas -wproduction -l 60 --versiontag RC", ""),
        ("panda", "--que CLOUD -i RC", "--pilot-user -w -l"),
        ("dirac", "-P 1 --pilotUUID=x", ""),
        ("dirac", "--pilotProcessors 1 --pilotU x", ""),
        ("dirac", "-p 1", "-P --pilotUUID"),
    ],
)
def test_an_option_that_the_site_gives_is_not_given_again(framework: str, args: str, added: str) -> None:
    argv = started(framework, *args.split()).argv
    assert [word for word in argv[3 + len(args.split()) :] if word.startswith("-")] == added.split()


def test_a_variable_that_the_site_sets_is_left_to_it() -> None:
    assert "JOB_ID" not in started("dirac", env={"JOB_ID": "mine"}).environment


@given(st.lists(st.text(max_size=8), max_size=6))
def test_an_option_behind_two_dashes_is_none(args: list[str]) -> None:
    assert not has_option(("--", *args), QUEUE)


@given(st.lists(st.sampled_from(["-q", "--queue", "-j", "--", "x", "-qx", "--q", "--qu=x", "-"]), max_size=6))
def test_finding_an_option_looks_at_each_word_before_two_dashes(args: list[str]) -> None:
    before = args[: args.index("--")] if "--" in args else args
    assert has_option(args, QUEUE) == any(word in ("-q", "--queue", "-qx", "--qu=x") for word in before)


@pytest.mark.parametrize(
    ("pattern", "line", "is_there"),
    [
        ("no work", b"12:00 no work today", True),
        ("no work", b"no  work", False),
        ("job * failed", b"job 12 failed", True),
        ("job.*failed", b"job 12 failed", True),
        ("job * failed", b"failed job 12 ", False),
        ("(a+)+$", b"(a+)+$", True),
        ("a*a", b"a", False),
        ("fin \u00e4", "fin \u00e4".encode(), True),
    ],
)
def test_a_pattern_is_a_text_in_which_an_asterisk_is_anything(pattern: str, line: bytes, is_there: bool) -> None:  # noqa: FBT001  # the last answer of a short list
    assert has_pattern(line, pattern) is is_there


@given(st.text(alphabet="ab*", min_size=1, max_size=8), st.text(alphabet="abc", max_size=12))
def test_a_pattern_is_found_where_the_same_glob_is(pattern: str, line: str) -> None:
    expected = re.search(".*".join(map(re.escape, pattern.split("*"))), line)
    assert has_pattern(line.encode(), pattern) is bool(expected)


@pytest.mark.parametrize(
    ("exit_code", "expected"), [(0, 200), (1, 700), (77, 700), (126, 500), (127, 500), (None, 700)]
)
def test_a_command_is_done_with_0_and_failed_with_all_else(exit_code: int | None, expected: int) -> None:
    assert code("command", exit_code) == expected


@pytest.mark.parametrize("framework", READY)
def test_every_end_of_every_framework_is_a_shutdown_code(framework: str) -> None:
    found = {code(framework, exit_code) for exit_code in (*range(256), None)}
    assert found <= {200, 300, 400, 500, 600, 700}


def test_what_the_settings_say_of_an_exit_code_goes_before_what_is_known_of_it() -> None:
    assert code("panda", 64, exit_codes={"64": 300}) == 300
    assert code("command", None, exit_codes={"137": 600}) == 600


def test_a_log_pattern_of_the_settings_goes_before_any_exit_code() -> None:
    patterns = ({"pattern": "banned", "code": 400},)
    assert code("command", 3, "you are banned\n", exit_codes={"3": 600}, log_patterns=patterns) == 400
    assert code("command", 3, "welcome\n", exit_codes={"3": 600}, log_patterns=patterns) == 600


def test_the_last_line_that_says_anything_counts_and_in_a_line_the_first_pattern() -> None:
    patterns = (
        {"pattern": "job done", "code": 200},
        {"pattern": "no work", "code": 300},
        {"pattern": "no", "code": 700},
    )
    assert code("command", 0, "job done\nno work\n", log_patterns=patterns) == 300
    assert code("command", 0, "no work\njob done\nbye\n", log_patterns=patterns) == 200
    assert code("command", 0, "no\n", log_patterns=patterns) == 700


def test_a_pilot_that_is_done_and_left_an_empty_file_had_no_work() -> None:
    assert code("command", 0, empty=True) == 300
    assert code("command", 0, empty=False) == 200
    assert code("command", 1, empty=True) == 700


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("Nothing to do for more than 10 cycles", 300),
        ("Filling Mode is Disabled", 200),
        ("No more time left", 100),
        ("Node is being drained by an operator", 100),
        ("Error during the submission process", 500),
        ("Job Rescheduled", 600),
        ("Matcher Failed", 600),
        ("anything else", 700),
    ],
)
def test_why_a_dirac_agent_stops_is_in_its_log(why: str, expected: int) -> None:
    line = f'2026-11-21 14:00:00 UTC WorkloadManagement/JobAgent INFO: JobAgent will stop with message "{why}", exec'
    assert code("dirac", 0, f"Starting JobAgent\n{line}\nbye\n") == expected


def test_a_dirac_pilot_that_worked_and_then_found_no_more_work_found_none() -> None:
    assert code("dirac", 0, "Submitting JobWrapper x to InProcessCE\nJob request OK, but no match found\n") == 300
    assert code("dirac", 0, "Job request OK, but no match found\nSubmitting JobWrapper x to InProcessCE\n") == 200


def test_a_dirac_pilot_on_an_unfit_machine_is_the_sites_to_mend() -> None:
    assert code_of("dirac", {}, 1, None, b"[ERROR] Could not find/set X509_CERT_DIR\n", None) == (
        500,
        "a folder of certificates is empty or not there",
    )
    assert code("dirac", 1, "300 MB < 2560 MB, not enough local disk space available, exiting\n") == 500
    assert code("dirac", 1) == 500
    assert code("dirac", 1, "Error executing the JobAgent [ERROR 1]\n") == 700


@pytest.mark.parametrize(
    ("exit_code", "log", "expected"),
    [
        (0, "", 200),
        (0, "reached maximum number of getjob requests (2) -- will abort pilot", 300),
        (0, "did not get a job -- max number of job request failures reached: 5 (setting graceful_stop)", 300),
        (0, "did not get a job -- sleep 60s and repeat -- status: 20", 200),
        (0, "fatal error in job download loop - cannot continue", 700),
        (1, "now=9s - shutdowntime (9s) minus grace time (600s) has been exceeded - time to abort pilot", 100),
        (1, "max running time (9s) minus grace time (180s) has been exceeded - time to abort pilot", 100),
        (68, "", 500),
        (69, "reached maximum number of getjob requests (2) -- will abort pilot", 500),
        (78, "", 400),
        (143, "", 700),
        (99, "", 700),
    ],
)
def test_a_panda_pilot_says_in_its_log_what_its_0_and_1_mean(exit_code: int, log: str, expected: int) -> None:
    assert code("panda", exit_code, f"starting threads\n{log}\npilot has finished\n") == expected


@given(st.binary(max_size=300), st.sampled_from(READY), st.integers(0, 255))
def test_no_log_keeps_an_end_from_being_told_in_one_line(log: bytes, framework: str, exit_code: int) -> None:
    number, text = code_of(framework, {}, exit_code, None, log, None)
    assert 100 <= number < 800
    assert text
    assert text.isprintable()


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "pilots.md"


def page_lines(marker: str) -> list[str]:
    _, _, rest = PAGE.read_text().partition(f"<!-- {marker} -->\n")
    return rest.partition("<!-- end -->")[0].splitlines()[2:]


def framework_line(name: str) -> str:
    framework = FRAMEWORKS[name]
    if framework is None:
        cells = ["", "not yet supported", "", "", ""]
    else:
        unsaid = setting(features={"job/allocated_cpu": "CPUS"})
        words = [word for _, said in framework.adds(unsaid) for word in said]
        stamp = framework.variables(unsaid).get("DIRAC_PILOT_STAMP", "")
        said = {stamp: "STAMP", str(unsaid.remaining_s): "REMAINING"}
        needs = " ".join(f"`{option.short}`" for option in framework.needs) or (
            "" if framework.program else "`command`"
        )
        cells = [
            framework.form,
            coded(" ".join(framework.program)),
            coded(" ".join(said.get(word, word) for word in words)),
            " ".join(map(coded, framework.variables(unsaid))),
            needs,
        ]
    return f"| `{name}` | " + " | ".join(cells).replace("  ", " ") + " |"


def coded(text: str) -> str:
    return f"`{text}`" if text else ""


def test_the_reference_page_has_every_framework_as_the_table_has_it() -> None:
    expected = [framework_line(name) for name in ("command", *(name for name in FRAMEWORKS if name != "command"))]
    assert [" ".join(line.split()) for line in page_lines("frameworks")] == [
        " ".join(line.split()) for line in expected
    ]


def test_the_reference_page_has_every_exit_code() -> None:
    lines = []
    for name in ("command", *(name for name in READY if name != "command")):
        framework = FRAMEWORKS[name]
        assert framework
        by_code: dict[int, list[int]] = {}
        for exit_code, (number, _) in sorted(framework.codes.items()):
            by_code.setdefault(number, []).append(exit_code)
        said = "; ".join(f"{number}: {', '.join(map(str, codes))}" for number, codes in sorted(by_code.items()))
        lines.append(f"| `{name}` | {said} |")
    assert page_lines("codes") == lines


def test_the_reference_page_has_every_line_of_a_log() -> None:
    expected = [
        f"| `{name}` | `{line}` | {number} |"
        for name, framework in FRAMEWORKS.items()
        if framework
        for line, (number, _) in framework.lines
    ]
    assert page_lines("lines") == expected


def test_the_reference_page_has_every_refusal() -> None:
    never = Standing(
        result="failed",
        reports=({"id": "site/post-network/x", "owner": "site", "exit_code": 100, "state": "ok", "reason": None},),
        is_banned=True,
        has_no_pilot_file=True,
        required="reachable",
        is_trace_full=True,
        on_full="strict",
        remaining_s=0,
        is_finished=True,
        account="no such account",
    )
    reasons = {problem.reason for problem in conditions._refusals(never)}
    assert {line.split("`")[1] for line in page_lines("refusals")} == reasons


@pytest.mark.parametrize("framework", ["dirac", "panda"])
def test_the_example_of_a_framework_starts_its_pilot(framework: str) -> None:
    path = Path(__file__).parents[2] / "examples" / f"{framework}-pilot" / "site.yaml"
    settings = merge(Layer(voice="image"), load_material("site", str(path), path.read_bytes()))
    assert settings.warnings == ()
    assert settings["pilot.framework"] == framework
    assert launch(framework, setting(pilot=settings.section("pilot"))).argv[0] == "/usr/bin/python3"
