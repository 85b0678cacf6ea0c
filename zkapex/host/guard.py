"""The guard: Flower's programs that run what a bundle names, and refuse every bundle that is not pinned.

Flower ships bundles from whoever reaches the SuperLink's control path to every server and device, and they may hold
code. A bundle of ours that holds none protects nobody from somebody else's. So the programs that Flower starts by name
(`flwr-clientapp`, `flwr-serverapp`) are, on the PATH of a deployment's processes, those of a folder of our own: they
look at a bundle before anything of it is unpacked, and answer a foreign one with an error. All other programs of
Flower's that run tasks (agents, models, connectors, simulations) are refused altogether.

The pins are in a file beside the programs, which only the owner of the deployment can write, not in anything that
comes over the network.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from zkapex.errors import InputError, ProtocolError
from zkapex.host.files import make_private, write_private

PINS: Final = "pinned-bundles"
GUARDED: Final = {"flwr-clientapp": "clientapp", "flwr-serverapp": "serverapp"}
REFUSED: Final = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-simulation")
_INSTALLS: Final = "--allow-runtime-dependency-installation"
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_EXIT_REFUSED: Final = ProtocolError.exit_code


def install_guard(folder: Path, digests: tuple[str, ...], allowed: str) -> None:
    """Write the guard's programs and its pins.

    Parameters
    ----------
    folder : Path
        Goes first on PATH of whatever starts Flower's programs.
    digests : tuple of str
        SHA-256 of the bundles that may run, hex.
    allowed : str
        The one program that runs pinned bundles on this machine, a key of `GUARDED`; every other is refused.

    Raises
    ------
    InputError
        A digest is none.
    StorageError
        The folder cannot be written.
    """
    if not digests or not all(_DIGEST.fullmatch(digest) for digest in digests):
        raise InputError("a bundle is pinned by something that is no SHA-256", fix="give 64 hexadecimal digits")
    make_private(folder)
    write_private(folder / PINS, "".join(f"{digest}\n" for digest in digests).encode())
    for name in (*GUARDED, *REFUSED):
        action = f"run({GUARDED[name]!r})" if name == allowed else f"refuse({name!r})"
        lines = (f"#!{sys.executable} -P", f"from zkapex.host.guard import {action.split('(')[0]}", action, "")
        write_private(folder / name, "\n".join(lines).encode(), 0o700)


def refuse(program: str) -> None:
    """End with the code of a broken protocol: this program runs nothing here."""
    sys.exit(_refusal(f"{program} runs nothing on this machine: a deployment of zkapex has no such tasks"))


def run(kind: str) -> None:
    """Run Flower's program of this kind, with the guard between the bundle's arrival and its use."""
    if _INSTALLS in sys.argv:
        sys.exit(_refusal("software that a bundle names is not installed on this machine"))
    pins = read_pins(Path(sys.argv[0]).resolve().parent / PINS)
    if kind == "clientapp":
        from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
        from flwr.supernode.runtime import run_clientapp

        _guard(run_clientapp, pins)
        flwr_clientapp()
    else:
        from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

        # Its package has a function of the same name.
        _guard(importlib.import_module("flwr.superlink.runtime.run_serverapp"), pins)
        flwr_serverapp()


def read_pins(path: Path) -> tuple[str, ...]:
    """The pinned digests.

    Raises
    ------
    InputError
        The file is missing or malformed: nothing is pinned, so nothing may run.
    """
    try:
        pins = tuple(path.read_text(encoding="ascii").split())
    except (OSError, ValueError) as error:
        raise InputError(f"the pinned bundles in {path} cannot be read", why=str(error)) from None
    if not pins or not all(_DIGEST.fullmatch(pin) for pin in pins):
        raise InputError(f"{path} pins no bundle")
    return pins


def check_bundle(content: bytes, claimed: str | None, pins: tuple[str, ...]) -> None:
    """Return only if a bundle is pinned, and is the one it is called.

    Raises
    ------
    ProtocolError
        It is another; nothing of it may be unpacked.
    """
    digest = hashlib.sha256(content).hexdigest()
    if not any(hmac.compare_digest(digest, pin) for pin in pins):
        raise ProtocolError(
            f"a bundle was refused: its SHA-256 is {digest}",
            why="it is not pinned on this machine",
            fix="if it is yours, pin it in the machine's configuration",
        )
    if claimed is not None and not hmac.compare_digest(digest, claimed):
        raise ProtocolError("a bundle was refused: it is called by another bundle's digest")


def _guard(module: ModuleType, pins: tuple[str, ...]) -> None:
    """Put the check in front of everything that Flower does with a bundle.

    Flower's programs decode the bundle with ``fab_from_proto`` and unpack it with ``install_from_fab``, in this order.
    A refusal has to wait for the second: only then does the program know which message it answers with the error. A
    release of Flower's in which either is missing is not guarded, so nothing is run by it.
    """
    decode: Callable[[Any], Any] | None = getattr(module, "fab_from_proto", None)
    unpack: Callable[..., Any] | None = getattr(module, "install_from_fab", None)
    if decode is None or unpack is None:
        raise InputError("this release of Flower cannot be guarded", fix="install the one that zkapex asks for")
    names: dict[bytes, str] = {}
    accepted: list[tuple[str, ...]] = []
    make_loader: Callable[..., Any] = getattr(module, "get_load_client_app_fn", None) or (lambda *args, **kwargs: None)

    def decoded(proto: Any) -> Any:
        bundle = decode(proto)
        names[bundle.content] = bundle.hash_str
        return bundle

    def unpacked(content: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(content, bytes):
            raise ProtocolError("a bundle was refused: it is not one that came over the network")
        check_bundle(content, names.get(content), pins)
        from flwr.cli.config_utils import get_fab_metadata

        accepted.append((*get_fab_metadata(content), names[content]))
        return unpack(content, *args, **kwargs)

    def loader(*args: Any, **kwargs: Any) -> Any:
        load = make_loader(*args, **kwargs)

        def loaded(*which: str) -> Any:
            # The link says which folder of bundles to load from; it may name the accepted one only.
            if which not in accepted:
                raise ProtocolError("a bundle was refused: it is to be loaded under another name than its own")
            return load(*which)

        return loaded

    setattr(module, "fab_from_proto", decoded)  # noqa: B010
    setattr(module, "install_from_fab", unpacked)  # noqa: B010
    setattr(module, "get_load_client_app_fn", loader)  # noqa: B010


def _refusal(what: str) -> int:
    sys.stderr.write(f"zkapex: {what}\n")
    return _EXIT_REFUSED
