"""The program's start: `contextagent`, or isolated at boot, `python3 -I -S …/contextagent/__main__.py`."""

import gc
import os
import sys


def main() -> int:
    """Run the command line of this process, and return its exit code."""
    from contextagent.cli import main as run  # noqa: PLC0415  # the path below comes first

    return run(sys.argv[1:])


if __name__ == "__main__":
    if not __package__:
        # started as a file, and isolated: only here does the package's own folder come into the search path
        sys.path.insert(0, __file__.rpartition("/")[0].rpartition("/")[0] or "/")
    # a process of a few milliseconds has no rubbish to look for, but looking costs it one of them
    gc.set_threshold(100_000)
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue  # the exit code is all that can still be said
    os._exit(code)  # taking a process apart that ends anyway costs a boot as much as a fifth of its imports
