"""How the documentation is built: `tox run -e docs`, or `sphinx-build -W --keep-going -n docs <folder>`."""

from __future__ import annotations

import sys
from pathlib import Path

import django
from django.conf import settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

# Autodoc imports what the Django app offers to a project's own pages.
settings.configure(
    SECRET_KEY="documentation",  # noqa: S106
    INSTALLED_APPS=[f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages")]
    + ["celery_stackstate_admin"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()

from celery_stackstate import __version__  # noqa: E402

project = "celery-stackstate"
author = "the celery-stackstate authors"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "docstrings",
    "public_names",
    "root_pages",
    "shown",
]

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
exclude_patterns = ["_ext"]
smartquotes = False  # `--json` is no dash
default_role = "code"  # docstrings write `names` as Markdown does
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"
# What other projects define is not looked up: the build needs no network.
nitpick_ignore_regex = [("py:.*", r"(?!celery_stackstate).*")]

html_theme = "furo"
html_title = "celery-stackstate"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/mark.svg"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_logo": "mark.svg",
    "dark_logo": "mark.svg",
    "navigation_with_keys": True,
    "light_css_variables": {
        "color-brand-primary": "#0b6e4f",
        "color-brand-content": "#0b6e4f",
        "color-brand-visited": "#46657a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5fd3a5",
        "color-brand-content": "#5fd3a5",
        "color-brand-visited": "#8fb8d0",
    },
}
