"""The world outside the shop, pretended: a supplier's price list, a mail server, a slow renderer."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PRODUCTS = 300
PAGE = 10


class MailServerBusy(Exception):
    """The mail server said 421: try again later."""


@dataclass(frozen=True)
class PriceListPage:
    """Some products of a price list; `end` is how many there are up to and with this page."""

    items: list[dict[str, Any]]
    end: int


def price_list_length(supplier: str) -> int:
    """Return how many products the supplier has."""
    return PRODUCTS


def price_list(supplier: str, start: int) -> Iterator[PriceListPage]:
    """Download the price list from product `start` on, page by page."""
    for first in range(start, PRODUCTS, PAGE):
        time.sleep(0.15)  # the network
        numbers = range(first, min(first + PAGE, PRODUCTS))
        items = [{"sku": f"{supplier}-{n:04}", "name": f"Thing no. {n}", "cents": 100 + n} for n in numbers]
        yield PriceListPage(items, numbers.stop)


def send_mail(subject: str, tries: int) -> None:
    """Send a mail, which the server takes at the third try."""
    if tries < 3:
        raise MailServerBusy(f"421 try again later: {subject}")


def render_catalogue() -> None:
    """Write the catalogue's pages."""
    time.sleep(1.0)
