"""The command ``featstore``: each subcommand (verb, such as extract) has a module here, imported when it is called."""

from __future__ import annotations

import codecs
import contextlib
import errno
import importlib
import io
import keyword
import os
import sys
from collections import Counter
from typing import Any, Final, NoReturn

import click

from featstore import __version__
from featstore.cli.output import say, tell_warnings
from featstore.errors import FeatstoreError, UsageError
from featstore.processes import sandbox
from featstore.text import did_you_mean, printable

SECTIONS: Final = {
    "The five to know first": {
        "extract": "Extract features of pictures into a store.",
        "train": "Train a classifier on a store and report on it.",
        "predict": "Classify pictures, or a store, with a trained head.",
        "index": "Build the index for nearest neighbours over a store.",
        "search": "Find the pictures most like given ones.",
    },
    "Store": {
        "info": "Say what a store, head or index holds.",
        "label": "Set labels, splits and metadata from a table.",
        "remove": "Remove pictures from a store, so that extract does not bring them back.",
        "failures": "List the pictures that could not be read, and why.",
        "verify": "Check every byte of a store, head or index against its checksums.",
        "repair": "Restore what verify finds damaged in a store.",
        "compact": "Purge removed pictures and merge small shards.",
    },
    "Fine-tuning": {
        "finetune": "Fine-tune a network with an attached head, and compare it with the frozen one.",
        "compare": "Compare methods of transfer learning on the same held-out pictures.",
    },
    "Formats": {
        "import": "Make a store of vectors from other programs: npy, npz, Parquet, HDF5, FAISS.",
        "export": "Write a store as Parquet, npy or CSV, or a head as ONNX or for scikit-learn.",
    },
    "Search": {
        "duplicates": "List pictures that a store has more than once, or in two splits.",
    },
    "Understand": {
        "units": "Show the pictures that activate units of the network most, or speak for a class.",
    },
    "Try and measure": {
        "demo": "Run the whole chain on embedded pictures, offline, and show a page.",
        "sample": "Write a small real data set to try things on.",
        "backbones": "List backbones and whether their weights are at hand.",
        "bench": "Measure the speed of this machine on your pictures, and of its disk.",
    },
}
"""The subcommands by section of ``featstore --help``, with their summaries, so that the help imports none of them."""
VERBS: Final = tuple(verb for section in SECTIONS.values() for verb in section)


def module_of(verb: str) -> str:
    """Return the name of a subcommand's modules: the subcommand's name, or ``import_`` for import, a Python keyword."""
    return f"{verb}_" if keyword.iskeyword(verb) else verb


_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), "free some space and run the same command again; what was finished is kept"
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "get write access to it, or name another place"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "make the folder first, or name another place"),
    errno.EBADF: "open standard input for reading, and standard output for writing",
}
"""What the user can do about an error of the operating system, by errno; printed after the error's message."""


class _Verbs(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"featstore.cli.{module_of(name)}")
        command = getattr(module, module_of(name))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] not in VERBS and not arguments[0].startswith("-"):
            context.fail(f"No such command {arguments[0]!r}{did_you_mean(arguments[0], VERBS)}")
        name, command, rest = super().resolve_command(context, arguments)
        if command is not None:
            _require_once(click.Context(command, context, name), rest)
        return name, command, rest

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(verbs.items()))


def _require_once(context: click.Context, arguments: list[str]) -> None:
    """Raise UsageError if an option that takes one value is given twice; click would silently keep the last value."""
    try:
        _, _, given = context.command.make_parser(context).parse_args(list(arguments))
    except click.UsageError:
        # If parsing fails here, the subcommand parses the arguments again and reports the error.
        return
    once = [one for one in given if isinstance(one, click.Option) and not (one.multiple or one.is_flag or one.count)]
    for option, count in Counter(once).items():
        if count > 1:
            raise click.UsageError(f"{option.opts[0]} is given {count} times; give it once", context)


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        say(f"featstore {__version__}")
        context.exit()


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Print the version."
)
def featstore() -> None:
    """Turn pictures into feature vectors once, and use them for years.

    \b
    Examples:
      featstore extract pictures/ my.store              ResNet50 features of a folder
      featstore extract pictures/ my.store              again: only what is new or changed
      featstore train my.store                          a classifier, and how good it is
      featstore index my.store                          an index, and its measured recall
      featstore search my.store.faiss cat.jpg           the pictures most similar to it
      featstore info my.store                           what is in it

    Exit codes: 0 done, 1 something failed, 2 the request has to change, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command ``featstore`` with ``arguments`` (default: sys.argv[1:]) and exit."""
    sandbox.fill_standard_streams()
    if arguments is None and codecs.lookup(sys.getfilesystemencoding()).name != "utf-8":
        # Names in stores and tables are UTF-8. Under another locale Python would decode names differently or fail, so
        # restart in UTF-8 mode.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    _open_streams()
    run(featstore, arguments, name="featstore")


def _open_streams() -> None:
    """Prepare the standard streams: replace missing streams, escape unencodable characters, make writes blocking."""
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for number in (1, 2):
        # If another program made the pipe non-blocking, a write to a full pipe would fail and output would be lost.
        with contextlib.suppress(OSError):
            os.set_blocking(number, True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(command: click.Command, arguments: list[str] | None = None, *, name: str | None = None) -> NoReturn:
    """Run ``command`` with ``arguments`` and exit with its exit code; print an error as one line, no traceback."""
    tell_warnings()
    try:
        sandbox.require_working_directory()
        code = command.main(arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        code = _print_error(text.getvalue(), error.exit_code, "")
    except UsageError as error:
        code = _print_error(error, 2)
    except FeatstoreError as error:
        code = _print_error(error, 1)
    except (click.Abort, KeyboardInterrupt):
        code = _print_error("stopped", 130)
    except BrokenPipeError:
        # The program that reads the output has closed its pipe. Redirect stdout, so that the interpreter's exit does
        # not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        remedy = _REMEDIES.get(error.errno or 0, "run the same command again; what was finished is kept")
        code = _print_error(f"{where}{error.strerror or error}; {remedy}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _print_error(message: Any, code: int, prefix: str = "featstore: ") -> int:
    """Print an error ``message`` on stderr, on one line if ``prefix`` is not empty; return the exit ``code``."""
    text = f"{prefix}{printable(' '.join(str(message).split(chr(10))))}\n" if prefix else str(message)
    try:
        say(text, err=True, end="")
    except OSError:
        # Standard error is closed or its disk is full. Ignore that: the exit code still reports the result.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return code
