"""The app that a measured worker loads: `celery -A benchmarks.worker_app worker`."""

import json
import os
from pathlib import Path
from typing import Any

from celery import signals

from benchmarks.apps import CONTENDER, SAMPLES, make
from benchmarks.sampling import Sampler
from benchmarks.servers import from_environment
from benchmarks.setups import find

app, nothing = make(find("worker", os.environ[CONTENDER]), from_environment())

if SAMPLES in os.environ:
    sampler = Sampler()

    def look(**_: Any) -> None:
        """Begin to look where the time goes."""
        sampler.start()

    def tell(**_: Any) -> None:
        """Leave what was seen."""
        sampler.stop()
        Path(os.environ[SAMPLES]).write_text(json.dumps(sampler.seen))

    signals.worker_ready.connect(look, weak=False)
    signals.worker_shutting_down.connect(tell, weak=False)
