"""Who asked what when: an ear on the loopback link of a network namespace, as a process of its own.

    python -m tests.bench.listener PORT LOG

It sees what goes to and from a port, whoever serves there, and disturbs nobody.  A line of the log is `EPOCH_NS KIND
ADDRESS WORD`: the kernel's time, the address that the client called, and for the kinds `request` the path, `answer` the
status, `connection` nothing.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import NamedTuple

_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_ETH_P_IP = 0x0800
_SEEN_BYTES = 1 << 10
_BUFFER_BYTES = 256 << 20
_TCP = 6
_SYN, _ACK = 0x02, 0x10


class Heard(NamedTuple):
    """One thing that was heard."""

    epoch_s: float
    kind: str
    address: str
    word: str


def heard(line: str) -> Heard:
    """Return what a line of the log says."""
    epoch_ns, kind, address, word = line.split(" ")
    return Heard(int(epoch_ns) / 1e9, kind, address, word)


def told(packet: bytes, port: int) -> tuple[str, str, str] | None:
    """Return kind, address and word of an IPv4 packet; None for one that says nothing new of this port."""
    if len(packet) < 20 or packet[9] != _TCP:
        return None
    segment = packet[(packet[0] & 15) * 4 :]
    source, target = struct.unpack_from("!HH", segment)
    payload, flags = segment[(segment[12] >> 4) * 4 :], segment[13]
    called, caller = socket.inet_ntoa(packet[16:20]), socket.inet_ntoa(packet[12:16])
    if target == port and flags & (_SYN | _ACK) == _SYN:
        return "connection", called, "-"
    if target == port and payload[:4] in (b"GET ", b"PUT "):
        return "request", called, payload.split(b" ", 2)[1].decode("latin-1")
    if source == port and payload[:5] == b"HTTP/":
        return "answer", caller, payload.split(b" ", 2)[1].decode("latin-1")
    return None


def main() -> None:
    """Listen until killed."""
    port, log = int(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP)) as ear:
        ear.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        ear.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        ear.bind(("lo", _ETH_P_IP))
        print("ready", flush=True)
        while True:
            packet, times, _, where = ear.recvmsg(_SEEN_BYTES, 64)
            said = told(packet, port) if where[2] != socket.PACKET_OUTGOING else None  # loopback shows each one twice
            if said:
                seconds, nanoseconds = struct.unpack("qq", times[0][2])
                os.write(log, f"{seconds * 10**9 + nanoseconds} {' '.join(said)}\n".encode())


if __name__ == "__main__":
    main()
