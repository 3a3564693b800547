#!/usr/bin/env python3
"""Compile all that the agent's program needs, and write it as a table of frozen modules in C.

Run by the very interpreter that the table is for.  Everything is frozen: a start that has no file to look for is the
fastest there is, and what was linked is what runs.  Only what looks for files of its own must not come in: `certifi`,
for which a package of ours stands in.
"""

import _imp
import argparse
import ast
import hashlib
import marshal
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import NamedTuple

# Of the standard library: tests, programs for developers, other platforms, and what needs modules that are left out
LEFT_OUT = set(
    """
    __hello__ __phello__ _aix_support _android_support _apple_support _ios_support _osx_support _pydatetime _pydecimal
    _pyio _pylong _pyrepl antigravity bdb cProfile cmd code ctypes curses dbm decimal doctest ensurepip idlelib
    lib2to3 mailbox modulefinder multiprocessing nturl2path pdb pickletools poplib profile pstats pyclbr pydoc
    pydoc_data rlcompleter sched site-packages smtplib sqlite3 statistics symtable tabnanny test this timeit tkinter
    trace turtle turtledemo unittest venv webbrowser wsgiref xmlrpc zipapp zoneinfo
    """.split()
)
ENCODINGS = set(
    "__init__ aliases ascii base64_codec cp1252 cp437 cp850 hex_codec idna iso8859_1 iso8859_15 latin_1 punycode "
    "raw_unicode_escape undefined unicode_escape utf_16 utf_16_be utf_16_le utf_32 utf_32_be utf_32_le utf_8 "
    "utf_8_sig".split()
)

AGENT = "contextagent"
BOOT = ("contextagent.cli.boot",)
"""What a boot imports, whatever it finds."""
Source = tuple[str, bytes]
"""A module's path as tracebacks show it, and its text."""


class Module(NamedTuple):
    """A module that is compiled, and what that looks like as bytes."""

    path: str
    is_package: bool
    text: bytes
    code: CodeType
    data: bytes


def standard_library(folder: str) -> Iterator[Source]:
    """Yield what is wanted of the standard library."""
    for place, folders, names in os.walk(folder):
        inner = os.path.relpath(place, folder)
        if inner == ".":
            folders[:] = [name for name in folders if name not in LEFT_OUT]
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", "test", "tests"))
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            wanted = stem not in LEFT_OUT if inner == "." else inner != "encodings" or stem in ENCODINGS
            if suffix == ".py" and wanted:
                with open(os.path.join(place, name), "rb") as file:
                    yield os.path.normpath(os.path.join(inner, name)), file.read()


def libraries(folder: str) -> Iterator[Source]:
    """Yield the modules of the wheels and source archives in a folder."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.endswith(".whl"):
            with zipfile.ZipFile(path) as wheel:
                for member in sorted(wheel.namelist()):
                    if member.endswith(".py") and ".data/" not in member:
                        yield member, wheel.read(member)
        else:
            with tarfile.open(path) as archive:
                for entry in archive.getmembers():
                    _, _, inner = entry.name.partition("/")
                    inner = inner.removeprefix("lib/")
                    file = archive.extractfile(entry)
                    if file and inner.startswith(("yaml/", "netifaces/")) and inner.endswith(".py"):
                        yield inner, file.read()


def package(folder: str) -> Iterator[Source]:
    """Yield the modules of a package: the agent, or one that stands in for another."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(name for name in names if name.endswith(".py")):
            with open(os.path.join(place, name), "rb") as file:
                yield os.path.relpath(os.path.join(place, name), os.path.dirname(folder)), file.read()


def compiled(sources: dict[str, bytes]) -> dict[str, Module]:
    """Compile the modules, but for those that the interpreter has frozen already; docstrings stay out."""
    known = set(_imp._frozen_module_names())  # noqa: SLF001  # the interpreter's own: there is no public way to ask
    modules = {}
    for path, text in sorted(sources.items()):
        stem = path.removesuffix(".py").replace("/", ".")
        name = stem.removesuffix(".__init__")
        if name not in known:
            code = compile(text, path, "exec", dont_inherit=True, optimize=2)
            modules[name] = Module(path, name != stem, text, code, marshal.dumps(code))
    return modules


