"""The commands as one, and what every failure of theirs becomes: a line on stderr and an exit code.

Imports click and the commands. The rule that must stay true: a failure that we can name never shows a traceback.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from .. import __version__
from ..errors import AiLibError, CallerError
from .chat import chat
from .conformance import conformance
from .demo import demo
from .doctor import doctor
from .manifests import manifests
from .models import models
from .providers import providers
from .race import race
from .running import INTERRUPTED
from .screen import one_line
from .simulate import simulate
from .top import top

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["ailib", "run"]

FAILED = 1
UNREAD = 141  # what shells see of a program that wrote into a closed pipe: 128 and the number of SIGPIPE


class _Carried(Exception):
    """An `OSError`, as its cause, past click: of a closed pipe click would make an exit with 1, as of a failure."""


@contextmanager
def _carrying() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Carried from error


class _Program(click.Group):
    """The commands, whose `OSError`s come out carried."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _carrying():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _carrying():
            return super().invoke(ctx)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ailib")
def ailib() -> None:
    """Talk to any AI provider, see what is known about them, and try everything without a key.

    \b
    ailib demo                  the library at work: no key, no network
    ailib chat PROVIDER/MODEL   talk to a model
    ailib models                what the manifests know

    Exit codes: 0 done, 1 failed (a line on stderr says why), 2 wrong usage, 130 ended by Ctrl-C, 141 whoever read the
    output has left.
    """


for command in (demo, chat, race, providers, models, manifests, simulate, conformance, doctor, top):
    ailib.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `ailib` with these arguments; gives the exit code."""
    _open_streams()
    try:
        code = ailib.main(args=arguments, prog_name="ailib", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        with suppress(OSError):  # its code says as much, where nobody reads what was wrong
            error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except (KeyboardInterrupt, OSError, _Carried, AiLibError, BaseExceptionGroup) as error:
        return _code_of(error)
    finally:
        _leave_streams()


def _code_of(error: BaseException) -> int:
    """The exit code of a failure, told in a line on stderr. Raises it again where it is a bug, to be shown whole."""
    causes = list(_leaves(error))
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        return INTERRUPTED
    if any(isinstance(cause, BrokenPipeError) for cause in causes):
        return UNREAD  # whoever read our output has left: there is nothing to be said to them
    said: list[AiLibError] = []
    for cause in causes:
        if isinstance(cause, AiLibError):
            said.append(cause)
        elif isinstance(cause, OSError):  # of the disk, or of a file that an option names
            what = cause.strerror or str(cause)
            said.append(CallerError(f"{cause.filename}: {what}" if cause.filename else what, kind="bad_argument"))
        else:
            raise error
    with suppress(OSError):
        sys.stderr.write(one_line(said[0]) + "\n")
    return FAILED


def _open_streams() -> None:
    """Have all three streams. One that was closed by whoever started us is empty, or takes everything: else the next
    file or socket that is opened would be in its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        # A reply may hold what this terminal's encoding cannot say: then it is escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_streams() -> None:
    """Write what is left; what nobody takes is not tried again, and complained of, when Python exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    elif isinstance(error, _Carried):
        assert error.__cause__ is not None
        yield error.__cause__
    else:
        yield error
