"""Looks at the shop's admin as an administrator would."""

from celery_stackstate import StackState

from story.account import Account
from story.visitor import Visitor

RUNS = "/admin/celery_stackstate_admin/run/"
STATE = "/admin/celery_stackstate_admin/stateentry/"


def check_admin(account: Account, stackstate: StackState, address: str, login: tuple[str, str]) -> None:
    """Log in, open the lists and a run's page, and check what they show."""
    account.chapter("The same in Django's admin", f"Logging in at {address}/admin/ and reading its pages.")
    account.gap()
    visitor = Visitor(address)
    stranger = visitor.get(RUNS)
    account.check("Log in" in stranger.text, "without a login there is only the login page")
    index = visitor.log_in(*login)
    account.check(
        index.status == 200 and RUNS in index.text and STATE in index.text, "the index after login links to both lists"
    )
    _check_runs(account, stackstate, visitor)
    state = visitor.get(STATE)
    account.check(state.status == 200 and "mails:sent" in state.text, "the state list shows the counter of mails")
    style = visitor.get("/static/celery_stackstate_admin/admin.css")
    account.check(style.status == 200, "the pages' style sheet is served")


def _check_runs(account: Account, stackstate: StackState, visitor: Visitor) -> None:
    runs = stackstate.runs.list().items
    listed = visitor.get(RUNS)
    account.check(
        listed.status == 200 and bool(runs) and all(run.id in listed.text for run in runs),
        f"the list of runs shows all {len(runs)}",
    )
    only = visitor.get(f"{RUNS}?status=FAILURE")
    account.check(only.status == 200 and not any(run.id in only.text for run in runs), "and, of those, no failed one")
    imported = next((run for run in runs if (run.task or "").endswith("import_products")), None)
    page = visitor.get(f"{RUNS}{imported.id if imported else 'unknown'}/change/")
    shown = ("LOST", "SUCCESS", "import:acme", "resumed_from", "300")
    account.check(
        page.status == 200 and all(word in page.text for word in shown),
        "the import's page shows both attempts, its key, progress and result",
    )
