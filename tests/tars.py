"""Tar archives made block by block, also such as no tar program would make."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BLOCK = 512
END = bytes(2 * BLOCK)


def padded(data: bytes) -> bytes:
    """Return the data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def header(name: str, *, kind: bytes = b"0", size: int = 0, mode: int = 0o644, link: str = "") -> bytes:
    """Return one header (with GNU's long names where it needs them)."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.linkname = kind, size, mode, link
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def file(name: str, data: bytes = b"#!/bin/sh\n", *, mode: int = 0o644) -> bytes:
    """Return a regular file."""
    return header(name, size=len(data), mode=mode) + padded(data)


def folder(name: str) -> bytes:
    """Return a folder."""
    return header(name, kind=b"5", mode=0o755)


def link(name: str, target: str) -> bytes:
    """Return a symbolic link."""
    return header(name, kind=b"2", link=target)


def extended(data: bytes, kind: bytes = b"x") -> bytes:
    """Return an extended header with any content."""
    return header("PaxHeader", kind=kind, size=len(data)) + padded(data)


def pax(records: Mapping[str, bytes], kind: bytes = b"x") -> bytes:
    """Return a pax header."""
    data = b""
    for key, value in records.items():
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = len(rest) + len(str(len(rest)))
        length += len(str(length)) - len(str(len(rest)))
        data += str(length).encode() + rest
    return extended(data, kind)


def tar(*members: bytes) -> io.BytesIO:
    """Return the members as an archive with its end."""
    return io.BytesIO(b"".join(members) + END)


def tgz(*members: bytes) -> io.BytesIO:
    """Return the members as a gzip'd archive."""
    return io.BytesIO(gzip.compress(tar(*members).getvalue(), mtime=0))


def summed(block: bytes) -> bytes:
    """Return a header with its sum set right."""
    made = bytearray(block)
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def trees(top: Path) -> dict[str, tuple[str, object, int]]:
    """Return all that is below a folder: kind, contents or target, and a file's mode, by path."""
    found: dict[str, tuple[str, object, int]] = {}
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()), 0)
        elif path.is_dir():
            found[name] = ("folder", None, 0)
        else:
            found[name] = ("file", path.read_bytes(), path.stat().st_mode & 0o755)
    return found
