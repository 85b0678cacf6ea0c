"""The conformance suite's folders, and how to lay a case out as the receipt that ``zkapex verify`` is to be given.

A case holds only what differs from the honest receipt it is based on. Nothing but Python's standard library is needed:
``python tests/support/conformance.py <case> <new folder>``.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent / "conformance"
SRS = "circuit/srs.bin"
NOTES = ("README.md", "expected.json")
COMMAND = ("verify", "{case}", "--trust", "{suite}/provider.pem")
"""Arguments of ``zkapex`` where a case names no others."""


@dataclass(frozen=True)
class Case:
    """What ``expected.json`` says.

    Attributes
    ----------
    base : str or None
        The case whose files lie underneath; None: there are none.
    without : tuple of str
        Files of the base, or the shared reference string, that this case lacks.
    error : str or None
        Class of the error, in `zkapex.errors`; None: the receipt is accepted.
    exit_code : int
    message : str
        Part of the error's first sentence.
    command : tuple of str
        Arguments of ``zkapex``; ``{case}`` is the laid out folder, ``{suite}`` the suite's.
    """

    base: str | None
    without: tuple[str, ...]
    error: str | None
    exit_code: int
    message: str
    command: tuple[str, ...] = field(default=COMMAND)

    def to_json(self) -> str:
        fields = asdict(self)
        if self.command == COMMAND:
            del fields["command"]
        return json.dumps(fields, indent=1) + "\n"

    def arguments(self, folder: Path) -> list[str]:
        """The command's arguments for a case laid out in a folder."""
        return [word.replace("{case}", str(folder)).replace("{suite}", str(ROOT)) for word in self.command]


def names() -> list[str]:
    """All cases."""
    return sorted(path.parent.name for path in ROOT.glob("*/expected.json"))


def case(name: str) -> Case:
    fields = json.loads((ROOT / name / "expected.json").read_text(encoding="utf-8"))
    return Case(**{**fields, "without": tuple(fields["without"]), "command": tuple(fields.get("command", COMMAND))})


def files(name: str) -> dict[str, Path]:
    """The files of a laid out case, and where in the suite they are."""
    found, chain = {SRS: ROOT / "srs.bin"}, [name]
    while (base := case(chain[-1]).base) is not None:
        chain.append(base)
    for part in reversed(chain):
        found |= {
            path.relative_to(ROOT / part).as_posix(): path
            for path in (ROOT / part).rglob("*")
            if (path.is_symlink() or path.is_file()) and path.relative_to(ROOT / part).as_posix() not in NOTES
        }
        for missing in case(part).without:
            del found[missing]
    return found


def lay(name: str, folder: Path) -> Path:
    """Lay a case out in a new folder."""
    for relative, source in files(name).items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target, follow_symlinks=False)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in names() or Path(sys.argv[2]).exists():
        sys.exit(f"usage: {sys.argv[0]} <case> <new folder>; cases: {' '.join(names())}")
    lay(sys.argv[1], Path(sys.argv[2]))
