"""``name=value`` on a command line."""

from __future__ import annotations

import json

from zkapex.errors import InputError


def parsed_options(parts: list[str]) -> dict[str, str | int | float | bool]:
    """Values by name, from ``name=value`` arguments; numbers and booleans are such, as JSON writes them.

    Raises
    ------
    InputError
        An argument is not of this form.
    """
    found: dict[str, str | int | float | bool] = {}
    for part in parts:
        name, equals, text = part.partition("=")
        if not equals or not name:
            raise InputError(f"{part!r} is not understood", fix="give it as name=value")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found[name] = value if isinstance(value, str | int | float | bool) else text
    return found
