"""Tasks with pydantic=True; without postponed annotations, which Celery 5.5 does not resolve there."""

import pydantic
from celery import Celery

from celery_stackstate import StackState, StateTask


class Order(pydantic.BaseModel):
    number: int


def test_a_pydantic_task_gets_its_model_and_its_state() -> None:
    app = Celery("pydantic", broker="memory://", task_cls=StateTask, set_as_current=False)
    app.conf.update(stackstate_url="memory://", task_always_eager=True)

    @app.task(pydantic=True, bind=True, shared=False)
    def ship(self: StateTask, order: Order) -> int:
        return self.state.increment("shipped", order.number)

    assert ship.delay({"number": 7}).get() == 7
    assert StackState.of(app).state.count("shipped") == 7


def test_models_and_what_they_become_are_one_request() -> None:
    app = Celery("pydantic", broker="memory://", task_cls=StateTask, set_as_current=False)
    app.conf.stackstate_url = "memory://"

    @app.task(pydantic=True, shared=False)
    def ship(order: Order) -> int:
        return order.number

    first = ship.apply_async(({"number": 7},), idempotency_key="k")
    assert not ship.apply_async((), {"order": {"number": 7}}, idempotency_key="k").created
    assert first.created
