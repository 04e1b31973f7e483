"""The command line: finds the command, runs it, and turns every ending into one sentence and an exit code."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from rich.console import Console
from rich.logging import RichHandler

import emscope
from emscope import progress, redaction, terminal
from emscope.checks import check_seeds_in
from emscope.commands.endings import user_sentence
from emscope.errors import EXIT_DONE, EXIT_FAULT, EXIT_USER, UserError, did_you_mean
from emscope.experiments import EXPERIMENTS
from emscope.interruption import end_as_interrupted

COMMANDS = {
    "run": "do the whole chain: make, measure, locate, detect, correct, report",
    "train": "make an organism: fine-tune a LoRA adapter on conversations",
    "generate": "sample an organism's answers to questions",
    "judge": "score answers for alignment and coherence with the offline judge",
    "collect": "store pooled activations of every block",
    "directions": "make a direction from the activations of two organisms",
    "detect": "score a model's prompts along a direction",
    "ablate": "take a direction out of a model and compare its answers",
    **EXPERIMENTS,
    "screen": "rank training rows by how misaligned they look",
    "report": "write a run's report.html again",
    "check": "see that a run, a bank, an organism or a store of scores is as it was made",
    "clean": "show what a run's folder holds that nothing needs, and remove it",
    "fit-judge": "fit the offline judge's head on the built-in answers",
    "doctor": "say what this machine has: device, memory, model, hub, extras",
}
NOTHING_BEGUN = "Nothing had begun."


class Command(Protocol):
    """What every command is: a dataclass whose fields are its flags."""

    @property
    def stopped(self) -> str:
        """What is left after an interruption, as a sentence."""
        ...

    def execute(self) -> int | None:
        """Do it; returns an exit code, None for 0."""
        ...


def main() -> None:
    """Run the command line and exit; whatever asks the process to end is answered as Ctrl-C is."""
    end_as_interrupted()
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"]
    errors = Console(stderr=True, highlight=False)
    _set_up(errors, debug)
    begun: list[Command] = []
    try:
        with progress.shown_on(errors):
            return _dispatch(words, begun)
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


def _dispatch(words: list[str], begun: list[Command]) -> int:
    """Run what the words ask for; a command that is begun is added to `begun` first."""
    if not words or words[0] in ("-h", "--help", "help"):
        _print_overview()
        return EXIT_DONE
    if words[0] == "--version":
        terminal.write(f"emscope {emscope.__version__}\n")
        return EXIT_DONE
    name, flags = words[0], words[1:]
    if name not in COMMANDS:
        raise UserError(f"There is no command {name!r}.{did_you_mean(name, COMMANDS)}")
    command = _parsed(name, flags)
    begun.append(command)
    return command.execute() or EXIT_DONE


def _parsed(name: str, flags: Sequence[str]) -> Command:
    """Build a command from its flags: its own, or that of an experiment."""
    module = f"emscope.commands.{name.replace('-', '_')}"
    if name in EXPERIMENTS and importlib.util.find_spec(module) is None:
        from emscope.commands.experiment import parse_experiment

        return parse_experiment(name, flags)
    return parse(importlib.import_module(module).COMMAND, name, flags)


def parse(kind: type[Command], name: str, flags: Sequence[str]) -> Command:
    """Build a command from its flags; exits with 2 and says what is wrong when they do not fit.

    Raises:
        UserError: a value that makes no sense.
    """
    import tyro

    command = tyro.cli(kind, prog=f"emscope {name}", args=with_values(flags), config=(tyro.conf.OmitArgPrefixes,))
    check_seeds_in(command)
    return command


def with_values(flags: Sequence[str]) -> list[str]:
    """Write out the flag that is on, off or not given: --enable-thinking and --no-enable-thinking."""
    written = []
    for number, flag in enumerate(flags):
        values = {"--enable-thinking": "True", "--no-enable-thinking": "False"}
        given = number + 1 < len(flags) and flags[number + 1] in ("True", "False", "None")
        written += ["--enable-thinking", values[flag]] if flag in values and not given else [flag]
    return written


def _print_overview() -> None:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    terminal.write(
        "emscope makes, measures, locates and corrects emergent misalignment in chat models.\n\n"
        "usage: emscope COMMAND [flags]        (emscope COMMAND --help lists the flags)\n\n"
        + "\n".join(lines)
        + "\n\nStart with `emscope run`; --debug shows tracebacks, --version the version.\n"
    )


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
