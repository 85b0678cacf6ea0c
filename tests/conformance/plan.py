"""What a case is before it is built: what was done, what is expected, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conformance import COMMAND, Case
from scene import Scene

from zkapex.errors import Error

Make = Callable[[Path], None]


@dataclass(frozen=True)
class Plan:
    """One case.

    Attributes
    ----------
    note : str
        What was done, in one line.
    base : str or None
        The case it is based on; None for the honest receipts that others are based on.
    error : class or None
        What verification must raise.
    message : str
        Part of that error's first sentence.
    make : callable
        Writes the whole receipt to a folder.
    command : tuple of str
        Arguments of ``zkapex`` that judge it.
    """

    note: str
    base: str | None
    error: type[Error] | None
    message: str
    make: Make
    command: tuple[str, ...] = COMMAND

    def case(self, without: tuple[str, ...]) -> Case:
        name = None if self.error is None else self.error.__name__
        return Case(
            self.base, without, name, 0 if self.error is None else self.error.exit_code, self.message, self.command
        )

    def readme(self) -> str:
        end = (
            "Accepted." if self.error is None else f'{self.error.__name__} ({self.error.exit_code}): "{self.message}".'
        )
        return f"{self.note} {end}\n"


PLANS: dict[str, Plan] = {}
"""All cases by name, the honest bases first."""


def accepted(
    note: str, base: str | None = "guarded_group_obs", command: tuple[str, ...] = COMMAND
) -> Callable[[Make], Make]:
    """Register a case that must be accepted, by the name of the function that makes it."""

    def register(make: Make) -> Make:
        PLANS[make.__name__] = Plan(note, base, None, "", make, command)
        return make

    return register


def rejected(
    note: str,
    error: type[Error],
    message: str,
    base: str = "guarded_group_obs",
    command: tuple[str, ...] = COMMAND,
) -> Callable[[Make], Make]:
    """Register a case that must be rejected, by the name of the function that makes it and ``_fail``."""

    def register(make: Make) -> Make:
        add_rejected(make.__name__, note, error, message, make, base, command)
        return make

    return register


def add_rejected(
    name: str,
    note: str,
    error: type[Error],
    message: str,
    make: Make,
    base: str = "guarded_group_obs",
    command: tuple[str, ...] = COMMAND,
) -> None:
    PLANS[f"{name}_fail"] = Plan(note, base, error, message, make, command)


def honest_copy(folder: Path, base: str = "guarded_group_obs") -> Path:
    """The base receipt as it is, to be spoilt."""
    Scene.base(base).write(folder)
    return folder


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
