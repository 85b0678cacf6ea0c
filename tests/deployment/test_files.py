"""The files of deploy/: units, containers, Kubernetes and proxies; each command in them is one that exists."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import typer
import uvicorn
import yaml
from deployed import free_port, wait_for
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from zkapex.cli import command_line
from zkapex.client.deployment.init import create_device
from zkapex.client.deployment.settings import DeviceSettings
from zkapex.server.deployment.init import create_server
from zkapex.server.deployment.settings import Gate, ServerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/zkapex/bin/zkapex"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def check_command(arguments: list[str]) -> None:
    """Return only if the real command line takes these arguments."""
    command: Any = typer.main.get_command(command_line())
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    command.make_context(command.name, arguments)


def exec_start(unit: Path) -> list[str]:
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program == PROGRAM
    return arguments


# -- systemd ----------------------------------------------------------------------------------------------------------


def test_there_is_a_unit_for_every_part() -> None:
    from zkapex.server.deployment.programs import PARTS

    assert {unit.stem.removeprefix("zkapex-") for unit in UNITS} >= {*PARTS, "device"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_what_exists_with_few_rights(unit: Path) -> None:
    check_command(exec_start(unit))
    lines = unit.read_text().splitlines()
    for needed in (
        "KillMode=control-group", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes",
        "CapabilityBoundingSet=", "UMask=0077", "RestrictNamespaces=yes", "SystemCallFilter=@system-service",
    ):  # fmt: skip
        assert needed in lines
    (user,) = (line.removeprefix("User=") for line in lines if line.startswith("User="))
    part = unit.stem.removeprefix("zkapex-")
    assert user == {"link": "zkapex-link", "gate": "zkapex-link", "device": "zkapex-device"}.get(
        part, "zkapex-provider"
    )
    if "Type=oneshot" not in lines:
        assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(lines)
    hidden = next((line for line in lines if line.startswith("InaccessiblePaths=")), "")
    if user == "zkapex-link":
        assert "/var/lib/zkapex/provider" in hidden
    if part in ("superexec", "tick"):
        assert "/var/lib/zkapex/link" in hidden


@needs("systemd-analyze")
def test_systemd_understands_the_units_and_finds_them_locked(tmp_path: Path) -> None:
    for path in (*UNITS, *(DEPLOY / "systemd").glob("*.timer"), *(DEPLOY / "systemd").glob("*.target")):
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, "/bin/true"))
    copies = sorted(tmp_path.glob("*"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *copies], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for path in tmp_path.glob("*.service"):
        command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="zkapex-users-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@needs("systemd-tmpfiles")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_two_users_of_a_server_cannot_read_each_other_s(everybodys: Path) -> None:
    """The users and modes that the files say, made by systemd's own programs in a root of their own."""
    root = everybodys / "root"
    server, device = root / "var/lib/zkapex", root / "var/lib/zkapex-device"
    place = create_server(server, ServerSettings(host="fl.example.org", provider="a.b:c"))
    settings = DeviceSettings(server="fl.example.org:9092", task="a.b:c")
    create_device(device, settings, place.link / "ca.pem", place.federation / "key.pub")
    (root / "etc").mkdir()
    for path in (root, root / "var", root / "var/lib"):
        path.chmod(0o755)
    systemd = DEPLOY / "systemd"
    for kind, program in (("sysusers", "systemd-sysusers"), ("tmpfiles", "systemd-tmpfiles")):
        create = ["--create"] if kind == "tmpfiles" else []
        files = [systemd / f"zkapex-{which}.{kind}.conf" for which in ("server", "device")]
        done = subprocess.run([program, f"--root={root}", *create, *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    users = {line.split(":")[0]: line.split(":")[2] for line in (root / "etc/passwd").read_text().splitlines()}
    groups = {line.split(":")[0]: line.split(":")[2] for line in (root / "etc/group").read_text().splitlines()}

    def may(user: str, path: Path, how: str = "-r") -> bool:
        extra = groups["zkapex-server"] if user in ("zkapex-link", "zkapex-provider") else users[user]
        who = [f"--reuid={users[user]}", f"--regid={users[user]}", f"--groups={extra}"]
        return subprocess.run(["setpriv", *who, "test", how, path], check=False).returncode == 0

    provider_s = [place.federation / "provider" / "key.pem", place.provider / "secret", place.guard / "pinned-bundles"]
    link_s = [place.link / "server.key", place.link / "secret", place.gate / "server.key"]
    for user in ("zkapex-link", "zkapex-provider"):
        assert may(user, place.configuration)
        assert not may(user, place.configuration, "-w")
        assert may(user, place.logs, "-w")
        assert not may(user, place.authority / "ca.key")
        assert not may(user, device / "node.key")
    assert all(may("zkapex-provider", path) and not may("zkapex-link", path) for path in provider_s)
    assert all(may("zkapex-link", path) and not may("zkapex-provider", path) for path in link_s)
    assert may("zkapex-link", place.link, "-w")
    assert may("zkapex-device", device / "node.key")
    assert not any(may("zkapex-device", path) for path in (place.configuration, *provider_s, *link_s))
    if may("zkapex-provider", Path(sys.executable), "-x"):  # what an operator runs works for that user
        command = [sys.executable, "-c", "from zkapex.cli import main; main()", "server", "requests", "list", server]
        who = [f"--reuid={users['zkapex-provider']}", f"--regid={users['zkapex-provider']}"]
        who += [f"--groups={groups['zkapex-server']}"]
        environment = {**os.environ, "HOME": str(place.provider), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            ["setpriv", *who, *command, "--json"], env=environment, cwd="/", capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, '{"requests": []}\n'), done.stderr
    private = [path for path in root.rglob("*") if path.name.endswith((".key", ".pem", "secret", "node.key"))]
    assert len(private) > 8
    assert not [path for path in private if path.stat().st_mode & 0o077]


# -- containers -------------------------------------------------------------------------------------------------------


def test_compose_runs_what_exists_and_gives_each_part_its_own() -> None:
    found = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
    services: dict[str, Any] = found["services"]
    assert set(services) >= {"init", "link", "gate", "superexec", "observe"}
    for name, service in services.items():
        check_command([re.sub(r"\$\{.*\}", "a.b:c", str(part)) for part in service["command"]])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        for volume in service["volumes"]:
            source, target = volume.split(":")[:2]
            assert target.startswith("/srv/")
            assert source.startswith("./") or source in found["volumes"]
        if name not in ("init", "link"):
            assert service["network_mode"] == "service:link"
            assert "link" in service["depends_on"]
            assert "ports" not in service
    inside = {name: " ".join(service["volumes"]) for name, service in services.items()}
    assert "provider" not in inside["link"] + inside["gate"]
    assert "/link:" not in inside["superexec"] + inside["gate"]
    assert services["link"]["ports"] == [f"{Gate().port}:{Gate().port}"]


def test_the_image_s_commands_exist_and_its_extras_too() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text()
    for command in re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE):
        check_command(yaml.safe_load(command))
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    assert stages >= {"server", "device"}
    used = re.findall(r"--from=(\S+)", text) + re.findall(r"^FROM ([a-z-]+) AS", text, re.MULTILINE)
    assert set(used) <= stages
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", text):
        assert all(f"\n{extra} = [" in project for extra in extras.split(","))


def test_the_manifest_of_kubernetes_is_whole() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "zkapex.yaml").read_text()))
    kinds = {document["kind"]: document for document in documents}
    assert set(kinds) == {"Namespace", "Service", "NetworkPolicy", "StatefulSet"}
    assert all(d["metadata"].get("namespace", "zkapex") == "zkapex" for d in documents)
    spec = kinds["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    for selector in (
        kinds["Service"]["spec"]["selector"], spec["selector"]["matchLabels"],
        kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):  # fmt: skip
        assert selector == labels
    assert spec["replicas"] == 1, "one process at a time works in a federation's folder"
    pod = spec["template"]["spec"]
    volumes = {v["name"] for v in pod["volumes"]} | {v["metadata"]["name"] for v in spec["volumeClaimTemplates"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        if "command" in container:
            (script,) = container["args"]
            check_command(shlex.split(script.split("||")[1])[1:])
        else:
            check_command(list(container["args"]))
    ports = {port["name"] for container in pod["containers"] for port in container.get("ports", ())}
    assert {port["targetPort"] for port in kinds["Service"]["spec"]["ports"]} <= ports
    mounts = {c["name"]: str(c["volumeMounts"]) for c in pod["containers"]}
    assert "zkapex/provider" not in mounts["link"] + mounts["gate"]


# -- proxies in place of the gate -------------------------------------------------------------------------------------

REFUSED = (
    "/v1/control/start-run",
    "/v1/runtime/acquire-task",
    "/docs",
    "/",
    "/v1/fleet/",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/v1/fleet/..%2fcontrol/start-run",
    "//v1/control/start-run",
    "//v1/fleet/pull-messages",
    "/V1/CONTROL/start-run",
    "/v1/fleet/pull-messages/../../control/start-run",
    "/v1/fleet/pull-messages?x=/v1/control/start-run",
    "/v1/fleet/pull-messages;/v1/control",
    "/v1/fleet/pull%2dmessages",
)


@contextmanager
def link(folder: Path, port: int) -> Iterator[list[tuple[str, bytes]]]:
    """A stand-in for the SuperLink, with its certificate, that answers everything."""
    seen: list[tuple[str, bytes]] = []

    async def everything(request: Request) -> PlainTextResponse:
        seen.append((request.url.path, await request.body()))
        return PlainTextResponse("reached")

    routes = [Route("/{path:path}", everything, methods=["GET", "POST", "PUT"])]
    config = uvicorn.Config(
        Starlette(routes=routes), port=port, log_level="error", ssl_certfile=str(folder / "server.pem"),
        ssl_keyfile=str(folder / "server.key"),
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, 30, "the stand-in")
        yield seen
    finally:
        server.should_exit = True
        thread.join()


def started(kind: str, folder: Path, gate: Path, port: int, upstream: int) -> list[str]:
    """The command of a proxy with our snippet, as it is but for ports and places."""
    text = (DEPLOY / "proxy" / {"nginx": "nginx.conf", "caddy": "Caddyfile"}[kind]).read_text()
    text = text.replace("/var/lib/zkapex/gate", str(gate)).replace("9092", str(port)).replace("9091", str(upstream))
    path = folder / kind
    if kind == "caddy":
        path.write_text(text)
        return ["caddy", "run", "--adapter", "caddyfile", "--config", str(path)]
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ {temporary}\n{text}\n}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(path)]


