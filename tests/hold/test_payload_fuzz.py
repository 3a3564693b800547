"""F4: mutants of every form of user data, of `context.sh` and of settings: refused by a rule, or read within bounds."""

from __future__ import annotations

import gzip
import os
import random
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import BrokenSourceError
from contextagent.payloads.caps import Caps
from contextagent.payloads.environment import MAX_TOTAL_BYTES, MAX_VALUE_BYTES, script_environment
from contextagent.payloads.names import script_name_problem, target_problem
from contextagent.payloads.userdata import FORMS, read_user_data
from contextagent.payloads.variables import parse_variables
from contextagent.policy.layer import Layer
from contextagent.policy.loader import MAX_PROBLEMS, check
from contextagent.policy.schema import find
from contextagent.policy.settings import merge
from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable

    from contextagent.model import Voice

SEED = 20090904
MUTANTS = 2_500 * (40 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 1)
FIXTURES = REPOSITORY / "tests/fixtures"
SPLICES = [
    b"\0", b"\n", b"\r\n", b"'", b'"', b"\\", b"$", b"`", b"#!", b"---", b"--", b": ", b"- ", b"[", b"{", b"&a ", b"*a",
    b"!!binary ",    b"<", b"&x;", b"]]>", b"=", b"..",
    b"/", b"\xff", b"\xe2\x80\xae", b"()", b"before\n", b"####", b"\x1f\x8b", b"%",
]  # fmt: skip
SEEDS = {
    form: (FIXTURES / "userdata" / form / "user-data").read_bytes()
    for form in FORMS
    if (FIXTURES / "userdata" / form / "user-data").exists()
}


def mutant(rng: random.Random, data: bytes) -> bytes:
    """Return the data with some places cut, doubled, spliced or changed."""
    made = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(made) + 1)
        end = min(len(made), at + rng.randrange(40))
        match rng.randrange(4):
            case 0:
                del made[at:end]
            case 1:
                made[at:at] = made[at:end] * rng.randrange(1, 4)
            case 2:
                made[at:at] = rng.choice(SPLICES)
            case _:
                made[at:end] = rng.randbytes(end - at)
    return bytes(made)


@pytest.mark.parametrize("form", SEEDS)
def test_no_mutant_of_a_form_raises_anything_unforeseen(form: str) -> None:
    rng = random.Random(f"{SEED}{form}")
    for number in range(MUTANTS):
        data = mutant(rng, SEEDS[form])
        if number % 7 == 0:
            data = gzip.compress(data, 1)
        try:
            reading = read_user_data(data, caps=Caps())
        except BrokenSourceError:
            continue
        for offer in reading.offers:
            assert offer.owner == "user"
            assert offer.role != "script" or not script_name_problem(offer.name)
            assert offer.role != "file" or not target_problem(offer.name)


def test_no_mutant_of_context_sh_raises_anything_unforeseen_or_gets_a_bad_environment() -> None:
    rng = random.Random(SEED)
    seed = (FIXTURES / "layouts/opennebula/disk/context.sh").read_bytes() + b"X=$'\\x41\\u00e4\\101' export Y=a\\ b\n"
    for _ in range(10 * MUTANTS):
        try:
            found = parse_variables(mutant(rng, seed))
        except BrokenSourceError:
            continue
        allowed, _ = script_environment(found)
        assert all("\0" not in value and len(os.fsencode(value)) <= MAX_VALUE_BYTES for value in allowed.values())
        assert sum(len(os.fsencode(f"{name}={value}")) + 1 for name, value in allowed.items()) <= MAX_TOTAL_BYTES


SETTINGS = {
    "policy.yaml": (REPOSITORY / "examples/policy.yaml").read_bytes(),
    "site.yaml": b"user:\n  profile: unprivileged\nscripts:\n  site/post-network/epilog.sh: {limits: {wall_s: 30}}\n"
    b"features:\n  machine: {hs06: '12.5', total_cpu: 4}\ncaps: {total_bytes: 32 MiB}\ntrace: {keep_days: 9}\n",
    "user.json": b'{"scripts": {"user/post-network/user-data": {"frequency": "every-boot", "limits": {"wall_s": 9}}}}',
}


@pytest.mark.parametrize("file", SETTINGS)
def test_no_mutant_of_settings_raises_anything_unforeseen_or_speaks_for_another(file: str) -> None:
    voice: Voice = "image" if file == "policy.yaml" else "site" if file == "site.yaml" else "user"
    rng = random.Random(f"{SEED}{file}")
    heard = 0
    for _ in range(MUTANTS):
        layer, errors = check(voice, [(file, mutant(rng, SETTINGS[file]))])
        assert len(errors) <= MAX_PROBLEMS + 1
        assert all((key := find(name)) and key.rule(voice) is not None for name in layer.values)
        heard += not errors
        merge(layer) if voice == "image" else merge(Layer(voice="image"), layer)
    assert heard > MUTANTS // 100


def test_no_name_of_an_environment_gets_past_the_rules() -> None:
    rng = random.Random(SEED)
    words = [
        "LD_",
        "PATH",
        "PYTHON",
        "BASH_",
        "FUNC",
        "ENV",
        "X",
        "_",
        "1",
        "%%",
        "()",
        "USER_DATA",
        "TOKEN",
        "=",
        "\n",
        "ä",
        "a",
    ]
    forbidden: list[Callable[[str], bool]] = [
        lambda name: name.startswith(("LD_", "PYTHON", "BASH")),
        lambda name: name in ("PATH", "ENV"),
        lambda name: "USER_DATA" in name or "TOKEN" in name,
        lambda name: not name.isascii() or not name.isidentifier(),
    ]
    for _ in range(4 * MUTANTS):
        name = "".join(rng.choices(words, k=rng.randrange(1, 4)))
        allowed, problems = script_environment({name: rng.choice(["x", "() { :; }", "x" * 5000, "\0"])})
        assert not any(rule(each) for each in allowed for rule in forbidden)
        assert len(allowed) + len(problems) == 1
