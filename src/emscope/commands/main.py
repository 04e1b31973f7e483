"""The command line: finds the command, runs it, and turns every ending into one sentence and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler

import emscope
from emscope import processes, progress, redaction, terminal
from emscope.commands.catalogue import COMMANDS, command_class, overview
from emscope.commands.endings import user_sentence
from emscope.commands.outcome import show
from emscope.commands.several import quiet_unless_first, shared
from emscope.errors import EXIT_DONE, EXIT_FAULT, EXIT_USER, UserError, did_you_mean
from emscope.interruption import end_as_interrupted

if TYPE_CHECKING:
    from emscope.commands.parsing import Command

NOTHING_BEGUN = "Nothing had begun."


def main() -> None:
    """Run the command line and exit; whatever asks the process to end is answered as Ctrl-C is."""
    end_as_interrupted()
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    debug, as_json = "--debug" in arguments, "--json" in arguments
    words = [word for word in arguments if word not in ("--debug", "--json")]
    errors = Console(stderr=True, highlight=False)
    _set_up(errors, debug)
    begun: list[Command] = []
    with quiet_unless_first():
        return _to_its_end(words, begun, errors, debug=debug, as_json=as_json)


def _to_its_end(words: list[str], begun: list[Command], errors: Console, *, debug: bool, as_json: bool) -> int:
    """Run what the words ask for and return its exit code, however it ends."""
    try:
        with progress.shown_on(errors) if processes.is_first() else nullcontext():
            return _dispatch(words, begun, as_json=as_json)
    except SystemExit as ending:  # from the flag parser: 0 after --help, 2 after a wrong flag
        return ending.code if isinstance(ending.code, int) else EXIT_USER
    except KeyboardInterrupt:
        with suppress(OSError):  # a terminal that was closed takes no words
            terminal.say(f"Stopped. {begun[0].stopped if begun else NOTHING_BEGUN}")
        return EXIT_USER
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as error:
        if debug:
            terminal.note(traceback.format_exc())
        sentence = user_sentence(error)
        if sentence:
            terminal.say(sentence)
            return EXIT_USER
        terminal.say(
            f"This is a fault of emscope ({type(error).__name__}: {error}). Run it again with --debug and report it."
        )
        return EXIT_FAULT
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a library in Rust: a tokenizer's pattern that does not end
            raise
        terminal.say(f"The model's tokenizer cannot read this text ({error}): use another tokenizer, or leave it out.")
        return EXIT_USER


def _dispatch(words: list[str], begun: list[Command], *, as_json: bool) -> int:
    """Run what the words ask for; a command that is begun is added to `begun` first."""
    if words[:1] == ["help"] and words[1:]:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        terminal.write(overview())
        return EXIT_DONE
    if words[0] == "--version":
        terminal.write(f"emscope {emscope.__version__}\n")
        return EXIT_DONE
    name, flags = words[0], words[1:]
    if name not in COMMANDS:
        raise UserError(f"There is no command {name!r}.{did_you_mean(name, COMMANDS)}")

    from emscope.commands.parsing import parse

    command = parse(command_class(name), name, flags)
    begun.append(command)
    with shared(command, name) as mine:
        outcome = mine.execute()
    show(name, outcome, as_json=as_json)
    return outcome.code


def _log_handler(console: Console) -> logging.Handler:
    """Return what writes log lines: in colour on a terminal, elsewhere plain and never broken into several."""
    if progress.draws_bars(console):
        rich = RichHandler(console=console, show_path=False, show_level=False, omit_repeated_times=False)
        rich.setFormatter(terminal.ShownFormatter("%(message)s", datefmt="%H:%M:%S"))
        return rich
    plain = logging.StreamHandler(console.file)
    plain.setFormatter(terminal.ShownFormatter("[%(asctime)s] %(message)s", datefmt="%H:%M:%S"))
    return plain


def _set_up(console: Console, debug: bool) -> None:
    """Log to the terminal, and keep other packages' chatter and the environment's secrets off it."""
    redaction.keep_environment()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "OMP_WAIT_POLICY" not in os.environ:  # a thread that waits for one that other jobs keep from running sleeps soon
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # read when torch is loaded, so it is set before that
    handler = _log_handler(console)
    logger = logging.getLogger("emscope")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    if not debug:
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
