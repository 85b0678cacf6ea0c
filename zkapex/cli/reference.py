"""The reference of the command line, made from the commands themselves: ``python -m zkapex.cli.reference FILE``.

What people read on ``docs/reference/commands.md`` is what ``--help`` says, and a test compares the two.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from zkapex.cli import command_line

HEAD = """\
# Commands

Written by `make reference` from the commands themselves: what stands here is what `--help` says.
Exit codes are in [exit-codes.md](../exit-codes.md).
"""


def reference() -> str:
    """Every command with its arguments, options and defaults, as Markdown."""
    return "\n".join([HEAD, *_section(typer.main.get_command(command_line()), ["zkapex"], 2)])


def _section(command: Any, path: list[str], depth: int) -> Iterator[str]:
    """One command and all below it.

    Parameters
    ----------
    command : click.Command
        Or a group of them; click's classes are not named, since typer may bring its own.
    path : list of str
        Words that call it.
    depth : int
        Level of its heading.
    """
    group = hasattr(command, "commands")
    if len(path) > 1:
        yield f"{'#' * min(depth, 4)} `{' '.join(path)}`\n"
        yield _text(command.help) + "\n"
    positional = [p for p in command.params if p.param_type_name == "argument" and not p.hidden]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help" and not p.hidden]
    if not group:
        yield f"```text\n{' '.join([*path, *(_usage(p) for p in positional), '[OPTIONS]'])}\n```\n"
    if positional:
        yield "| argument | meaning |\n| --- | --- |"
        yield "\n".join(f"| `{_usage(p)}` | {_text(p.help)} |" for p in positional) + "\n"
    if options and not (group and len(path) == 1):
        yield "| option | meaning | default |\n| --- | --- | --- |"
        yield "\n".join(f"| {_names(p)} | {_text(p.help)} | {_default(p)} |" for p in options) + "\n"
    if group:
        for name, inner in command.commands.items():
            if not inner.hidden:
                yield from _section(inner, [*path, name], depth + (len(path) > 1))


@cache
def _context() -> typer.Context:
    """What click wants to name a parameter; made once, since it takes the time of making all commands."""
    return typer.Context(typer.main.get_command(command_line()))


def _usage(argument: Any) -> str:
    name = argument.make_metavar(_context())
    return str(name).strip("[]") if argument.required else str(name)


def _names(option: Any) -> str:
    flag = option.is_flag or option.count
    metavar = "" if flag else f" {option.make_metavar(_context())}"
    names = [*option.opts, *option.secondary_opts]
    return ", ".join(f"`{name}{metavar}`" for name in names)


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default() if callable(option.default) else option.default
    if option.is_flag and option.secondary_opts:
        return "yes" if value else "no"
    if value is None or value is False or value == "" or (isinstance(value, list | tuple) and not value):
        return ""
    return f"`{value}`"


def _text(text: str | None) -> str:
    """One paragraph per blank line, without line breaks, and safe in a table."""
    paragraphs = (text or "").replace("\b", "").strip().split("\n\n")
    joined = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return joined.replace("|", "\\|")


SETTINGS_HEAD = """\
# Settings

Written by `make reference` from the code itself: names, types and defaults are what is checked, and meanings are what
the code's own documentation says.
"""


def settings_reference() -> str:
    """Everything that a run, a server's and a device's configuration can say, as Markdown."""
    from zkapex.client.deployment.settings import DeviceSettings
    from zkapex.server.deployment import settings as server
    from zkapex.server.federation.settings import RunSettings
    from zkapex.transport.app import installed_app, settings_of

    known = settings_of(installed_app())
    meanings = _meanings(RunSettings)
    rows = [(name.replace("_", "-"), kind, known.get(name.replace("_", "-")), meanings.get(name, ""))
            for name, kind in RunSettings.__annotations__.items()]  # fmt: skip
    parts = [
        SETTINGS_HEAD,
        "## A run\n\n`flwr run --run-config`, a scenario's file, `[tool.flwr.app.config]` of a project, and `run` in "
        "a server's `zkapex.toml`.\n",
        _rows(rows),
    ]
    models: dict[str, tuple[Any, str]] = {"## A server, `zkapex.toml`\n": (server.ServerSettings, "")}
    for name, field in server.ServerSettings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, server._Strict):
            models[f"### `[{name}]`\n"] = (kind, "")
    models["## A device, `device.toml`\n"] = (DeviceSettings, "")
    for title, (model, _) in models.items():
        told = _meanings(model)
        rows = [
            (name, _kind(field.annotation), None if field.is_required() else field.get_default(), told.get(name, ""))
            for name, field in model.model_fields.items()
            if not (isinstance(field.annotation, type) and issubclass(field.annotation, server._Strict))
        ]
        parts += [title, _rows(rows)]
    return "\n".join(parts)


def _meanings(kind: Any) -> dict[str, str]:
    """What a class' docstring says of each of its attributes."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in inspect.getdoc(kind).partition("Attributes\n----------\n")[2].splitlines():  # type: ignore[union-attr]
        if line.startswith("    "):
            for name in names:
                found[name].append(line.strip())
        elif line.strip():
            names = [name.strip() for name in line.partition(":")[0].split(",")]
            found |= {name: [] for name in names}
        else:
            break
    return {name: " ".join(lines) for name, lines in found.items()}


def _kind(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else "list" if "tuple" in str(annotation) else "table"


def _rows(rows: Sequence[tuple[str, str, object, str]]) -> str:
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, kind, default, meaning in rows:
        shown = (
            ""
            if default in (None, "", (), {})
            else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        )
        lines.append(f"| `{name}` | {kind} | {shown} | {_text(meaning.replace('``', '`'))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
    for path in sys.argv[2:]:
        Path(path).write_text(settings_reference(), encoding="utf-8")
