"""The house of the design: every arrow points down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "celery_stackstate"

#: Each module's floor; a module may import from its own floor and those below.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("version", "errors", "records", "receiving", "latest", "positional", "usage", "visible"),
    ("stores", "value_scan"),
    ("redaction",),
    ("showing",),
    ("codec", "keys", "surely", "fingerprint", "payload", "renewal", "facts", "log_tail", "setting_checks"),
    ("touches", "telling", "chores"),
    ("holding", "lock_record", "liveness", "key_record", "attempt", "history", "asking"),
    ("locks", "limits", "shapes", "key_store", "retention", "tallies", "folders"),
    ("scoped", "values", "counters", "timeline", "reserving", "claiming"),
    ("key_protocol",),
    ("state", "steps", "idempotency", "runs", "browse", "recorder"),
    ("attached", "config", "header", "outcome", "beat"),
    ("result", "recording", "details", "signals"),
    ("publishing",),
    ("worker",),
    ("extension",),
    ("diagnosis",),
    ("task",),
    ("django", "cli", "testing", "pytest_plugin", ""),
)
KNOW_CELERY = {
    *("attached", "config", "outcome", "beat", "result", "receiving", "recording", "details", "signals", "publishing"),
    *("worker", "extension", "task", "django", "testing", ""),
}
FRAMEWORKS = {"celery", "kombu", "billiard", "django"}
#: The one store that lives in a framework.
DJANGO_STORE = "celery_stackstate.stores.django"


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(name: str) -> str:
    """Return the first part of a module's name inside the package, "" for the package itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports at any depth, except for type checkers alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "celery_stackstate")


def floor_of(room: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_its_floor_and_below(path: Path) -> None:
    here = floor_of(room_of(name_of(path)))
    for imported in imports(path):
        if imported.startswith("celery_stackstate.") and (PACKAGE / f"{room_of(imported)}.py").exists():
            assert floor_of(room_of(imported)) <= here, f"{name_of(path)} imports {imported} from above"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_glue_knows_celery_and_django(path: Path) -> None:
    if room_of(name_of(path)) not in KNOW_CELERY:
        known = {"django"} if f"{name_of(path)}.".startswith(f"{DJANGO_STORE}.") else set()
        assert not {imported.split(".")[0] for imported in imports(path)} & (FRAMEWORKS - known)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nobody_above_the_stores_names_a_concrete_store(path: Path) -> None:
    if room_of(name_of(path)) not in ("stores", "testing"):
        concrete = {
            f"celery_stackstate.stores.{name}" for name in ("memory", "sql", "sqlite", "sqlalchemy", "django", "redis")
        }
        assert not set(imports(path)) & concrete


def test_the_library_never_imports_the_admin() -> None:
    for path in modules():
        assert not any(imported.startswith("celery_stackstate_admin") for imported in imports(path))


ADMIN = ROOT / "django_admin" / "celery_stackstate_admin"
#: What a room of the admin may import of the others; the modules beside the rooms are for all of them.
ADMIN_ROOMS: dict[str, set[str]] = {
    **{"runs": {"runlist", "runpage"}, "runlist": {"runs"}, "runpage": set()},
    **{"state": set(), "keys": set(), "workers": set(), "migrations": set(), "templatetags": set()},
}
#: They bring the rooms together.
ADMIN_GLUE = {"admin", "models"}


def admin_modules() -> list[Path]:
    return sorted(ADMIN.rglob("*.py"))


@pytest.mark.parametrize("path", admin_modules(), ids=lambda path: str(path.relative_to(ADMIN)))
def test_a_room_of_the_admin_keeps_to_itself(path: Path) -> None:
    folder, *inside = path.relative_to(ADMIN).with_suffix("").parts
    allowed = {folder, *ADMIN_ROOMS[folder]} if inside else set(ADMIN_ROOMS) if folder in ADMIN_GLUE else set()
    for imported in imports(path):
        package, _, rest = imported.partition(".")
        room = rest.partition(".")[0]
        if package == "celery_stackstate_admin" and room in ADMIN_ROOMS:
            assert room in allowed, f"{path} imports {imported}"


def test_every_room_has_a_floor() -> None:
    for path in modules():
        floor_of(room_of(name_of(path)))
