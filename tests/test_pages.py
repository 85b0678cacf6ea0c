"""What the documentation tells people to type: commands exist with their options, blocks are run or say why not.

A block of ``console`` or ``python`` has a comment before it: ``<!-- run: FILE -->`` names the test that runs it,
``<!-- run: FILE (options only) -->`` one that checks its commands, which need data or hours, ``<!-- not run: WHY -->``.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from zkapex.cli import command_line

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OWN = {
    "data-protection.md",
    "deployment.md",
    "operations.md",
    "receipts.md",
    "reliability.md",
    "transparent.md",
    "verify-without-us.md",
}
"""Pages that other tests follow as a whole."""
PAGES = [path for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if "adr" not in path.parts]
FOLLOWED = ("start.md", "verify.md", "report.md", "console.md")
"""Pages that one session after another is made of, from an empty folder."""
BLOCK = re.compile(r"(?:<!-- ((?:run|not run|file)[^>]*?) -->\n)?```(console|python|bash|json)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    note: str
    kind: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for note, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield Block(page, note, kind, text)


def commands(text: str) -> Iterator[str]:
    """Lines of a console block, continued ones joined, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        stripped = re.sub(r"\s+#.*$", "", line).strip()
        if stripped and not stripped.startswith("#"):
            yield stripped


def check(line: str) -> None:
    """Raise unless a line is a command of zkapex with options it has."""
    words = [word for word in shlex.split(re.sub(r"<(\w+)>", r"\1", re.sub(r"\$\w+", "1", line))) if word != "&"][1:]
    command = typer.main.get_command(command_line())
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    with command.make_context(None, words, resilient_parsing=False) as context:
        assert context.command is command


LINES = [
    (page.name, line)
    for page in PAGES
    for block in blocks(page)
    if block.kind == "console"
    for line in commands(block.text)
    if line.startswith("zkapex ") and "[--" not in line
]


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}:{line[:60]}" for page, line in LINES])
def test_every_command_of_the_documentation_exists(page: str, line: str) -> None:
    check(re.split(r" > | \| | && |; done", line)[0])


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in OWN], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        if page.name == "README.md" and page.parent == ROOT:
            continue  # its commands are those of the start page
        assert block.note, f"{page.name}: a block has no note before it:\n{block.text}"
        for test in re.findall(r"run: (tests/\S+\.py)", block.note):
            assert (ROOT / test).exists(), f"{page.name} names {test}"


def test_the_readme_says_nothing_that_the_start_page_does_not() -> None:
    known = {line for block in blocks(DOCS / "start.md") for line in commands(block.text)}
    mine = {line for block in blocks(ROOT / "README.md") for line in commands(block.text)}
    assert {line.replace("request-1", "<request>") for line in known} >= mine - {"make test"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_pages_are_followed(tmp_path: Path) -> None:
    """From an empty folder, as a newcomer: a demo, its receipts, reports and the console."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "zkapex").write_text(f"#!{sys.executable}\nfrom zkapex.cli import main\nmain()\n")
    (programs / "make").write_text('#!/bin/sh\n[ "$1" = demo ] && exec zkapex demo\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    here = tmp_path / "work"
    here.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    tokens: dict[str, str] = {}
    for name in FOLLOWED:
        for block in blocks(DOCS / name):
            file = re.search(r"file: (\S+);", block.note)
            if file:
                (here / file[1]).write_text(block.text, encoding="utf-8")
            elif "run: tests/test_pages.py" not in block.note or "options only" in block.note:
                continue
            elif block.kind == "python":
                done = subprocess.run(
                    [sys.executable, "-c", block.text], cwd=here, env=environment, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
                assert "reached" in done.stdout
            else:
                for line in commands(block.text):
                    _do(line, here, environment, tokens)


def _do(line: str, here: Path, environment: dict[str, str], tokens: dict[str, str]) -> None:
    if line.startswith("pip install"):
        return  # what runs this test is installed
    if line.startswith("zkapex server console "):
        _serve(line, here, environment, tokens)
        return
    proved = list(here.glob("zkapex-demo/receipts/request-1/*/receipt.json"))
    for folder in sorted(path.parent for path in proved):
        text = line.replace("<client>", folder.name)
        done = subprocess.run(text, shell=True, cwd=here, env=environment, capture_output=True, text=True)
        if done.returncode == 25 and "<client>" in line:
            continue  # that one cheated
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        tokens[line] = done.stdout.strip()
        return
    assert "<client>" not in line
    done = subprocess.run(line, shell=True, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def _serve(line: str, here: Path, environment: dict[str, str], tokens: dict[str, str]) -> None:
    """Start the console as the page says, on a free port, and sign in with the token that the page had printed."""
    line = re.sub(r" --port \d+", "", line) + " --port 0"
    with subprocess.Popen(shlex.split(line), cwd=here, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            deadline = time.monotonic() + 30
            while True:
                try:
                    page = opener.open(f"{address}/signin").read().decode()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            csrf = re.search(r'name="csrf" value="([^"]+)"', page)
            assert csrf
            token = next(value for name, value in reversed(tokens.items()) if "console-token" in name)
            for word, inside in ((secrets.token_hex(8), False), (token, True)):
                data = f"csrf={csrf[1]}&token={word}&then=/".encode()
                try:
                    answer = opener.open(f"{address}/signin", data).read().decode()
                except urllib.error.HTTPError as refused:
                    answer = refused.read().decode()
                assert ("What needs a person" in answer) is inside
            assert "request-1" in opener.open(f"{address}/requests").read().decode()
        finally:
            server.terminate()
