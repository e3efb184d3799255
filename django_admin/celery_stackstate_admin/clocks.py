"""Times that count down: right as text when the page was made, kept right by `countdown.js` where there are scripts."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from celery_stackstate_admin import present


def countdown(
    moment: datetime | None, read_at: datetime | None, *, never: str = "", form: str = "in"
) -> str | SafeString:
    """Return how long it was until `moment` when the store answered at `read_at`; both by the store's clock.

    `form` is "in", for what will happen then, or "for", for what lasts until then.
    """
    if moment is None or read_at is None:
        return never or _("never")
    seconds = (moment - read_at).total_seconds()
    local = timezone.localtime(moment)
    words = _("for %(time)s") if form == "for" else _("in %(time)s")
    return format_html(
        '<time class="ss-countdown" datetime="{}" title="{}" data-left="{}" data-words="{}" data-over="{}">{}</time>',
        local.isoformat(),
        local.isoformat(" "),
        f"{seconds:.3f}",
        words % {"time": "{time}"},
        _("over"),
        words % {"time": present.duration(seconds)} if seconds > 0 else _("over"),
    )


def age(moment: datetime | None, read_at: datetime | None) -> str:
    """Return how long ago `moment` was at `read_at`."""
    if moment is None or read_at is None:
        return present.NOTHING
    return _("%(time)s ago") % {"time": present.duration(max(0.0, (read_at - moment).total_seconds()))}
