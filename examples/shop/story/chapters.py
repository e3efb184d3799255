"""The story, told while it happens. Every claim it makes is checked against the shop's database and the run history."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from celery_stackstate import Run, RunResult, StackState

from shop.models import Payment, Product
from shop.tasks import import_products, rebuild_catalogue
from story.account import Account, short
from story.processes import Background, Processes, wait_until_ready
from story.visitor import Answer, Visitor
from story.waiting import StoryStopped, wait_for

EVENTS = (
    {"id": "evt_1001", "order": 7, "cents": 4900},
    {"id": "evt_1002", "order": 8, "cents": 1250},
)
HALF = 150


@dataclass
class Story:
    """What the chapters share."""

    account: Account
    processes: Processes
    stackstate: StackState
    address: str
    worker: Background

    def tell(self) -> None:
        """Tell all chapters."""
        self.webhooks()
        self.receipts()
        self.killed_import()
        self.rebuilds()

    # -- one event, three deliveries -----------------------------------------------------------------------------------

    def webhooks(self) -> None:
        """Deliver an event three times at once, then another, then the first again with another amount."""
        tell, (event, other) = self.account, EVENTS
        tell.chapter(
            "Stripe delivers the same event three times, all at once",
            'The view enqueues with idempotency_key=f"stripe:{event_id}". The deliveries race; one run is made.',
        )
        tell.gap()
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(self._deliver, [event] * 3))
        for answer in answers:
            tell.sent(f"POST webhook {event['id']}  amount 49.00", said(answer))
        runs = {answer.json.get("run") for answer in answers}
        second = self._deliver(other)
        tell.sent(f"POST webhook {other['id']}  amount 12.50", said(second))
        changed = self._deliver({**event, "cents": 9900})
        tell.sent(f"POST webhook {event['id']}  amount 99.00", said(changed))
        tell.gap()
        tell.say(f"The last one, as the library words it: {changed.json.get('error')}")
        run = self._ended(str(answers[0].json.get("run")))
        self._ended(str(second.json.get("run")))
        self._show(run)
        tell.gap()
        tell.check(len(runs) == 1, "three deliveries got the same run id")
        tell.check(sum(bool(answer.json.get("created")) for answer in answers) == 1, "one of them created the run")
        tell.check(statuses(run) == ["SUCCESS"], "it ran once and succeeded")
        tell.check(Payment.objects.count() == 2, "two events, two payments in the database")
        tell.check(
            changed.status == 409 and Payment.objects.get(event_id=event["id"]).cents == event["cents"],
            "the same event with another amount is an IdempotencyConflict, and booked nothing",
        )

    def _deliver(self, event: dict[str, object]) -> Answer:
        return Visitor(self.address).post_json("/webhooks/stripe/", event)

    # -- retries -------------------------------------------------------------------------------------------------------

    def receipts(self) -> None:
        """Watch the receipts, which the mail server refuses twice."""
        tell = self.account
        tell.chapter(
            "The mail server is busy: retries are one run",
            "Each payment sent a receipt when it was committed. The mail server takes a mail at the third try; Celery "
            "retries, and the run's own memory (self.state.run) counts along.",
        )
        runs = [self._ended(self._run_of(f"receipt:{event['id']}")) for event in EVENTS]
        self._show(runs[0])
        mails = self.stackstate.state.count("mails:sent")
        tell.gap()
        for run in runs:
            tell.check(
                statuses(run) == ["RETRY", "RETRY", "SUCCESS"],
                f"receipt {short(run.id)}: two retries, then success, in one history",
            )
        booked = [self._run_of(f"stripe:{event['id']}") for event in EVENTS]
        tell.check([run.parent_id for run in runs] == booked, "each knows the payment's run that started it")
        tell.check(mails == 2, f'the counter "mails:sent" is {mails}: four deliveries, six tries, two mails')

    def _run_of(self, key: str) -> str:
        found = wait_for(lambda: self.stackstate.runs.list(key=key).items, f"a run with the key {key}")
        return found[0].id

    # -- a worker that is killed ---------------------------------------------------------------------------------------

    def killed_import(self) -> None:
        """Kill the worker in the middle of a long import, and bring the run back."""
        tell = self.account
        tell.chapter(
            "A long import; its worker is killed half-way",
            "The import stores 300 products page by page and keeps its place in self.state.run. SIGKILL takes the "
            "worker and its children. This broker forgets a message whose worker dies: the repeated request with the "
            "same key brings the run back.",
        )
        tell.gap()
        first = self._ask_import("request with the key")
        run_id = first.id
        own = self.stackstate.state.for_run(run_id)
        wait_for(lambda: own.get("done", 0) >= HALF, "half of the products")
        killed, self.worker = self.worker, self._kill_worker()
        repeated = self._ask_import("the same request, at once")
        tell.gap()
        tell.say("The dead worker's lease has not lapsed yet: for all anyone can know it is at work. Asking on ...")
        tell.gap()
        again, asked = self._ask_until_created()
        tell.sent(f"the same request, {asked} times more", created(again))
        wait_until_ready(self.worker)
        run = self._ended(run_id)
        self._show(run)
        tell.gap()
        tell.check(
            (repeated.created, repeated.id) == (False, run_id),
            "before the lease lapsed, the repeated request was a plain duplicate",
        )
        tell.check((again.created, again.id) == (True, run_id), "after it, the run came back under the same id")
        self._check_import(run, killed)

    def _ask_import(self, how: str) -> RunResult:
        result = import_products.apply_async(("acme",), idempotency_key="import:acme:2026-11")
        self.account.sent(how, created(result))
        return result

    def _ask_until_created(self) -> tuple[RunResult, int]:
        asked = 0

        def ask() -> RunResult | None:
            nonlocal asked
            asked += 1
            result = import_products.apply_async(("acme",), idempotency_key="import:acme:2026-11")
            return result if result.created else None

        return wait_for(ask, "the dead worker's lease to lapse", pause=0.25), asked

    def _kill_worker(self) -> Background:
        self.worker.kill()
        self.account.sent(f"SIGKILL to the worker, pid {self.worker.pid}", "gone; a new worker is started")
        return self.processes.worker("worker2")

    def _check_import(self, run: Run, killed: Background) -> None:
        tell, result = self.account, run.result or {}
        resumed, total = result.get("resumed_from", 0), result.get("total", 0)
        rows = Counter(Product.objects.values_list("stored_by", flat=True))
        pids = [attempt.pid for attempt in run.attempts]
        tell.check(statuses(run) == ["LOST", "SUCCESS"], "one run, two attempts: the first LOST, the second SUCCESS")
        tell.check(not killed.alive() and len(set(pids)) == 2, f"two processes ran it: {' and '.join(map(str, pids))}")
        tell.check(0 < HALF <= resumed < total, f"it resumed behind what was stored: at {resumed} of {total}")
        by_each = [rows[pid or 0] for pid in pids]
        tell.check(
            sum(by_each) == len(set(Product.objects.values_list("sku", flat=True))) == total,
            f"{' + '.join(map(str, by_each))} = {total} products stored, none of them twice",
        )
        tell.check(bool(by_each) and resumed <= by_each[0] <= resumed + 10, "the second attempt stored only the rest")

    # -- a lock --------------------------------------------------------------------------------------------------------

    def rebuilds(self) -> None:
        """Ask for two rebuilds at once."""
        tell, state = self.account, self.stackstate.state
        tell.chapter(
            "Two rebuilds at once, one lock",
            'Both runs want self.state.lock("catalogue"). The one that finds it busy goes back to the queue under its '
            "own id, without keeping a worker process waiting.",
        )
        first = rebuild_catalogue.apply_async(("prices changed",))
        wait_for(lambda: state.lock_info("catalogue"), "the first rebuild to take the lock", pause=0.01)
        second = rebuild_catalogue.apply_async(("new products",))
        runs = [self._ended(result.id) for result in (first, second)]
        for run in runs:
            self._show(run)
        spans = sorted(self._span(run) for run in runs)
        tell.gap()
        tell.check(all(run.status == "SUCCESS" for run in runs), "both finished")
        tell.check(len(runs[1].attempts) > 1, "the second found the lock busy and stood back")
        tell.check(runs[1].retries == 0, "and used up none of its retries")
        apart = (spans[1][0] - spans[0][1]).total_seconds()
        tell.check(apart >= 0, f"they never overlapped: the one began {apart:.2f} s after the other had ended")
        tell.check(state.lock_info("catalogue") is None, "the lock is free again")

    def _span(self, run: Run) -> tuple[datetime, datetime]:
        at = {event.name: event.at for event in self.stackstate.runs.events(run.id)}
        if not {"rebuild begins", "rebuild ends"} <= at.keys():
            raise StoryStopped(f"run {short(run.id)} recorded no begin or no end of its rebuild")
        return at["rebuild begins"], at["rebuild ends"]

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _ended(self, run_id: str) -> Run:
        def ended() -> Run | None:
            run = self.stackstate.runs.get(run_id)
            return run if run is not None and run.finished else None

        return wait_for(ended, f"run {short(run_id)} to end")

    def _show(self, run: Run) -> None:
        self.account.run(run, self.stackstate.runs.events(run.id))


def statuses(run: Run) -> list[str]:
    """Return how each attempt ended."""
    return [attempt.status for attempt in run.attempts]


def said(answer: Answer) -> str:
    """Return what the webhook view answered, in short."""
    run = short(str(answer.json.get("run")))
    if answer.status == 200:
        return f"{answer.status} run {run} {'created' if answer.json.get('created') else 'duplicate'}"
    return f"{answer.status} conflict with run {run}"


def created(result: RunResult) -> str:
    """Return what a request with a key came to, in short."""
    return f"run {short(result.id)} {'created' if result.created else 'duplicate'}"
