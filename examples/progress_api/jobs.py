"""The background work: an import that goes on where it was when its worker is killed."""

import logging
import os
import time
from pathlib import Path

from celery import Celery
from celery_stackstate import StateTask

DATA = Path(os.environ.get("IMPORTS_DATA", Path(__file__).parent / "data")).resolve()
MESSAGES = DATA / "broker"
MESSAGES.mkdir(parents=True, exist_ok=True)

logger = logging.getLogger(__name__)

app = Celery("imports", broker="filesystem://", task_cls=StateTask)
app.conf.stackstate_url = f"sqlite:///{DATA}/stackstate.sqlite3"  # one machine; several share a Redis or PostgreSQL
app.conf.stackstate_worker_lease = (
    3  # seconds of silence after which a worker is dead: 30 by default, short to watch it
)
app.conf.stackstate_store_timeout = 2  # seconds after which a store that does not answer is away: 5 by default

# A folder as the broker, so that the example needs no server. A real project has Redis or RabbitMQ here.
app.conf.broker_transport = "broker:Transport"
app.conf.broker_transport_options = {
    "data_folder_in": str(MESSAGES),
    "data_folder_out": str(MESSAGES),
    "control_folder": str(DATA / "control"),
    "polling_interval": 0.05,
}


# acks_late, as for every task with a key; lost_policy: when its worker is killed, the other workers publish it again.
@app.task(bind=True, acks_late=True, lost_policy="rerun")
def import_rows(self: StateTask, name: str, rows: int) -> dict[str, object]:
    """Import the rows of a file one by one. A run that lost its worker goes on behind the last row that was stored."""
    start = self.state.run.get("done", 0)  # .run is this run's own memory, and the same one in each of its attempts
    logger.info("importing %s from row %d of %d", name, start + 1, rows)
    for row in range(start + 1, rows + 1):
        time.sleep(0.04)  # store one row, so that storing it again does no harm
        self.state.run.set("done", row)
        self.timeline.progress(row, rows, f"row {row} of {name}")  # cheap: written about once a second
        if row % 50 == 0:
            logger.info("%d rows are stored", row)
    logger.info("all %d rows are stored", rows)
    return {"file": name, "rows": rows, "resumed_behind": start}
