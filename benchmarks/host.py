"""The child's side of `hosts`: `python -m benchmarks.host MODULE CONTENDER`.

The module has a function `serve(contender)` that returns the functions which orders name.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def main(module: str, contender: str) -> None:
    """Answer orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    verbs: dict[str, Any] | None = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if verbs is None:
                verbs = importlib.import_module(f"benchmarks.{module}").serve(contender)
            answer = {"done": verbs[order.pop("do")](**order)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
