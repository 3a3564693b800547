"""The native layout and the names in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import BrokenSourceError
from contextagent.model import Entry, Offer, Reading
from contextagent.payloads import names
from contextagent.payloads.native import MAX_DEPTH, is_native, native_offers, top_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.model import EntryKind, Owner

LINK, DEVICE = "link:", "device"


class Tree:
    """A medium in memory: path to contents, `link:TARGET`, or `device`."""

    name = "tree"

    def __init__(self, files: dict[str, str], *, loop: str = "", are_links_inside: bool = False) -> None:
        self.are_links_inside = are_links_inside
        self._files = files
        self._loop = loop

    def folder(self, path: str) -> tuple[Entry, ...]:
        start = f"{path}/" if path else ""
        found = {start + file[len(start) :].partition("/")[0] for file in self._files if file.startswith(start)}
        if self._loop and path.endswith(self._loop):
            found.add(f"{path}/{self._loop}")
        return tuple(self._entry(each) for each in sorted(found))

    def _entry(self, path: str) -> Entry:
        text = self._files.get(path)
        kind: EntryKind = "folder"
        if text is not None:
            kind = "link" if text.startswith(LINK) else "other" if text == DEVICE else "file"
        return Entry(path=path, kind=kind, mode=0o6777, target=(text or "")[len(LINK) :] if kind == "link" else "")

    def read(self, path: str, *, max_bytes: int) -> bytes:
        assert max_bytes
        return self._files[path].encode()

    def chunks(self, path: str, *, max_bytes: int) -> Iterator[bytes]:
        yield self.read(path, max_bytes=max_bytes)


def offers(files: dict[str, str], prefix: str = "", owner: Owner = "site", without: tuple[str, ...] = ()) -> Reading:
    return native_offers(Tree(files), prefix, owner, without=without)


def scripts(reading: Reading) -> list[tuple[str, int, str, str]]:
    return [(offer.phase, offer.rank, offer.name, offer.path) for offer in reading.offers if offer.role == "script"]


def of_role(reading: Reading, role: str) -> list[Offer]:
    return [offer for offer in reading.offers if offer.role == role]


def test_every_native_script_has_its_phase_and_rank() -> None:
    paths = ["prolog.sh", "epilog.sh", "init.sh", "pre-network.d/b", "pre-network.d/a", "post-network.d/9", "stop.d/x"]
    reading = offers(dict.fromkeys([f"site/{path}" for path in paths], "#!/bin/sh\n"), "site")
    assert sorted(scripts(reading)) == [
        ("post-network", 1, "epilog.sh", "site/epilog.sh"),
        ("post-network", 2, "post-network.d/9", "site/post-network.d/9"),
        ("pre-network", 1, "prolog.sh", "site/prolog.sh"),
        ("pre-network", 2, "pre-network.d/a", "site/pre-network.d/a"),
        ("pre-network", 2, "pre-network.d/b", "site/pre-network.d/b"),
        ("stop", 1, "stop.d/x", "site/stop.d/x"),
        ("stop", 2, "epilog.sh", "site/epilog.sh"),
        ("stop", 3, "prolog.sh", "site/prolog.sh"),
    ]
    assert [(problem.reason, problem.path) for problem in reading.warnings] == [("not-run", "site/init.sh")]


def test_init_is_run_where_there_is_no_prolog() -> None:
    assert scripts(offers({"init.sh": ""})) == [
        ("pre-network", 1, "init.sh", "init.sh"),
        ("stop", 3, "init.sh", "init.sh"),
    ]


def test_scripts_of_a_folder_are_in_c_locale_order() -> None:
    files = dict.fromkeys(["stop.d/b", "stop.d/B", "stop.d/10", "stop.d/9", "stop.d/ä"], "")
    assert [name for *_, name, _ in scripts(offers(files))] == [
        "stop.d/10",
        "stop.d/9",
        "stop.d/B",
        "stop.d/b",
        "stop.d/ä",
    ]


@pytest.mark.parametrize("name", ["x~", "x.bak", ".x", "#x#", "x.rpmsave", "x.rpmnew", "x.dpkg-old", "x.swp", "x.orig"])
def test_leftovers_in_a_script_folder_are_passed_over_and_named(name: str) -> None:
    reading = offers({f"stop.d/{name}": "", "stop.d/y": ""})
    assert [script for _, _, script, _ in scripts(reading)] == ["stop.d/y"]
    assert [problem.path for problem in reading.warnings] == [f"stop.d/{name}"]


def test_a_folder_in_a_script_folder_is_passed_over_and_named() -> None:
    reading = offers({"stop.d/old/x": ""})
    assert scripts(reading) == []
    assert [problem.reason for problem in reading.warnings] == ["folder"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"prolog.sh": f"{LINK}init.sh"}, "link"),
        ({"epilog.sh": f"{LINK}/etc/shadow"}, "link"),
        ({"epilog.sh/x": ""}, "folder"),
        ({"init.sh": DEVICE}, "device"),
        ({"stop.d/x": DEVICE}, "device"),
        ({"stop.d/x\n": ""}, "bad-name"),
        ({"stop.d/x\x1b[2J": ""}, "bad-name"),
        ({"stop.d/\udcff": ""}, "bad-name"),
        ({"stop.d/" + "x" * 256: ""}, "bad-name"),
        ({"files/a\tb": ""}, "bad-name"),
        ({"files/dev/null": DEVICE}, "device"),
        ({"files/l": f"{LINK}/etc/shadow"}, "link-outside"),
        ({"files/etc/l": f"{LINK}../../x"}, "link-outside"),
        ({"site.yaml": "", "site.json": ""}, "settings-twice"),
        ({"site.json": f"{LINK}x"}, "link"),
        ({"context.sh": f"{LINK}x"}, "link"),
        ({"context.sh": "reboot"}, "no-assignment"),
        ({"/".join(["d"] * (MAX_DEPTH + 2)): ""}, "too-deep"),
    ],
)
def test_a_native_name_that_cannot_be_used_breaks_the_folder(files: dict[str, str], reason: str) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        offers(files)
    assert caught.value.reason == reason
    assert str(caught.value).startswith("cannot ")


def test_a_medium_that_loops_is_given_up() -> None:
    with pytest.raises(BrokenSourceError, match="more than"):
        native_offers(Tree({"files/loop/x": ""}, loop="loop"), "", "site")


def test_files_keep_their_place_and_no_special_bits() -> None:
    reading = offers({"user/files/etc/motd": "x", "user/files/etc/l": f"{LINK}motd"}, "user", "user")
    assert of_role(reading, "file") == [
        Offer(owner="user", role="file", name="/etc/l", link="motd", mode=0o755),
        Offer(owner="user", role="file", name="/etc/motd", path="user/files/etc/motd", mode=0o755),
    ]


@pytest.mark.parametrize(("owner", "name"), [("site", "site.yaml"), ("site", "site.json"), ("user", "user.json")])
def test_an_owner_has_settings_of_its_own_name_only(owner: Owner, name: str) -> None:
    other = "user.yaml" if owner == "site" else "site.yaml"
    assert [offer.name for offer in of_role(offers({name: "", other: ""}, owner=owner), "settings")] == [name]


def test_features_are_told_apart_and_odd_names_passed_over() -> None:
    reading = offers(
        {"features/machine/total_cpu": "8", "features/job/mem_limit_MB": "1", "features/job/a-b": "", "features/x": ""}
    )
    assert [(offer.name, offer.path) for offer in of_role(reading, "feature")] == [
        ("machine/total_cpu", "features/machine/total_cpu"),
        ("job/mem_limit_MB", "features/job/mem_limit_MB"),
    ]
    assert [problem.path for problem in reading.warnings] == ["features/job/a-b"]


def test_variables_are_those_of_the_folder() -> None:
    reading = offers({"site/context.sh": "A=1", "context.sh": "A=2"}, "site")
    assert (reading.variables, reading.variables_owner) == ({"A": "1"}, "site")


def test_the_working_folder_gets_every_file_and_the_links_that_stay_inside() -> None:
    files = {
        "site/prolog.sh": "", "site/lib/f.sh": "", "site/l": f"{LINK}lib/f.sh", "site/out": f"{LINK}../x",
        "site/null": DEVICE, "site/a\nb": "",
    }  # fmt: skip
    reading = offers(files, "site")
    assert [(offer.name, offer.path, offer.link) for offer in of_role(reading, "companion")] == [
        ("l", "", "lib/f.sh"), ("lib/f.sh", "site/lib/f.sh", ""), ("prolog.sh", "site/prolog.sh", ""),
    ]  # fmt: skip
    assert sorted(problem.path for problem in reading.warnings) == ["site/a\nb", "site/null", "site/out"]


def test_a_flat_folder_leaves_out_what_is_anothers() -> None:
    files = dict.fromkeys(
        ["site/prolog.sh", "user/x", "openstack/latest/x", "user-data", "default.tgz", "init.sh", "a"], ""
    )
    reading = offers(files, without=("init.sh",))
    assert [offer.name for offer in reading.offers] == ["a"]


def test_a_folder_that_is_not_there_offers_nothing() -> None:
    assert offers({"a": ""}, "site") == Reading(layout="hepix")


def test_a_folder_is_native_by_its_names() -> None:
    def native(*paths: str, without: tuple[str, ...] = ()) -> bool:
        return is_native(Tree(dict.fromkeys(paths, "")).folder(""), without=without)

    assert native("epilog.sh")
    assert native("files/x")
    assert not native("files")
    assert not native("context.sh", "readme")
    assert not native("init.sh", without=("init.sh",))


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("real.sh", "real.sh"),
        ("a/../real.sh", "real.sh"),
        ("twice", "real.sh"),
        ("d/x", "d/x"),
        ("./real.sh", "real.sh"),
    ],
)
def test_a_script_of_a_bundle_may_be_a_link_to_another_file_of_it(target: str, path: str) -> None:
    files = {"epilog.sh": f"{LINK}{target}", "real.sh": "", "d/x": "", "a/b": "", "twice": f"{LINK}real.sh"}
    reading = native_offers(Tree(files, are_links_inside=True), "", "site")
    assert ("post-network", 1, "epilog.sh", path) in scripts(reading)


@pytest.mark.parametrize("target", ["missing", "a", "loop", "../real.sh", "/real.sh", "device"])
def test_a_link_that_leads_to_no_file_of_the_bundle_breaks_it(target: str) -> None:
    files = {"epilog.sh": f"{LINK}{target}", "real.sh": "", "a/b": "", "loop": f"{LINK}epilog.sh", "device": DEVICE}
    with pytest.raises(BrokenSourceError, match="it is a link"):
        native_offers(Tree(files, are_links_inside=True), "", "site")


@pytest.mark.parametrize(
    ("paths", "top"),
    [(["a/prolog.sh"], "a"), (["prolog.sh"], ""), (["files/x"], ""), (["a/x", "b/x"], ""), (["a"], ""), ([], "")],
)
def test_a_bundle_may_stand_under_one_top_folder(paths: list[str], top: str) -> None:
    assert top_folder(Tree(dict.fromkeys(paths, ""))) == top


def test_an_id_is_never_given_twice() -> None:
    reading = offers(
        dict.fromkeys(["prolog.sh", "init.sh", "epilog.sh", "stop.d/a", "pre-network.d/a", "post-network.d/a"], "")
    )
    ids = [(offer.phase, offer.name) for offer in of_role(reading, "script")]
    assert len(ids) == len(set(ids)) == 7


@given(
    files=st.dictionaries(
        st.text("abs.dh/\n\udcffä", min_size=1, max_size=12), st.sampled_from(["", DEVICE, f"{LINK}..", f"{LINK}a"])
    )
)
def test_no_tree_raises_anything_but_a_broken_source(files: dict[str, str]) -> None:
    try:
        reading = offers({f"stop.d/{path.strip('/')}": text for path, text in files.items()})
    except BrokenSourceError:
        return
    assert all(names.script_name_problem(name) == "" for *_, name, _ in scripts(reading))


@pytest.mark.parametrize("name", ["epilog.sh", "post-network.d/10-x", "ä", "a b", "user-data", "x" * 255])
def test_a_script_may_have_a_plain_name(name: str) -> None:
    assert names.script_name_problem(name) == ""


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "x.d/", "x.d/..", "a/b.d/c", "../x.d/y", "a\0", "\x7f", "\x85", "\ud800"]
)
def test_a_script_may_not_have_a_name_that_could_forge_another(name: str) -> None:
    assert names.script_name_problem(name)


@pytest.mark.parametrize("target", ["/a", "/etc/x y", "/ä"])
def test_a_target_is_absolute_and_in_its_shortest_form(target: str) -> None:
    assert names.target_problem(target) == ""


@pytest.mark.parametrize("target", ["", "a", "/", "/a/", "//a", "/a/../b", "/./a", "/a\n", "/" + "a/" * 2100 + "a"])
def test_no_other_target_is_taken(target: str) -> None:
    assert names.target_problem(target)


@pytest.mark.parametrize(
    ("folder", "target", "found"),
    [
        ("a", "b", "a/b"),
        ("a", "../b", "b"),
        ("", ".", ""),
        ("a/b", "../../c//d", "c/d"),
        ("", "..", None),
        ("a", "/x", None),
        ("a", "", None),
        ("a", "b\n", None),
        ("a", "x/" * 3000, None),
    ],
)
def test_where_a_link_points_is_told_by_its_text(folder: str, target: str, found: str | None) -> None:
    assert names.inside(folder, target) == found


@pytest.mark.parametrize("key", ["total_cpu", "mem_limit_MB", "allocated_CPU", "disk_limit_GB", "hs06"])
def test_features_of_both_vocabularies_have_names(key: str) -> None:
    assert names.is_feature_key(key)


@pytest.mark.parametrize("key", ["", "a-b", "../x", "a.b", "ä", "x" * 65])
def test_other_names_are_no_features(key: str) -> None:
    assert not names.is_feature_key(key)
