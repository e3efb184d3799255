"""What the shop keeps in its own database."""

from django.db import models


class Payment(models.Model):
    """Money that came in."""

    event_id = models.CharField(max_length=64, unique=True)
    order = models.PositiveIntegerField()
    cents = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.cents / 100:.2f} for order {self.order}"


class Product(models.Model):
    """Something to sell. `stored_by` is the process that wrote the row, for the demo to count."""

    sku = models.CharField(max_length=32, unique=True)
    name = models.CharField(max_length=100)
    cents = models.PositiveIntegerField()
    stored_by = models.PositiveIntegerField()

    def __str__(self) -> str:
        return self.name