@pytest.mark.parametrize("kind", [pytest.param(one, marks=needs(one)) for one in ("nginx", "caddy")])
def test_a_proxy_passes_what_devices_need_and_nothing_else(tmp_path: Path, kind: str) -> None:
    place = create_server(tmp_path / "server", ServerSettings(host="localhost", provider="a.b:c"))
    port, upstream = free_port(), free_port()
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
    }
    context = ssl.create_default_context(cafile=str(place.gate / "ca.pem"))

    def ask(path: str, method: str = "POST", body: bytes = b"") -> int:
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def up() -> bool:
        try:
            return ask("/health", "GET") == 200
        except OSError:
            return False

    with (tmp_path / "log").open("wb") as log, link(place.link, upstream) as seen:
        process = subprocess.Popen(
            started(kind, tmp_path, place.gate, port, upstream), env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(lambda: process.poll() is not None or up(), 30, kind)
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert ask("/v1/fleet/pull-messages", body=b"body") == 200
            assert seen == [("/v1/fleet/pull-messages", b"body")]
            for path in REFUSED:
                assert ask(path) in (400, 403), path
            for method in ("GET", "PUT", "DELETE"):
                assert ask("/v1/fleet/pull-messages", method) in (403, 405), method
            with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):  # it may answer, or close
                assert ask("/v1/fleet/push-object", body=bytes(65 * 2**20)) in (413, 502)
            assert len(seen) == 1, "the link was reached otherwise"
        finally:
            process.terminate()
            process.wait(20)