def is_own(name: str) -> bool:
    """Return whether a module is the agent's."""
    return name.partition(".")[0] == AGENT


def digest(modules: dict[str, Module], linked: str) -> str:
    """Return one digest over all that can be part of a boot: the agent's modules but for `kit`, and what is linked."""
    total = hashlib.sha512(linked.encode())
    for name, module in modules.items():
        if is_own(name) and name.split(".")[:2] != [AGENT, "kit"]:
            total.update(f"{name}\0".encode() + module.data)
    return total.hexdigest()


def closure(modules: dict[str, Module], wanted: Iterable[str]) -> list[str]:
    """Return the agent's modules that come with these at their import, each after those that it imports."""
    order: dict[str, None] = {}
    begun = set()

    def visit(name: str) -> None:
        if name in begun or name not in modules or not is_own(name):
            return
        visit(name.rpartition(".")[0])
        if name in begun:  # its package has brought it
            return
        begun.add(name)
        for statement in ast.parse(modules[name].text).body:
            for node in statement.body if isinstance(statement, ast.Try) else (statement,):
                if isinstance(node, ast.ImportFrom) and node.module:
                    visit(node.module)
                    for each in node.names:
                        visit(f"{node.module}.{each.name}")
        order[name] = None

    for name in wanted:
        visit(name)
    return list(order)


def write_boot(modules: dict[str, Module], out: str) -> None:
    """Write what a boot always loads, `boot.bin`: a tuple of (name, its parent's, path, is a package, code) in order.

    In one piece, since a name that many modules use is then read once; in order, so that nothing has to be looked for.
    """
    rows = [
        (name, name.rpartition(".")[0], modules[name].path, modules[name].is_package, modules[name].code)
        for name in closure(modules, BOOT)
    ]
    with open(os.path.join(out, "boot.bin"), "wb") as file:
        file.write(marshal.dumps(tuple(rows)))


def write_table(modules: dict[str, Module], out: str) -> None:
    """Write `frozen.bin` with the modules' code, and `frozen.c` with the table: it is searched from its beginning."""
    rows: list[str] = []
    at = 0
    with open(os.path.join(out, "frozen.bin"), "wb") as blob:
        for name, module in sorted(modules.items(), key=lambda item: (not is_own(item[0]), item[0])):
            blob.write(module.data)
            names = (name, "__main__") if name == f"{AGENT}.__main__" else (name,)
            place = f"frozen_bytes + {at}, {len(module.data)}, {int(module.is_package)}"
            rows += [f'    {{"{each}", {place}}},\n' for each in names]
            at += len(module.data)
    with open(os.path.join(out, "frozen.c"), "w", encoding="ascii") as table:
        table.write("#include <Python.h>\n")
        for name in ("frozen", "boot"):
            table.write(
                f'__asm__(".section .rodata\\n.global {name}_bytes, {name}_end\\n.p2align 4\\n{name}_bytes:\\n"\n'
            )
            table.write(f'        ".incbin \\"{name}.bin\\"\\n{name}_end:\\n.byte 0\\n.previous\\n");\n')
        table.write("extern const unsigned char frozen_bytes[];\n")
        table.write("const struct _frozen frozen_modules[] = {\n")
        table.writelines([*rows, "    {0}\n};\n"])
    print(f"interpreter: {len(rows)} modules, {at} bytes frozen")  # noqa: T201  # a step of a build says what it did


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("standard-library", "libraries", "out", "linked"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("packages", nargs="+")
    options = parser.parse_args()
    sources = dict(standard_library(options.standard_library))
    sources |= dict(libraries(options.libraries))
    for folder in options.packages:
        sources |= dict(package(folder))
    modules = compiled(sources)
    # the agent's word on itself (host/program.py); whoever could change what it speaks of could change it as well
    said = f'"""What the agent is made of."""\n\nDIGEST = "{digest(modules, options.linked)}"\n'
    modules |= compiled({f"{AGENT}/_linked.py": said.encode()})
    write_boot(modules, options.out)
    write_table(modules, options.out)


if __name__ == "__main__":
    main()
