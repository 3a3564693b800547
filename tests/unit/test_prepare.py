"""What a confined reader of user data is made ready for: all that its bytes can hold, and no more."""

from __future__ import annotations

import gzip
import sys

import pytest

from tests.machine import run

MIME = b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n\n--b\n'
SCRIPT = MIME + b"Content-Type: text/x-shellscript\n\n#!/bin/sh\n--b--\n"
CONFIG = MIME + b"Content-Type: text/plain\n\n#Cloud-Config\nruncmd: [a]\n--b--\n"
HIDDEN = MIME + b"Content-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwo=\n--b--\n"


@pytest.mark.parametrize(
    ("data", "libraries"),
    [
        (b"#!/bin/sh\n", set()),
        (SCRIPT, set()),
        (CONFIG, {"yaml"}),
        (HIDDEN, {"yaml", "xml"}),
        (gzip.compress(SCRIPT), {"yaml", "xml"}),
        (b"#cloud-config\n", {"yaml"}),
        (b"<x><filewrite/></x>", {"xml"}),
        (MIME + b"\n<filewrite/>\n--b--", {"xml"}),
        (b"anything else", set()),
    ],
)
def test_only_the_libraries_that_the_data_can_need_are_brought_in(data: bytes, libraries: set[str]) -> None:
    code = (
        "import sys\nfrom contextagent.payloads.userdata import prepare\n"
        f"prepare({data!r})\nprint(*sorted({{'email', 'yaml', 'xml'}} & sys.modules.keys()))"
    )
    assert set(run([sys.executable, "-c", code], cwd=".").out.split()) == libraries
