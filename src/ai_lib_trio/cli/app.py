"""The commands as one, and what every failure of theirs becomes: a line on stderr and an exit code.

Imports click and the commands. The rule that must stay true: a failure that we can name never shows a traceback.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence

import click

from .. import __version__
from ..errors import AiLibError
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ailib")
def ailib() -> None:
    """Talk to any AI provider, see what is known about them, and try everything without a key.

    \b
    ailib demo                     no key, no network: the library at work on a simulated provider
    ailib chat PROVIDER/MODEL      talk to a model
    ailib models                   what the manifests know
    """


for command in (demo, chat, race, providers, models, manifests, simulate, conformance, doctor, top):
    ailib.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `ailib` with these arguments; gives the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A reply may hold what this terminal's encoding cannot say: then it is escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = ailib.main(args=arguments, prog_name="ailib", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except (KeyboardInterrupt, BrokenPipeError, AiLibError, BaseExceptionGroup) as error:
        causes = list(_leaves(error))
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
            return INTERRUPTED
        if any(isinstance(cause, BrokenPipeError) for cause in causes):
            # Whoever read our output has left. Nothing is to be said to them, nor tried again when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        said = [cause for cause in causes if isinstance(cause, AiLibError)]
        if len(said) < len(causes):
            raise  # not ours: a bug, shown whole
        sys.stderr.write(one_line(said[0]) + "\n")
        return FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
