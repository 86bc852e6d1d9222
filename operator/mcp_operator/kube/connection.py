"""How the API server is reached: where it is, how it is trusted, who we are.

`kubernetes.aio` finds and reads the configuration (service account, kubeconfig, exec plugins) and makes the TLS
context; a session of aiohttp made here sends the requests. Authorization is a middleware of the session, so that
whoever has one, kopf too, follows tokens that expire. The typed models of the library are not used: a request through
them costs several times as much, and 25 MiB. Requests themselves are `client`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from mcp_operator import __version__
from mcp_operator.errors import SettingsError

logger = logging.getLogger(__name__)

USER_AGENT = f"outrigger-operator/{__version__}"
LOAD_TIMEOUT = 60.0
"""Seconds for reading a kubeconfig: an exec plugin may ask somebody."""
REFRESH_INTERVAL = 5.0
"""Seconds between two attempts to get new credentials after a 401."""
EXPIRY_MARGIN = 60.0
"""Seconds before the end of a token at which a new one is fetched."""
_PROXY_VARIABLES = {"http_proxy", "https_proxy", "all_proxy"}


class Connection:
    """An API server and our identity there. Holds no connection: sessions do, and whoever made one closes it."""

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        identity: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._load = load
        self._agent = USER_AGENT if identity is None else f"{USER_AGENT} ({quote(identity)})"
        self._clock = clock
        self._wall_clock = wall_clock
        self._configuration = Configuration()
        self._rest: RESTClientObject | None = None
        self._refreshing = asyncio.Lock()
        self._refreshed_at = -REFRESH_INTERVAL
        self._expires: float | None = None

    @classmethod
    async def load(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        *,
        identity: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Connection:
        """The given kubeconfig, else the pod's service account, else `$KUBECONFIG`, else `~/.kube/config`.

        `identity` tells replicas apart in the API server's audit log: it is part of the user agent.
        Raises SettingsError where there is none or it cannot be used.
        """
        if kubeconfig is None and context is None and environ.get("KUBERNETES_SERVICE_HOST"):
            connection = cls(_service_account, identity=identity)
        else:
            path = _kubeconfig_path(kubeconfig or environ.get("KUBECONFIG") or "~/.kube/config")
            connection = cls(lambda: _kubeconfig(path, context), identity=identity)
        await connection._reload()
        return connection

    @property
    def server(self) -> str:
        """`https://host:port`, without a slash at the end."""
        return str(self._configuration.host).rstrip("/")

    def session(self) -> aiohttp.ClientSession:
        """A new session that authenticates each request; the caller closes it. Connections are not counted here."""
        assert self._rest is not None
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._rest.ssl_context),
            proxy=self._configuration.proxy or None,
            trust_env=not self._configuration.proxy and bool(_PROXY_VARIABLES & {name.lower() for name in os.environ}),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent},
            middlewares=(self._authenticate,),
        )

    async def _authenticate(self, request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        if self._configuration.tls_server_name:
            request.server_hostname = self._configuration.tls_server_name
        if self._expires is not None and self._wall_clock() >= self._expires - EXPIRY_MARGIN:
            await self._refresh()
        await self._authorize(request)
        response = await handler(request)
        if response.status != 401:
            return response
        # The connection goes too: an expired client certificate is refused for as long as it lives.
        response.close()
        await self._refresh()
        await self._authorize(request)
        return await handler(request)

    async def _authorize(self, request: aiohttp.ClientRequest) -> None:
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            request.headers["Authorization"] = token.strip()

    async def _refresh(self) -> None:
        async with self._refreshing:
            if self._clock() - self._refreshed_at < REFRESH_INTERVAL:
                return  # somebody else just did
            try:
                await self._reload()
            except SettingsError as problem:  # the old credentials may still do
                self._refreshed_at = self._clock()
                logger.warning("cannot renew the credentials: %s", problem)

    async def _reload(self) -> None:
        try:
            async with asyncio.timeout(LOAD_TIMEOUT):
                configuration, self._expires = await self._load()
            rest = RESTClientObject(configuration)
        except SettingsError:
            raise
        except TimeoutError:
            raise SettingsError(f"getting credentials took longer than {LOAD_TIMEOUT:g} s") from None
        except Exception as problem:  # noqa: BLE001 the library fails in many ways on a file that is no kubeconfig
            raise SettingsError(f"no usable Kubernetes configuration: {_words(problem)}") from None
        if self._rest is not None and configuration.cert_file:  # sessions hold the first context
            self._rest.ssl_context.load_cert_chain(configuration.cert_file, configuration.key_file)
        else:
            self._rest = rest
        self._configuration = configuration
        self._refreshed_at = self._clock()


def _words(problem: Exception) -> str:
    """What went wrong, without what the library quotes of the file: whole users, tokens included."""
    if isinstance(problem, kube_config.ConfigException | OSError):
        return str(problem).split("{", maxsplit=1)[0].strip()
    return type(problem).__name__


def _kubeconfig_path(path: str) -> str:
    """One file or several, as in `$KUBECONFIG`; at least one must be there."""
    files = [os.path.expanduser(part) for part in path.split(os.pathsep) if part]
    if not any(os.path.isfile(file) for file in files):
        raise SettingsError(f"there is no kubeconfig {path}")
    return os.pathsep.join(files)


async def _service_account() -> tuple[Configuration, float | None]:
    configuration = Configuration()
    kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return configuration, None


async def _kubeconfig(path: str, context: str | None) -> tuple[Configuration, float | None]:
    configuration = Configuration()
    loader = await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=path, context=context, client_configuration=configuration, persist_config=False
    )
    if str(configuration.host).startswith("https") and not (configuration.api_key or configuration.cert_file):
        # The library only logs what an exec plugin did wrong.
        raise SettingsError(f"the kubeconfig {path} gives no credentials")
    expires = getattr(loader, "exec_plugin_expiry", None)
    return configuration, None if expires is None else expires.timestamp()
