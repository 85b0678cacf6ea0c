"""What the documentation promises is what the code does: commands, options, exit codes, make targets, links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zkapex.errors
from zkapex.cli import INTERRUPTED
from zkapex.errors import Error
from zkapex.simulation.demo.settings import DemoSettings
from zkapex.simulation.evaluation.studies import STUDIES
from zkapex.simulation.federation.adversaries import CHEATS
from zkapex.simulation.scenarios import SCENARIOS
from zkapex.transport.app import installed_app, settings_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTION = re.compile(r"--[a-z][a-z-]*")
ROW = re.compile(r"^\| `(--[a-z-]+)[^`]*` \| .*\|$", re.MULTILINE)
USAGE, UNEXPECTED, DONE = 2, 1, 0


def help_of(*command: str) -> str:
    environment = {**os.environ, "COLUMNS": "120", "TERM": "dumb"}
    run = "from zkapex.cli import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", run, *command, "--help"], env=environment, capture_output=True, text=True, check=True
    )
    return answer.stdout


def table(command: str) -> str:
    """The README's table of a command's options."""
    _, _, rest = README.partition(f"Options of `zkapex {command}")
    assert rest, f"README has no options of zkapex {command}"
    return re.split(r"\n\n(?!\|)", rest.partition("\n\n")[2])[0]


@pytest.mark.parametrize("command", ["demo", "evaluate", "verify", "estimate", "bench proof"])
def test_the_readme_lists_every_option_and_no_other(command: str) -> None:
    offered = set(OPTION.findall(help_of(*command.split()).partition("Options:")[2])) - {"--help", "--resume to"}
    assert set(ROW.findall(table(command))) == offered


def test_defaults_in_the_readme_and_in_the_help_are_those_of_the_demo() -> None:
    settings, text = DemoSettings(), help_of("demo")
    for name, value in vars(settings).items():
        if name == "others":
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):  # a flag: off by default, and no argument to show
            assert not value
            assert f"`--{option}`" in table("demo")
            continue
        (row,) = [line for line in table("demo").splitlines() if f"`--{option} " in line]
        if value == "":
            assert row.endswith("| |")
            continue
        assert row.rstrip("| ").split("|")[-1].strip().strip("`") == str(value)
        assert f"[default: {value}]" in " ".join(re.split(rf"--{option}\b", text)[1].split("--")[0].split())
    assert settings_of(installed_app()).items() >= settings.run_config.items()


def test_scenarios_and_methods_of_the_evaluation_are_named() -> None:
    for name in (*SCENARIOS, *STUDIES):
        assert f"zkapex evaluate {name} " in README
        assert name in help_of("evaluate")


@pytest.mark.parametrize("command", ["evaluate", "estimate", "bench proof"])
def test_defaults_in_the_readme_are_those_in_the_help(command: str) -> None:
    text = " ".join(help_of(*command.split()).partition("Options:")[2].split())
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(--[a-z-]+)[^|]*\|[^|]*\| ?(.*?) ?\|$", table(command), re.M)}
    for option, default in rows.items():
        if re.fullmatch(r"`?[a-z0-9.]+`?", default) and default != "yes":
            assert re.search(rf"{option} (?:(?!--).)*\[default: {default.strip('`')}\]", text), (option, default)


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


def test_the_readme_names_every_cheat() -> None:
    (row,) = [line for line in table("demo").splitlines() if "--cheat" in line]
    for cheat in CHEATS:
        assert f"`{cheat}`" in row
        assert cheat in help_of("demo")


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z][a-z-]+)", "\n".join(re.findall(r"`[^`]+`|^make .*$", README, re.M)))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_settings_and_folders_in_the_readme_exist() -> None:
    for command in re.findall(r'--run-config "([^"]*)"', README):
        assert {pair.partition("=")[0] for pair in command.split()} <= settings_of(installed_app()).keys()
    for dotted in re.findall(r"`zkapex\.([a-z_.]+)\.([A-Z]\w+)`", README):
        module = __import__(f"zkapex.{dotted[0]}", fromlist=[dotted[1]])
        assert hasattr(module, dotted[1])


@pytest.mark.parametrize(
    "document", ["README.md", "docs/exit-codes.md", "docs/operators.md", "docs/performance.md", "docs/results.md"]
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
    assert {code for code, name in documented.items() if not name} == {DONE, USAGE, INTERRUPTED}


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
        "ProtocolError": 30,
        "IllegalTransitionError": 31,
        "ProverError": 40,
        "ResourceError": 41,
        "SaltsSpentError": 42,
        "RuntimeFailure": 50,
    }
