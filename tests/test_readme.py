"""What the documentation promises is what the code does: commands, options, exit codes, make targets, links."""

from __future__ import annotations

import contextlib
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import zkapex.errors
from zkapex.cli import INTERRUPTED, READER_GONE, command_line
from zkapex.cli.reference import reference, settings_reference
from zkapex.errors import Error
from zkapex.server.federation.settings import RunSettings
from zkapex.simulation.demo.settings import DemoSettings
from zkapex.simulation.evaluation.studies import STUDIES
from zkapex.simulation.federation.adversaries import CHEATS
from zkapex.simulation.scenarios import SCENARIOS
from zkapex.transport.app import installed_app, settings_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EVALUATE = (ROOT / "docs/evaluate.md").read_text(encoding="utf-8")
OPTION = re.compile(r"--[a-z][a-z-]*")
USAGE, UNEXPECTED, DONE = 2, 1, 0


@cache
def commands() -> Any:
    """The commands as typer hands them to click, built once: there are a hundred of them."""
    return get_command(command_line())


@cache
def help_of(*command: str) -> str:
    """What a command says of itself, in this process."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("COLUMNS", "120")
        patch.setenv("TERM", "dumb")
        commands().main([*command, "--help"], prog_name="zkapex", standalone_mode=False)
    return out.getvalue()


def test_the_reference_is_what_the_commands_say() -> None:
    """Every option of every command, with its default; and no other."""
    assert (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8") == reference(), (
        "run python -m zkapex.cli.reference docs/reference/commands.md, or make reference"
    )


def test_the_reference_shows_what_help_shows() -> None:
    """That the reference reads the commands as the command line does: every option of one in the help of the other."""
    text = reference()
    for command in re.findall(r"^#+ `zkapex ([a-z -]+)`$", text, re.MULTILINE):
        section = re.split(r"^#", text.partition(f"`zkapex {command}`\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
        offered = set(OPTION.findall(help_of(*command.split()).partition("Options:")[2])) - {"--help"}
        assert set(re.findall(r"`(--[a-z][a-z-]*)", section)) <= offered


def test_the_demo_and_a_run_have_the_same_defaults() -> None:
    text = " ".join(help_of("demo").split())
    for name, value in vars(DemoSettings()).items():
        if name != "others" and value != "" and not isinstance(value, bool):
            assert re.search(rf"--{name.replace('_', '-')} (?:(?!--).)*\[default: {re.escape(str(value))}\]", text)
    assert settings_of(installed_app()).items() >= DemoSettings().run_config.items()


def test_scenarios_and_methods_of_the_evaluation_are_named() -> None:
    for name in (*SCENARIOS, *STUDIES):
        assert f"zkapex evaluate {name} " in EVALUATE
        assert name in help_of("evaluate")


def test_the_reference_of_settings_is_what_the_code_says() -> None:
    assert (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8") == settings_reference(), "make reference"
    names = re.findall(r"^\| `([a-z_-]+)`", settings_reference(), re.MULTILINE)
    assert {name.replace("_", "-") for name in RunSettings.__annotations__} <= set(names)


def test_the_readme_is_read_in_three_minutes() -> None:
    """At 230 words a minute; tables that were printed, and links, are looked at and not read."""
    prose = re.sub(r"```text\n.*?```|\]\([^)]*\)|[^\w\s]", " ", README, flags=re.DOTALL)
    assert len(prose.split()) <= 3 * 230


def test_help_is_plain_text() -> None:
    for command in ((), ("demo",), ("evaluate",), ("verify",), ("estimate",), ("bench", "proof"), ("bench", "stages")):
        assert "\\" not in help_of(*command)
        assert "\x1b" not in help_of(*command)


def test_the_readme_names_every_command() -> None:
    commands = re.findall(r"^  ([a-z]+)  ", help_of().partition("Commands:")[2], re.MULTILINE)
    assert commands
    for command in commands:
        assert re.search(rf"^zkapex {command} ", README, re.MULTILINE)
    for command in re.findall(r"^\s*zkapex ([a-z]+)", README, re.MULTILINE):
        assert command in commands


def test_the_demo_names_every_cheat() -> None:
    for cheat in CHEATS:
        assert cheat in help_of("demo")


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z][a-z-]+)", "\n".join(re.findall(r"`[^`]+`|^make .*$", README, re.M)))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_settings_and_folders_in_the_readme_exist() -> None:
    for command in re.findall(r'--run-config "([^"]*)"', EVALUATE):
        assert {pair.partition("=")[0] for pair in command.split()} <= settings_of(installed_app()).keys()
    for dotted in re.findall(r"`zkapex\.([a-z_.]+)\.([A-Z]\w+)`", README):
        module = __import__(f"zkapex.{dotted[0]}", fromlist=[dotted[1]])
        assert hasattr(module, dotted[1])


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))],
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def errors() -> dict[str, type[Error]]:
    """Every error class with an exit code of its own, by name."""
    return {
        name: kind for name, kind in vars(zkapex.errors).items() if isinstance(kind, type) and issubclass(kind, Error)
    }


def test_exit_codes_are_documented_and_distinct() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (?:`(\w+)`)? ?\| ([^|]+) \| ([^|]*) ?\|$", text, re.MULTILINE)
    documented = {int(code): name for code, name, _, _ in rows}
    assert len(documented) == len(rows), "a code is listed twice"
    assert [int(row[0]) for row in rows] == sorted(documented)
    assert all(meaning.strip() for _, _, meaning, _ in rows)
    assert all(advice.strip() for code, _, _, advice in rows if code != "0")
    assert {kind.exit_code: name for name, kind in errors().items()} == {c: n for c, n in documented.items() if n}
    assert {code for code, name in documented.items() if not name} == {DONE, USAGE, INTERRUPTED, READER_GONE}


def test_released_exit_codes_never_change() -> None:
    assert {name: kind.exit_code for name, kind in errors().items()} == {
        "Error": UNEXPECTED,
        "InputError": 10,
        "FormatVersionError": 11,
        "StorageError": 12,
        "VerificationError": 20,
        "SignatureError": 21,
        "CommitmentError": 22,
        "ProofError": 23,
        "ReceiptError": 24,
        "NotProvedError": 25,
        "NotPinnedError": 26,
        "LedgerError": 27,
        "TimestampError": 28,
        "StatusError": 29,
        "ProtocolError": 30,
        "IllegalTransitionError": 31,
        "ProverError": 40,
        "ResourceError": 41,
        "SaltsSpentError": 42,
        "RuntimeFailure": 50,
    }
