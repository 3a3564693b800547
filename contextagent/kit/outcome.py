"""What came out of a simulated boot: as JSON, and as a folder to keep."""

from __future__ import annotations

import os
import shutil

from contextagent import jsontext
from contextagent.errors import CannotWriteError, UsageError
from contextagent.runner.status import EXIT_CODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from contextagent.host.layers import Layer
    from contextagent.kit.changes import Change
    from contextagent.kit.simulate import PhaseRun, Simulation


def exit_code_of(simulation: Simulation) -> int:
    """Return the result's exit code; without a status, the agent's own."""
    if simulation.status is not None:
        return EXIT_CODES[str(simulation.status["result"])]
    return max((abs(phase.exit_code) for phase in simulation.phases), default=0)


def facts_of(simulation: Simulation) -> dict[str, object]:
    """Return everything as JSON (keys are a promise: docs/reference/cli.md)."""
    status = simulation.status
    return {
        "plan": simulation.plan,
        "result": status["result"] if status else None,
        "phases": [_phase_facts(phase) for phase in simulation.phases],
        "status": status,
        "changes": [change_facts(change) for change in simulation.changes],
        "own": [change_facts(change) for change in simulation.own],
        "warnings": list(simulation.warnings),
    }


def _phase_facts(phase: PhaseRun) -> dict[str, object]:
    return {
        "phase": phase.phase,
        "exit_code": phase.exit_code,
        "restarts": phase.restarts,
        "messages": list(phase.messages),
        "requests": [request.as_dict() for request in phase.requests],
        "outputs": dict(phase.tails),
    }


def change_facts(change: Change) -> dict[str, object]:
    """Return one change as JSON."""
    return {**change.as_dict(), "mode": f"{change.mode:04o}", "what": list(change.what)}


def check_out(folder: str) -> None:
    """Refuse a folder that is not there to be made, and not empty either.

    Raises:
        UsageError: It will not do.
    """
    try:
        if os.listdir(folder):
            raise UsageError(f"cannot write to '{folder}': it is not empty")
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.abspath(folder))):
            raise UsageError(f"cannot write to '{folder}': the folder above it is not there") from None
    except OSError as error:
        raise UsageError(f"cannot write to '{folder}': {(error.strerror or str(error)).lower()}") from error


def keep(folder: str, simulation: Simulation, layers: Sequence[Layer]) -> None:
    """Write a closed view's outcome to a folder: what changed as files, and what the agent said of it.

    `files/` looks as the machine would, so `contextagent --root FOLDER/files explain` tells of the simulated boot.

    Raises:
        CannotWriteError: It can't be written.
    """
    try:
        os.makedirs(f"{folder}/files", mode=0o700, exist_ok=True)
        os.chmod(folder, 0o700)
        everything = (*simulation.changes, *simulation.own)
        for change in everything:
            if change.change != "removed":
                _copy(change, _seen(change.path, layers), f"{folder}/files{change.path}")
        removed = [change.path for change in everything if change.change == "removed"]
        _write(f"{folder}/removed", "".join(f"{path}\n" for path in removed))
        _write(f"{folder}/report.json", jsontext.dumps(facts_of(simulation), indent=2))
        _write(f"{folder}/plan.json", jsontext.dumps(simulation.plan, indent=2))
        if simulation.status is not None:
            _write(f"{folder}/status.json", jsontext.dumps(simulation.status, indent=2))
            _keep_traces(folder, simulation.status)
    except OSError as error:
        raise CannotWriteError(f"cannot write to '{folder}': {error.strerror or error}") from error


def _keep_traces(folder: str, status: Mapping[str, Any]) -> None:
    """Put the trace, the receipt and the scripts' outputs where a person looks first."""
    logs = f"{folder}/files/var/log/contextagent"
    for name, source in (("trace.jsonl", "trace-{}.jsonl"), ("receipt.json", "receipt-{}.json")):
        path = f"{logs}/{source.format(os.path.basename(str(status['boot_id'])))}"
        if os.path.isfile(path) and not os.path.islink(path):
            shutil.copyfile(path, f"{folder}/{name}", follow_symlinks=False)
    for script in status["scripts"]:
        path = f"{folder}/files{os.path.normpath('/' + str(script['output'] or ''))}"
        if script["output"] and os.path.isfile(path) and not os.path.islink(path):
            target = f"{folder}/outputs{os.path.normpath('/' + str(script['id']))}"
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            shutil.copyfile(path, target, follow_symlinks=False)


def _seen(path: str, layers: Sequence[Layer]) -> str:
    """Return where a path of the view is, in the deepest layer that holds it."""
    holding = [layer for layer in layers if layer.point == "/" or path.startswith(f"{layer.point}/")]
    layer = max(holding, key=lambda each: len(each.point))
    return layer.root + path[len(layer.point.rstrip("/")) :]


def _copy(change: Change, source: str, target: str) -> None:
    """Copy one file, link or folder with its owner and mode, but nothing that would give its caller rights."""
    _make_way(os.path.dirname(target))
    if change.kind == "folder":
        os.makedirs(target, exist_ok=True)
    elif change.kind == "link":
        os.symlink(change.target, target)
    elif change.kind == "file":
        shutil.copyfile(source, target, follow_symlinks=False)
    else:
        return
    os.chown(target, change.uid, change.gid, follow_symlinks=False)
    if change.kind != "link":
        os.chmod(target, change.mode & 0o777)


def _make_way(folder: str) -> None:
    """Make a folder with its parents; what stands there already is what was copied, whatever it is."""
    os.makedirs(folder, mode=0o755, exist_ok=True)


def _write(path: str, text: str) -> None:
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
