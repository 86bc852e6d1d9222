"""Where credentials come from, and that those which expire are renewed."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from mcp_operator.errors import SettingsError, Unauthorized
from mcp_operator.kube import connection as module
from mcp_operator.kube.client import Client
from mcp_operator.kube.connection import Connection
from mcp_operator.kube.resources import CONFIG_MAPS
from scripted_api_server import ScriptedApiServer, status

ONE = "/api/v1/namespaces/prod/configmaps/one"


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the system's takes a quarter of a second."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with ScriptedApiServer() as started:
        yield started


def accepting(token: str) -> object:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {token}":
            return web.json_response(status(401, "Unauthorized", "Unauthorized"), status=401)
        return web.json_response({"metadata": {}})

    return answer


async def test_token_file_is_read_again(server: ScriptedApiServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    server.on("GET", ONE, accepting("old"))
    async with await Client.connect(server.kubeconfig(tmp_path, {"tokenFile": str(file)})) as client:
        client.connection._refreshed_at = -1e9
        await client.get(CONFIG_MAPS, "prod", "one")
        server.on("GET", ONE, accepting("new"))
        file.write_text("new\n")
        await client.get(CONFIG_MAPS, "prod", "one")
        assert [asked.headers["Authorization"] for asked in server.requests] == [
            "Bearer old",
            "Bearer old",
            "Bearer new",
        ]


async def test_credentials_that_are_refused_are_not_asked_for_in_a_loop(
    server: ScriptedApiServer, tmp_path: Path
) -> None:
    server.on("GET", ONE, accepting("another"))
    async with await Client.connect(server.kubeconfig(tmp_path)) as client:
        for _ in range(3):
            with pytest.raises(Unauthorized):
                await client.get(CONFIG_MAPS, "prod", "one")
    assert len(server.requests) == 6


def plugin(tmp_path: Path, says: str, code: int = 0) -> dict[str, object]:
    file = tmp_path / "plugin"
    file.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\ncat {tmp_path}/says\nexit {code}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "says").write_text(says)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(file),
            "interactiveMode": "Never",
        }
    }


def credential(token: str, expires: str) -> str:
    return json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": token, "expirationTimestamp": expires},
        }
    )


async def test_exec_plugin(server: ScriptedApiServer, tmp_path: Path) -> None:
    user = plugin(tmp_path, credential("first", "2100-01-01T00:00:00Z"))
    server.on("GET", ONE, accepting("first"))
    async with await Client.connect(server.kubeconfig(tmp_path, user)) as client:
        for _ in range(3):
            await client.get(CONFIG_MAPS, "prod", "one")
    assert (tmp_path / "runs").read_text().count("run") == 1


async def test_exec_plugin_is_asked_before_its_token_expires(server: ScriptedApiServer, tmp_path: Path) -> None:
    user = plugin(tmp_path, credential("first", "2020-01-01T00:00:00Z"))
    async with await Client.connect(server.kubeconfig(tmp_path, user)) as client:
        (tmp_path / "says").write_text(credential("second", "2100-01-01T00:00:00Z"))
        client.connection._refreshed_at = -1e9
        server.on("GET", ONE, accepting("second"))
        await client.get(CONFIG_MAPS, "prod", "one")
    assert len(server.requests) == 1
    assert (tmp_path / "runs").read_text().count("run") == 2


async def test_exec_plugin_that_fails_later_leaves_what_was(
    server: ScriptedApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = plugin(tmp_path, credential("first", "2020-01-01T00:00:00Z"))
    kubeconfig = server.kubeconfig(tmp_path, user)
    async with await Client.connect(kubeconfig) as client:
        os.unlink(kubeconfig)
        client.connection._refreshed_at = -1e9
        server.on("GET", ONE, accepting("first"))
        await client.get(CONFIG_MAPS, "prod", "one")
    assert "cannot renew the credentials" in caplog.text


async def test_service_account_without_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.aio.config.incluster_config.SERVICE_TOKEN_FILENAME", "/nonexistent/token")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(SettingsError, match="token file does not exist"):
        await Connection.load()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no kubeconfig"),
        ("", "no usable Kubernetes configuration"),
        ("{", "no usable Kubernetes configuration"),
        ("[]", "no usable Kubernetes configuration"),
        ("{current-context: x, contexts: [], clusters: [], users: []}", "Expected object with name x"),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}],"
            " clusters: [{name: c, cluster: {}}], users: [{name: u, token: canary}]}",
            "Expected key user in",
        ),
    ],
)
async def test_unusable_kubeconfig(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=says) as refused:
        await Connection.load(str(file))
    assert "canary" not in str(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__


async def test_https_without_credentials(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": plugin(tmp_path, "nonsense")}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    with pytest.raises(SettingsError, match="gives no credentials"):
        await Connection.load(str(file))


async def test_kubeconfig_of_the_environment(server: ScriptedApiServer, tmp_path: Path) -> None:
    kubeconfig = server.kubeconfig(tmp_path)
    connection = await Connection.load(environ={"KUBECONFIG": f"{tmp_path}/none{os.pathsep}{kubeconfig}"})
    assert connection.server == f"http://127.0.0.1:{server.port}"
    with pytest.raises(SettingsError, match="other"):
        await Connection.load(kubeconfig, "other")


async def test_the_user_agent_tells_replicas_apart(server: ScriptedApiServer, tmp_path: Path) -> None:
    async with await Client.connect(server.kubeconfig(tmp_path), identity="pod-1_\x07(é") as client:
        await client.get(CONFIG_MAPS, "prod", "none")
    assert server.requests[0].headers["User-Agent"] == f"{module.USER_AGENT} (pod-1_%07%28%C3%A9)"


async def test_slow_plugin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOAD_TIMEOUT", 0.01)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(SettingsError, match="longer than"):
        await Connection(lambda: never)._reload()
