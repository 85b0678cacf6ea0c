"""The configuration of a device, ``device.toml``, and where everything of it is.

::

    device.toml        what this module checks
    ca.pem             the authority that the server's certificate is by
    node.key, .pub     who the device is to Flower: an OpenSSH key on P-384
    secret             between SuperNode and superexec
    guard/             the guard's programs
    home/link, home/apps   Flower's folders
    state/             the device's state, encrypted (`zkapex.client.state.vault`)
    logs/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from zkapex.errors import InputError
from zkapex.host.configuration import checked_configuration, load_configuration, save_configuration

CONFIGURATION: Final = "device.toml"
FOLDER_VARIABLE: Final = "ZKAPEX_DEVICE"
"""Environment variable of the processes that run tasks: the device's folder."""
Port = Annotated[int, Field(ge=1, le=65535)]


class DeviceSettings(BaseModel):
    """The whole configuration.

    Attributes
    ----------
    server : str
        ``host:port`` of the gate.
    task : str
        ``module:factory`` of model and data (`zkapex.client.deployment.app`).
    options : dict
        What that factory is given.
    port : int
        Of the SuperNode's own interface on the loopback, for the processes that run tasks.
    health_port : int
    key_file : str
        File whose content keys the state; empty for the credential of systemd's or a file of the device's own.
    bundles : tuple of str
        SHA-256 of Flower bundles that may run here beside the one of this release.
    max_cpu : int
        Processes that prove at the same time; 0 for one per core.
    max_memory_mb : int
        Memory of each process that runs a task or proves, in 2^20 bytes; 0 for no limit.
    windows : tuple of str
        Times of the day, ``HH:MM-HH:MM`` on the device's clock, in which it works; empty for always.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str = Field(pattern=r"^[^\s/:]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$")
    task: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    options: dict[str, str | int | float | bool] = {}
    port: Port = 9095
    health_port: Port = 9096
    key_file: str = ""
    bundles: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = ()
    max_cpu: int = Field(default=0, ge=0, le=4096)
    max_memory_mb: int = Field(default=0, ge=0)
    windows: tuple[Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")], ...] = ()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the gate."""
        host, _, port = self.server.rpartition(":")
        return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Place:
    """Where the parts of a device are.

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
        """The authority's certificate."""
        return self.root / "ca.pem"

    @property
    def node_key(self) -> Path:
        """Who the device is to Flower."""
        return self.root / "node.key"

    @property
    def secret(self) -> Path:
        """Between SuperNode and superexec."""
        return self.root / "secret"

    @property
    def guard(self) -> Path:
        """The guard's programs."""
        return self.root / "guard"

    @property
    def homes(self) -> Path:
        """Flower's folders, one for the SuperNode and one for tasks."""
        return self.root / "home"

    @property
    def state(self) -> Path:
        """What the device must not lose, encrypted."""
        return self.root / "state"

    @property
    def logs(self) -> Path:
        """One file a program."""
        return self.root / "logs"


def load(root: Path) -> DeviceSettings:
    """The configuration of the device in a folder.

    Raises
    ------
    InputError
        There is none, or it says something that is unknown, missing or out of range.
    """
    missing = InputError(f"{root} is no device's folder", fix=f"zkapex device init {root}")
    return load_configuration(Place(root).configuration, DeviceSettings, missing)


def checked(values: dict[str, Any], where: str) -> DeviceSettings:
    """Settings from a table.

    Raises
    ------
    InputError
        As `load`.
    """
    return checked_configuration(values, DeviceSettings, where)


def save(root: Path, settings: DeviceSettings) -> None:
    """Write the configuration."""
    save_configuration(Place(root).configuration, settings)
