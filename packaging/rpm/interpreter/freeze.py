#!/usr/bin/env python3
"""Compile all that the agent's program needs, and write it as a table of frozen modules in C.

Run by the very interpreter that the table is for.  Everything is frozen: a start that has no file to look for is the
fastest there is, and what was linked is what runs.  Only what looks for files of its own must not come in: `certifi`,
for which a package of ours stands in.
"""

import _imp
import argparse
import marshal
import os
import tarfile
import zipfile
from collections.abc import Iterator

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

Source = tuple[str, bytes]
"""A module's path as tracebacks show it, and its text."""


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


def write(sources: dict[str, bytes], out: str) -> None:
    """Compile the modules and write `frozen.bin` with their code, and `frozen.c` with the table."""
    known = set(_imp._frozen_module_names())  # noqa: SLF001  # the interpreter's own: there is no public way to ask
    rows: list[str] = []
    at = 0
    with open(os.path.join(out, "frozen.bin"), "wb") as blob:
        for path, text in sorted(sources.items()):
            name = path.removesuffix(".py").replace("/", ".")
            is_package = name.endswith(".__init__")
            name = name.removesuffix(".__init__")
            if name in known:
                continue
            code = marshal.dumps(compile(text, path, "exec", dont_inherit=True, optimize=0))
            blob.write(code)
            names = (name, "__main__") if name == "contextagent.__main__" else (name,)
            rows += [f'    {{"{each}", frozen_bytes + {at}, {len(code)}, {int(is_package)}}},\n' for each in names]
            at += len(code)
    with open(os.path.join(out, "frozen.c"), "w", encoding="ascii") as table:
        table.write("#include <Python.h>\n")
        table.write('__asm__(".section .rodata\\n.global frozen_bytes\\n.p2align 4\\nfrozen_bytes:\\n"\n')
        table.write('        ".incbin \\"frozen.bin\\"\\n.byte 0\\n.previous\\n");\n')
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
    # so that the agent's digest of its own modules (chronicle.agent_sha512) tells of what is linked with them, too
    sources["contextagent/_linked.py"] = (
        f'"""What the modules are linked with."""\n\nDIGEST = "{options.linked}"\n'.encode()
    )
    write(sources, options.out)


if __name__ == "__main__":
    main()
