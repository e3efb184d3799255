"""A Django app: the tables of stackstate in Django's own database, for `stackstate_url = "django://default"`.

    INSTALLED_APPS += ["celery_stackstate.stores.django"]

and `manage.py migrate`.
"""

from __future__ import annotations

from importlib.util import find_spec

from celery_stackstate.errors import ConfigurationError

if find_spec("django") is None:
    raise ConfigurationError("stackstate_url: django:// needs Django: pip install 'celery-stackstate[django]'")
