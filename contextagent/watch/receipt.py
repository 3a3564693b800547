"""The boot's receipt, delivered to the job outputs once the boot is over; the stop phase delivers it again."""

from __future__ import annotations

from contextagent.runner import joboutputs
from contextagent.watch.once import Once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.runner.joboutputs import Delivery
    from contextagent.watch.room import Watch


def begin(watch: Watch) -> Once:
    """Return the part."""

    def start() -> Delivery | None:
        outputs = joboutputs.outputs_of(watch.live, watch.settings)
        return joboutputs.start_receipt(watch.host, outputs) if outputs.where else None

    return Once(watch, "receipt", ("ok", "degraded", "failed"), start)
