"""What the web process does: takes a payment provider's webhooks and hands them to the worker."""

import json

from celery_stackstate import IdempotencyConflict
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from shop.tasks import book_payment


@csrf_exempt
@require_POST
def stripe_webhook(request: HttpRequest) -> JsonResponse:
    """Enqueue the event. Stripe delivers each at least once; the key makes all deliveries of one event one run."""
    event = json.loads(request.body)  # a real view verifies Stripe's signature first
    try:
        run = book_payment.apply_async(
            (event["id"], event["order"], event["cents"]),
            idempotency_key=f"stripe:{event['id']}",
        )
    except IdempotencyConflict as conflict:  # the same event id with other contents: never run, never ignored
        return JsonResponse({"error": str(conflict), "run": conflict.task_id}, status=409)
    return JsonResponse({"run": run.id, "created": run.created})
