"""The configuration of a server, ``zkapex.toml``, and where everything of it is.

::

    zkapex.toml          what this module checks
    ca/                  ca.key, ca.pem: signs the server's certificate; can be kept elsewhere
    link/                of Flower's SuperLink: server.pem, server.key, ca.pem, state.db, secret, home/
    gate/                of the gate: a copy of the certificate and its key
    provider/            of whoever runs campaigns: the federation, secret, requests/, campaigns/, guard/, home/
    operator/            Flower's home for the operator's commands
    logs/                one file a program
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from zkapex.errors import InputError
from zkapex.host.configuration import checked_configuration, load_configuration, save_configuration
from zkapex.server.federation.settings import RunSettings
from zkapex.transport.app import installed_app, settings_of

CONFIGURATION: Final = "zkapex.toml"
MEBIBYTE: Final = 2**20
Port = Annotated[int, Field(ge=1, le=65535)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gate(_Strict):
    """What devices reach.

    Attributes
    ----------
    listen : str
        Address the gate listens on.
    port : int
    requests_per_minute : int
        From one address, on average; a burst of as many is let through.
    largest_mb : int
        Largest body of one request, in 2^20 bytes.
    connections : int
        At the same time, from everybody.
    """

    listen: str = "0.0.0.0"  # noqa: S104 - the gate is what is meant to be reached
    port: Port = 9092
    requests_per_minute: int = Field(default=6000, ge=1)
    largest_mb: int = Field(default=64, ge=1, le=2048)
    connections: int = Field(default=512, ge=1)


class Link(_Strict):
    """Flower's SuperLink, on the loopback interface only.

    Attributes
    ----------
    port, health_port : int
    """

    port: Port = 9091
    health_port: Port = 9093


class Observe(_Strict):
    """Metrics, health and readiness for the operator's machines.

    Attributes
    ----------
    listen : str
    port : int
    """

    listen: str = "127.0.0.1"
    port: Port = 9094


class Campaigns(_Strict):
    """Short runs that ask whoever is online for whatever is due.

    Attributes
    ----------
    devices : int
        The first one, which trains the model, begins when so many devices are online.
    retry_minutes : int
        What failed for a reason that does not go away by itself (a device that was turned away, a request that could
        not be planned) is tried again after this long.
    longest_minutes : int
        A campaign that takes longer is stopped; the next one goes on where it was.
    """

    devices: int = Field(default=1, ge=1)
    retry_minutes: int = Field(default=60, ge=0)
    longest_minutes: int = Field(default=24 * 60, ge=1)


class ServerSettings(_Strict):
    """The whole configuration.

    Attributes
    ----------
    host : str
        The name or address under which devices reach the server; in its certificate.
    provider : str
        ``module:factory`` of the provider (`simulation/federation/deployed.py` is an example).
    options : dict
        What that factory is given.
    run : dict
        Settings of the federation, see `zkapex.server.federation.settings.RunSettings`.
    bundles : tuple of str
        SHA-256 of Flower bundles that may run here beside the one of this release.
    database : str
        ``postgresql+psycopg://USER@HOST/DATABASE``; empty: an SQLite file. No password: that belongs into ``~/.pgpass``
        of whoever runs campaigns.
    gate, link, observe, campaigns
    """

    host: str = Field(min_length=1, max_length=253)
    provider: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    options: dict[str, str | int | float | bool] = {}
    run: dict[str, str | int | float | bool] = {}
    bundles: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = ()
    database: str = Field(default="", pattern=r"^$|^postgresql(\+psycopg)?://([^:@/\s]*@)?[^@\s]*$", max_length=2000)
    gate: Gate = Gate()
    link: Link = Link()
    observe: Observe = Observe()
    campaigns: Campaigns = Campaigns()

    @field_validator("database")
    @classmethod
    def _no_password(cls, value: str) -> str:
        if "password=" in value:
            raise ValueError("a password belongs into ~/.pgpass")
        return value.replace("postgresql://", "postgresql+psycopg://", 1)


@dataclass(frozen=True)
class Place:
    """Where the parts of a server are.

    Attributes
    ----------
    root : Path
    """

    root: Path

    @property
    def configuration(self) -> Path:
        """The file that `load` reads."""
        return self.root / CONFIGURATION

    @property
    def authority(self) -> Path:
        """The certificate authority's key and certificate."""
        return self.root / "ca"

    @property
    def link(self) -> Path:
        """Folder of Flower's SuperLink."""
        return self.root / "link"

    @property
    def gate(self) -> Path:
        """Folder of the gate."""
        return self.root / "gate"

    @property
    def provider(self) -> Path:
        """Folder of whoever runs campaigns: the only one that holds the provider's key."""
        return self.root / "provider"

    @property
    def federation(self) -> Path:
        """Work folder of the federation."""
        return self.provider / "federation"

    @property
    def requests(self) -> Path:
        """What operators asked to be forgotten."""
        return self.provider / "requests"

    @property
    def campaigns(self) -> Path:
        """What came of campaigns."""
        return self.provider / "campaigns"

    @property
    def guard(self) -> Path:
        """The guard's programs."""
        return self.provider / "guard"

    @property
    def operator(self) -> Path:
        """Flower's home for the operator's commands."""
        return self.root / "operator"

    @property
    def logs(self) -> Path:
        """One file a program."""
        return self.root / "logs"


def load(root: Path) -> ServerSettings:
    """The configuration of the server in a folder.

    Raises
    ------
    InputError
        There is none, or it says something that is unknown, missing or out of range.
    """
    missing = InputError(f"{root} is no server's folder", fix=f"zkapex server init {root}")
    return load_configuration(Place(root).configuration, ServerSettings, missing)


def run_settings(settings: ServerSettings) -> RunSettings:
    """Settings of the federation: those of the configuration, and defaults.

    Raises
    ------
    InputError
        A setting is unknown, of another type, or out of range.
    """
    known = set(RunSettings.__dataclass_fields__) - {"request_id", "requests"}
    if unknown := sorted(name for name in settings.run if name.replace("-", "_") not in known):
        raise InputError(
            f"the federation has no setting {', '.join(unknown)}",
            fix=f"choose of {', '.join(sorted(name.replace('_', '-') for name in known))}",
        )
    return RunSettings.from_config({**settings_of(installed_app()), **settings.run})


def checked(values: dict[str, Any], where: str) -> ServerSettings:
    """Settings from a table.

    Raises
    ------
    InputError
        As `load`.
    """
    return checked_configuration(values, ServerSettings, where)


def save(root: Path, settings: ServerSettings) -> None:
    """Write the configuration."""
    save_configuration(Place(root).configuration, settings)
