"""The shop's background work: four tasks that may be asked for twice, killed half-way and run side by side.

`self.state` is a small memory that all workers share and that survives retries, crashes and restarts.
`self.timeline` adds to the run's history, and so does every ordinary log line; the admin shows both.
"""

import logging
import os

from celery import shared_task
from celery_stackstate.django import DjangoStateTask
from django.db import transaction

from shop import outside
from shop.models import Payment, Product

logger = logging.getLogger(__name__)


# acks_late, as for every task with a key: the message of a worker that dies goes back to the broker (where the broker
# can do that), and the key sees to it that the copy does no harm.
@shared_task(bind=True, acks_late=True)
def book_payment(self: DjangoStateTask, event_id: str, order: int, cents: int) -> None:
    """Book a payment, and send the receipt when it is committed. The caller's idempotency key makes it run once."""
    with transaction.atomic():
        # Between this commit and "the run is done" a worker can still die: what it writes must bear being repeated.
        Payment.objects.get_or_create(event_id=event_id, defaults={"order": order, "cents": cents})
        send_receipt.apply_async_on_commit((order,), idempotency_key=f"receipt:{event_id}")
    logger.info("booked %.2f for order %d", cents / 100, order)


@shared_task(bind=True, acks_late=True, autoretry_for=(outside.MailServerBusy,), default_retry_delay=1)
def send_receipt(self: DjangoStateTask, order: int) -> int:
    """Mail a receipt; a busy mail server is tried again. Retries are Celery's own and stay one run with one history."""
    tries = self.state.run.increment("tries")  # .run is this run's own memory, and the same one after a retry
    outside.send_mail(f"receipt of order {order}", tries)
    return self.state.increment("mails:sent")  # atomic, whatever the number of workers


@shared_task(bind=True, acks_late=True)
def import_products(self: DjangoStateTask, supplier: str) -> dict[str, int]:
    """Import a price list page by page. A run that lost its worker goes on behind the last page that was stored."""
    start = self.state.run.get("done", 0)
    total = outside.price_list_length(supplier)
    for page in outside.price_list(supplier, start):
        rows = [Product(**item, stored_by=os.getpid()) for item in page.items]
        Product.objects.bulk_create(rows, ignore_conflicts=True)  # a page stored just before a crash comes again
        self.state.run.set("done", page.end)
        self.timeline.progress(page.end, total)  # cheap: written about once a second
    return {"resumed_from": start, "total": total}


@shared_task(bind=True)
def rebuild_catalogue(self: DjangoStateTask, reason: str) -> None:
    """Rebuild the public catalogue, one run at a time: when the lock is busy, Celery gets the run again for later.

    That keeps no worker process waiting, and uses up none of the run's retries.
    """
    with self.state.lock("catalogue", ttl=30):  # renewed while this process lives
        self.timeline.event("rebuild begins", reason=reason)
        outside.render_catalogue()
        self.timeline.event("rebuild ends")
