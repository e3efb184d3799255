"""`celery -A proj stackstate ...`. Celery loads this module for each of its commands, so it imports click alone."""

from __future__ import annotations

from importlib import import_module

import click

#: What to do where the extra is not installed.
INSTALL = "pip install 'celery-stackstate[cli]'"

#: Each command with the module that holds it, in the order of the help.
COMMANDS = {
    "init": "upkeep",
    "check": "checking",
    "runs": "runs",
    "run": "one_run",
    "watch": "watching",
    "state": "state",
    "locks": "locks",
    "keys": "keys",
    "workers": "workers",
    "purge": "upkeep",
}


class Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        try:
            found: click.Command = getattr(import_module(f"{__name__}.{COMMANDS[cmd_name]}"), cmd_name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "rich":
                raise
            return Uninstalled(cmd_name)
        return found


class Uninstalled(click.Command):
    """Stands in for a command while what prints its output is not installed, and says what to install."""

    def __init__(self, name: str) -> None:
        super().__init__(name, help=f"({INSTALL})", add_help_option=False)
        self.context_settings = {"ignore_unknown_options": True, "allow_extra_args": True}

    def invoke(self, ctx: click.Context) -> None:
        """End with a line that says it, and exit code 1."""
        raise click.ClickException(f"`stackstate {self.name}` prints with rich, which is not installed: {INSTALL}")


@click.group(cls=Commands)
def stackstate() -> None:
    """Durable state, idempotency keys and run history.

    \b
    Exit codes: 0 it is done, 1 something is to be corrected or was not found,
    2 the command line is wrong, 3 a store cannot be reached now,
    4 the run that was watched did not succeed.

    \b
    Examples:
        celery -A shop stackstate runs --status FAILURE
        celery -A shop stackstate watch 7d1c8a9e-...
    """
