"""The shop's addresses."""

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("webhooks/stripe/", views.stripe_webhook),
]
