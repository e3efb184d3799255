"""The reference names everything that is public, and nothing that is not there."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib import import_module

import click
import pytest

import celery_stackstate
from celery_stackstate import errors, signals, testing
from celery_stackstate.cli import stackstate
from celery_stackstate.config import Settings
from celery_stackstate.publishing.options import OPTION_NAMES
from celery_stackstate.runs import Runs
from celery_stackstate.state import State
from celery_stackstate.task import StateTask
from tests.docs.pages import DOCS, PAGES, ROOT, title

REFERENCE = {page.name: page.read_text() for page in sorted((DOCS / "reference").glob("*.md"))}
DIRECTIVE = re.compile(r"^ *\.\. (?:auto|py:)(\w+):: (\S+)", re.MULTILINE)
DOCUMENTED = {name for text in REFERENCE.values() for _, name in DIRECTIVE.findall(text)}
COMMAND_LINE = re.compile(r"celery -A \w+ stackstate((?: +[^`|&#\n]+)?)")
NUMBER = re.compile(r"([\d,.]+)( h)?$")


def names_in_table(page: str, pattern: str = r"`(\w+)`") -> set[str]:
    """Return the names in the first columns of a page's tables."""
    return set(re.findall(rf"^\| {pattern} \|", REFERENCE[page], re.MULTILINE))


def public_methods(kind: type) -> set[str]:
    return {name for name, value in inspect.getmembers(kind) if not name.startswith("_") and callable(value)}


def test_every_public_name_is_in_the_reference() -> None:
    assert {f"celery_stackstate.{name}" for name in celery_stackstate.__all__} - DOCUMENTED == set()


def test_what_is_reached_by_other_modules_is_in_the_reference() -> None:
    places = {f"celery_stackstate.signals.{name}" for name in signals.__all__}
    places |= {f"celery_stackstate.testing.{name}" for name in testing.__all__}
    places |= {"celery_stackstate.django.DjangoStateTask"}
    places |= {"celery_stackstate.stores.base", "celery_stackstate.beat.PURGE", "celery_stackstate.beat.current_due"}
    assert places - DOCUMENTED == set()


def test_every_call_of_state_and_runs_is_in_the_reference() -> None:
    assert public_methods(State) - DOCUMENTED == set()
    members = re.search(r"celery_stackstate\.runs\.Runs\n   :members: (.*)", REFERENCE["extension.md"])
    assert members is not None
    assert public_methods(Runs) - set(members.group(1).split(", ")) == {"find"}


def test_everything_in_the_reference_is_there() -> None:
    of_django = {name for name in DOCUMENTED if name.startswith("celery_stackstate_admin.")}  # the build imports these
    for name in DOCUMENTED - of_django - public_methods(State) - {"task", "run"}:
        module, _, attribute = name.rpartition(".")
        while not _is_module(module):
            module, _, outer = module.rpartition(".")
            attribute = f"{outer}.{attribute}"
        found = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)


def _is_module(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def test_every_error_is_told_with_what_to_do() -> None:
    kinds = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert names_in_table("errors.md") == kinds - {"StackStateError"}
    assert {f"celery_stackstate.{name}" for name in kinds} - DOCUMENTED == set()


def test_every_attribute_of_a_task_is_in_the_reference() -> None:
    given = {name for name in vars(StateTask) if name in StateTask.__annotations__}
    assert names_in_table("tasks.md") == given
    assert set(OPTION_NAMES) - given == set()


@pytest.mark.parametrize("page", ["docs/reference/settings.md", "README.md"])
def test_every_setting_is_told_and_nothing_else(page: str) -> None:
    documented = set(re.findall(r"^\| `(stackstate_\w+)` \|", (ROOT / page).read_text(), re.MULTILINE))
    assert documented == {f"stackstate_{field.name}" for field in fields(Settings)}


@pytest.mark.parametrize(("page", "column"), [("docs/reference/settings.md", 2), ("README.md", 1)])
def test_the_defaults_of_settings_are_those_of_the_program(page: str, column: int) -> None:
    rows = re.findall(r"^(\| `stackstate_\w+` \| (?!for ).*)$", (ROOT / page).read_text(), re.MULTILINE)
    defaults = {f"stackstate_{field.name}": field.default for field in fields(Settings)}
    for cells in ([cell.strip() for cell in row.split(" |")] for row in rows):
        name, told = cells[0].strip("| `"), cells[column].strip("| `").removesuffix(" s")
        default = defaults[name]
        if isinstance(default, (int, float)) and not isinstance(default, bool) and (number := NUMBER.match(told)):
            assert float(number.group(1).replace(",", "")) * (3600 if number.group(2) else 1) == default, name
        elif isinstance(default, (str, bool)):
            assert told.strip('"') == str(default), name
        elif isinstance(default, tuple):
            assert tuple(re.findall(r"\w+", told)) == default, name
        else:
            assert default is None or default is MISSING or name == "stackstate_log_level", name


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_is_made_a_page_of_and_has_a_help() -> None:
    assert ".. click:: celery_stackstate.cli:stackstate\n" in REFERENCE["commands.md"]
    assert ":nested: full" in REFERENCE["commands.md"]
    assert [path for path, command in commands(stackstate) if not command.help] == []


def test_every_command_line_in_the_pages_is_one_that_is_there() -> None:
    known = dict(commands(stackstate))
    seen = set()
    for page in PAGES:
        for line in COMMAND_LINE.findall(page.read_text()):
            words = shlex.split(line.replace("...", ""))
            path = tuple(words[: 2 if tuple(words[:2]) in known else 1])
            if not path or path == ("--help",):
                continue
            assert path in known, f"{title(page)}: {line}"
            rest = [word for word in words[len(path) :] if word not in ("ID", "--help")]
            known[path].make_context(path[-1], rest, resilient_parsing=True, ignore_unknown_options=False)
            seen.add(path)
    assert len(seen) >= 9
