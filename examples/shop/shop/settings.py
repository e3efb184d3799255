"""Django's and Celery's settings. What concerns celery-stackstate is at the end; the rest is a usual small project."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SHOP_DATA") or BASE_DIR / "data").resolve()  # demo.py gives a temporary folder
MESSAGES = DATA / "broker" / "messages"
MESSAGES.mkdir(parents=True, exist_ok=True)

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "only for trying the shop out")
DEBUG = True
ROOT_URLCONF = "shop.urls"
STATIC_URL = "static/"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "celery_stackstate_admin",  # runs and state in the admin
    "shop",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA / "shop.sqlite3",
        "OPTIONS": {  # web process and worker write side by side
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }
}

# -- Celery: a folder as the broker, so that the example needs no server. A real shop has Redis or RabbitMQ here. ------

CELERY_BROKER_URL = "filesystem://"
CELERY_BROKER_TRANSPORT = "shop.broker:Transport"
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "data_folder_in": str(MESSAGES),
    "data_folder_out": str(MESSAGES),
    "control_folder": str(DATA / "broker" / "control"),
    "polling_interval": 0.05,
}

# -- celery-stackstate -------------------------------------------------------------------------------------------------

# Where state, idempotency keys and run history live. One SQLite file serves one machine; several share a Redis.
CELERY_STACKSTATE_URL = f"sqlite:///{DATA}/stackstate.sqlite3"

# After how many seconds of silence a worker counts as dead: 30 by default, short here so that the demo need not wait.
CELERY_STACKSTATE_WORKER_LEASE = 3

# Which Celery app the admin pages are about.
STACKSTATE_APP = "shop.celery:app"
