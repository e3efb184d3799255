"""Runs the example: a worker and a web server, in a folder that goes at the end.

python demo.py          stays until Ctrl-C; open the address that it prints
python demo.py --once   drives an import through a duplicate, a killed worker and an outage; exits with 1 if anything
                        was not as it should be
"""

import argparse
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import FrameType

from processes import Background, Stopped, start_server, start_worker
from story import Story, stay

INTERRUPTED = 130


def main() -> int:
    """Start the processes, tell the story or stay; return the exit status."""
    parser = argparse.ArgumentParser(description="Run an import service that survives its worker.")
    parser.add_argument("--once", action="store_true", help="drive one import through, check it, and exit")
    parser.add_argument("--port", type=int, default=0, help="port of the web server (default: any that is free)")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    with tempfile.TemporaryDirectory(prefix="celery-stackstate-imports-", ignore_cleanup_errors=True) as folder:
        try:
            return run(Path(folder), once=options.once, port=options.port)
        except KeyboardInterrupt:
            print("\nStopped: worker, server and data are gone.")
            return INTERRUPTED if options.once else 0
        except Exception as error:
            return failed(repr(error) if not isinstance(error, Stopped) else str(error))
        finally:
            for process in Background.every:
                process.kill()


def run(data: Path, *, once: bool, port: int) -> int:
    """Run the example in the folder `data`."""
    worker = start_worker("worker1", data)
    server, address = start_server(data, port)
    print(
        f"celery-stackstate: imports with progress, on SQLite and a folder as the broker\n\n  {address}\n", flush=True
    )
    if not once:
        print(f"Start an import there, then kill its worker:   kill -9 -{worker.pid}\nCtrl-C ends everything.\n")
        stay(server, worker, partial(start_worker, data=data))
        return failed("the server has ended")
    story = Story(address, data, worker)
    story.tell()
    if story.wrong:
        return failed(f"{story.wrong} of the above are not as they should be")
    print("\nAll is as it should be.")
    return 0


def failed(why: str) -> int:
    """Say what went wrong, with the logs."""
    for process in Background.every:
        print(f"\n--- log of {process.name}\n{process.log()[-4000:]}", file=sys.stderr)
    print(f"\n{why}", file=sys.stderr)
    return 1


def interrupt(number: int, frame: FrameType | None) -> None:
    """Let a signal end the example as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
