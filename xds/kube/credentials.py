"""Where the API is and who we are: kubeconfig, context, exec plugin, OIDC or a Pod's own token, by the library.

Owns when credentials are read again; it must never log one, keep one of its own, or write a kubeconfig back.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import yaml

from xds import settings
from xds.sources.transport import NO_ANSWER, ApiError

_POD_FILES = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a kubelet mounts a Pod's identity (k8s.io/client-go rest.InClusterConfig)."""

_DEFAULT_NAMESPACE = "default"

_MALFORMED = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)
"""What the library lets out when a file, a plugin or an identity provider says something of another shape."""


class _Configuration(Protocol):
    """The part of the library's Configuration that is used here."""

    host: str
    cert_file: str | None
    key_file: str | None


class _Transport(Protocol):
    """The part of the library's RESTClientObject that is used here."""

    ssl_context: ssl.SSLContext
    pool_manager: object

    async def request(
        self, method: str, url: str, *, headers: dict[str, str], body: object, _request_timeout: object
    ) -> object: ...


class _Api(Protocol):
    """The part of the library's ApiClient that is used here."""

    configuration: _Configuration
    rest_client: _Transport

    async def update_params_for_auth(  # noqa: PLR0913, PLR0917 -- the library's signature
        self,
        headers: dict[str, str],
        queries: list[object],
        auth_settings: list[str],
        resource_path: str,
        method: str,
        body: object,
    ) -> None: ...

    async def close(self) -> None: ...


class _Loader(Protocol):
    """The part of the library's KubeConfigLoader that is used here."""

    current_context: Mapping[str, object]

    async def load_and_set(self, client_configuration: object) -> None: ...


class _Config(Protocol):
    """The part of the library's module ``config`` that is used here: the library itself has no types."""

    KUBE_CONFIG_DEFAULT_LOCATION: str

    def load_incluster_config(self, client_configuration: object) -> None: ...

    async def load_kube_config(
        self,
        config_file: str | None,
        *,
        context: str | None,
        client_configuration: object,
        persist_config: bool,
    ) -> _Loader: ...


class Credentials:
    """The library's configuration, kept fresh: ``authorize`` before every request, ``expire`` after a 401."""

    def __init__(self, api: _Api, loader: _Loader | None, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self._loader = loader
        self._refreshed_at = asyncio.get_running_loop().time()
        self._refreshing = asyncio.Lock()
        self._certificate = self._certificate_files()

    @classmethod
    async def load(cls, kubeconfig: Path | None, context: str | None) -> Credentials:
        """Find the API as kubectl does: the file or context asked for, else the user's, else the Pod's own.

        Raises ApiError without a status, with the words of the library, where there is none that works.
        """
        from kubernetes.aio import config as library
        from kubernetes.aio.client import ApiClient, Configuration

        config = cast("_Config", library)
        configuration = Configuration(client_session_kwargs={"read_bufsize": settings.KUBE_READ_BUFFER_BYTES})
        async with _told("configuration"):
            if (
                kubeconfig is None
                and context is None
                and not _has_user_file(config.KUBE_CONFIG_DEFAULT_LOCATION)
            ):
                config.load_incluster_config(configuration)
                return cls(cast("_Api", ApiClient(configuration)), None, _pod_namespace())
            if kubeconfig is not None:
                _check_file(kubeconfig)
            # persist_config: the library would rewrite the user's file at every load, not only when it changed
            loading = config.load_kube_config(
                str(kubeconfig) if kubeconfig else None,
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
            loader = await asyncio.wait_for(loading, settings.KUBE_CREDENTIALS_TIMEOUT_S)
            return cls(cast("_Api", ApiClient(configuration)), loader, _context_namespace(loader))

    @property
    def host(self) -> str:
        """Where the API is, as a URL without a path."""
        return self.api.configuration.host

    async def authorize(self, headers: dict[str, str]) -> None:
        """Add what proves who we are to a request's headers; raise ApiError where it cannot be had."""
        async with self._refreshing, _told("credentials"):
            if self._loader is not None and self._age_s() >= settings.KUBE_CREDENTIALS_REFRESH_S:
                await self._reload(self._loader)
            await self.api.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)

    def expire(self) -> bool:
        """Take note that the API refused our credentials; return whether asking again may help."""
        if self._loader is None:
            return False  # the library reads a Pod's token again every minute, long before it expires
        if self._age_s() < settings.KUBE_CREDENTIALS_RETRY_S:
            return False
        vars(self._loader).pop("exec_plugin_expiry", None)  # a plugin's token may be revoked before its time
        self._refreshed_at = -settings.KUBE_CREDENTIALS_REFRESH_S
        return True

    def _age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._refreshed_at

    async def _reload(self, loader: _Loader) -> None:
        """Let the library look at files, plugin or identity provider again, and take a new certificate."""
        await asyncio.wait_for(
            loader.load_and_set(self.api.configuration), settings.KUBE_CREDENTIALS_TIMEOUT_S
        )
        self._refreshed_at = asyncio.get_running_loop().time()
        files = self._certificate_files()
        if files != self._certificate and files[0]:
            self.api.rest_client.ssl_context.load_cert_chain(files[0], files[1])
            self._certificate = files

    def _certificate_files(self) -> tuple[str, str | None]:
        configuration = self.api.configuration
        return configuration.cert_file or "", configuration.key_file


class _told:  # noqa: N801 -- reads as a statement: async with _told(...)
    """Turn whatever a library says about credentials into our error, in one line without a credential."""

    def __init__(self, what: str) -> None:
        self._what = what

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        from kubernetes.aio.config import ConfigException

        if isinstance(error, (ConfigException, *_MALFORMED)):
            said = " ".join(str(error).split())[: settings.KUBE_MESSAGE_MAX_CHARS]
            if isinstance(error, KeyError | TypeError | AttributeError):
                said = f"has an unexpected shape ({said})"
            raise ApiError(NO_ANSWER, self._what, said or type(error).__name__) from error


def _check_file(kubeconfig: Path) -> None:
    """Raise FileNotFoundError in words of ours: the library passes over a file that is not there."""
    if not kubeconfig.is_file():
        raise FileNotFoundError(f"{kubeconfig} is not a file")


def _has_user_file(location: str) -> bool:
    """Tell whether any of the files that KUBECONFIG names (or the user's own) is there."""
    return any(path and Path(path).expanduser().exists() for path in location.split(":"))


def _pod_namespace() -> str:
    try:
        return (_POD_FILES / "namespace").read_text(encoding="ascii").strip() or _DEFAULT_NAMESPACE
    except FileNotFoundError:
        return _DEFAULT_NAMESPACE


def _context_namespace(loader: _Loader) -> str:
    context = loader.current_context.get("context")
    namespace = cast("Mapping[str, object]", context).get("namespace") if isinstance(context, dict) else None
    return namespace if isinstance(namespace, str) and namespace else _DEFAULT_NAMESPACE
