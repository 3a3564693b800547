"""Any program as a pilot: nothing is added to what is written; 0 is done, all else is not."""

from __future__ import annotations

from contextagent.pilots.parts import Framework

COMMAND = Framework(
    form="path",
    codes={
        0: (200, "the pilot has ended"),
        126: (500, "the pilot can't be executed"),
        127: (500, "the pilot's program is not there"),
    },
)
