"""A deployment's configuration file: TOML, checked by a pydantic model, readable by its owner only."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from zkapex.errors import InputError
from zkapex.host.files import write_private

M = TypeVar("M", bound=BaseModel)


def load_configuration(path: Path, kind: type[M], missing: InputError) -> M:
    """The configuration in a file.

    Raises
    ------
    InputError
        There is none, which is `missing`; or it says something that is unknown, missing or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read", why=str(error)) from None
    return checked_configuration(values, kind, str(path))


def checked_configuration(values: dict[str, Any], kind: type[M], where: str) -> M:
    """A configuration from a table.

    Raises
    ------
    InputError
        It says something that is unknown, missing or out of range.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(f"{where} says something that is not understood", why=problems[:1000]) from None


def save_configuration(path: Path, configuration: BaseModel) -> None:
    """Write a configuration."""
    write_private(path, tomli_w.dumps(configuration.model_dump(mode="json")).encode())
