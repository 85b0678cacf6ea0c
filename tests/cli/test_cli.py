"""Whatever stops a command becomes a sentence and a documented code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from commands import here, start, zkapex
from limits import case, refuses

from zkapex import __version__, cli
from zkapex.errors import Error, InputError, StorageError
from zkapex.simulation.demo import demo
from zkapex.simulation.demo.demo import DemoSettings
from zkapex.simulation.federation.held import Request


def stop(error: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "what"),
    [
        (InputError("wrong", why="so", fix="this way"), 10, "zkapex: wrong\n  why: so\n  fix: this way"),
        (StorageError("[bold]not markup[/bold]"), 12, "[bold]not markup[/bold]"),
        (OSError(errno.ENOSPC, "No space left on device"), 12, "the disk is full"),
        (MemoryError(), 41, "memory ran out"),
        (KeyboardInterrupt(), 130, "--resume"),
        (typer.Abort(), 130, "--resume"),
        (ZeroDivisionError("division by zero"), 1, "did not expect: ZeroDivisionError"),
        (OSError(errno.EIO, "Input/output error"), 1, "Input/output error"),
    ],
)
def test_errors_become_sentences(
    error: BaseException, code: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.guarded(stop(error)) == code
    out, err = capsys.readouterr()
    assert what in err
    assert "Traceback" not in err
    assert out == ""


def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ZKAPEX_DEBUG", "1")
    assert cli.guarded(stop(ZeroDivisionError())) == 1
    assert "Traceback" in capsys.readouterr().err


def test_errors_are_objects_for_machines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["zkapex", "demo", "--json"])
    assert cli.guarded(stop(Error("what", why="why", fix="fix"))) == 1
    found = json.loads(capsys.readouterr().out)
    assert found == {"error": "Error", "exit_code": 1, "what": "what", "why": "why", "fix": "fix"}


def test_no_error_is_code_0() -> None:
    assert cli.guarded(lambda: None) == 0
    assert cli.guarded(lambda: 7) == 7


def test_a_command_that_is_interrupted_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run_flower", stop_with_ctrl_c)
    assert here("demo", "--out", tmp_path / "out") == 130
    assert "--resume" in capsys.readouterr().err


def stop_with_ctrl_c(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["demo", "--nothing"], ["demo", "--clients", "many"], ["verify"], ["verify", "a", "b"], []],
)
def test_usage_errors_are_code_2(arguments: list[str]) -> None:
    code, out, err = zkapex(*arguments)
    assert code == 2
    assert "Usage: " in out + err


def test_the_version() -> None:
    assert zkapex("--version") == (0, f"zkapex {__version__}\n", "")


def bad(**options: str | int) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


@pytest.mark.parametrize(
    "options",
    [
        bad(clients=0),
        bad(clients=-1),
        bad(clients=61),
        bad(dishonest=-1),
        bad(clients=2, dishonest=3),
        bad(cheat="nicely"),
        bad(clients=2, dishonest=2, cheat="replay"),
        bad(forget_class=10),
        bad(forget_class=-1),
        bad(seed=-1),
        bad(seed=2**20),
    ],
)
def test_values_that_make_no_sense_are_code_10_and_leave_nothing(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("demo", "--out", tmp_path / "out", "--json", *options) == 10
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["error"] == "InputError"
    assert found["fix"]
    assert found["what"] in err
    assert not (tmp_path / "out").exists()


def test_settings_that_make_sense() -> None:
    assert DemoSettings(clients=60, dishonest=60, cheat="ignore", forget_class=9, seed=2**20 - 1).clients == 60
    assert DemoSettings(clients=2, dishonest=0, cheat="replay").dishonest == 0


@case("reader-gone")
def test_a_reader_that_has_gone_is_no_defect() -> None:
    process = start("--help")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait() == cli.READER_GONE == 141
    assert process.stderr.read() == ""


def test_usage_errors_need_no_click_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("demo", "--no-such-option") == 2
    assert "no-such-option" in capsys.readouterr().err.lower()
    for path in Path(cli.__file__).parent.glob("*.py"):
        assert "import click" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("samples", [0, 100_000])
def test_how_many_samples_can_be_forgotten_is_said(samples: int) -> None:
    request = Request(delete="samples", holder=0, samples=samples)
    assert "10000" in refuses("samples", lambda: request.check(4)).fix


def test_names_that_the_terminal_cannot_show_do_not_end_a_command() -> None:
    """An ASCII terminal, and a path that it has no letters for, some of which are none in UTF-8 either."""
    done = subprocess.run(
        [sys.executable, "-c", "from zkapex import cli; cli.main()", "estimate", b"mod\xc3\xa8le-\xe9"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 10, done.stderr
    assert "there is no model" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_a_shell_is_printed(
    shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_ZKAPEX_COMPLETE", f"source_{shell}")
    assert here() == 0
    assert f"_ZKAPEX_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """With the script that --install-completion leaves in the home of whoever calls it from bash."""
    program = tmp_path / "zkapex"
    program.write_text(f"#!{sys.executable}\nfrom zkapex.cli import main\nmain()\n")
    program.chmod(0o755)
    env = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def bash(script: str) -> str:
        return subprocess.run(["bash", "-c", script], env=env, check=True, capture_output=True, text=True).stdout

    installed = tmp_path / ".bash_completions" / "zkapex.sh"
    assert str(installed) in bash("zkapex --install-completion; true")
    assert installed.read_text().strip() in bash("zkapex --show-completion; true")
    for words, offered in (("server req", "requests"), ("server requests create --dr", "--dry-run")):
        script = f"""
            . {installed}
            COMP_WORDS=(zkapex {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            _zkapex_completion zkapex; echo "${{COMPREPLY[@]}}"
        """
        assert bash(script).split() == [offered]
