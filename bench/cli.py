"""The command line: parses and calls. Heavy imports stay inside the commands.

Exit codes: 0 all cells fine, 1 some failed or missing, 2 bad usage.
"""

import logging
from typing import Any

import click

from bench import __version__, cli_look, cli_report, cli_run, cli_tune

_USAGE = ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError


class _Group(click.Group):
    """Errors a user can make are one sentence; `--debug` shows where they come from."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = (error.ctx or ctx).command_path
            click.echo(f"gkdbench: {error.format_message()} See {command} --help", err=True)
            ctx.exit(2)
        except (*_USAGE, OSError) as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"gkdbench: {_sentence(error)}", err=True)
            ctx.exit(2 if isinstance(error, _USAGE) else 1)
        except KeyboardInterrupt:
            message = "interrupted: what is finished is kept; the same command goes on from there"
            click.echo(f"\ngkdbench: {message}", err=True)
            ctx.exit(1)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    return str(error)


class _Warnings(logging.Handler):
    """Show what the package warns of, such as a corrupt row, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"warning: {record.getMessage()}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="gkdbench")
def main(debug: bool) -> None:
    """Benchmark graph knowledge distillation: which cheap student should you ship?"""
    logger = logging.getLogger("bench")
    if not any(isinstance(handler, _Warnings) for handler in logger.handlers):
        logger.addHandler(_Warnings())


for _commands in (cli_look, cli_run, cli_tune, cli_report):
    for _command in vars(_commands).values():
        if isinstance(_command, click.Command):
            main.add_command(_command)
