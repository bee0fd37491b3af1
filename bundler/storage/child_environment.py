"""What of our environment a program that we start may see: an allow-list, for every program.

Passphrases and PINs (`SEALIFT_*`), tokens of Hubs and clouds, and whatever else a shell holds would be
inherited by podman, uv and credential helpers, and from there by whatever these start. So nothing is passed
on but what is named here; a test looks at every place that starts a program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

BASIC = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "TMPDIR"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
)
"""Who and where we are, and in which language."""
PROXIES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT")
CONTAINERS = (
    *("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
    *("CONTAINER_HOST", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"),
    *("CONTAINERD_ADDRESS", "REGISTRY_AUTH_FILE", "STORAGE_DRIVER", "STORAGE_OPTS"),
    *("DBUS_SESSION_BUS_ADDRESS", "_CONTAINERS_USERNS_CONFIGURED", "_CONTAINERS_ROOTLESS_UID"),
    *("_CONTAINERS_ROOTLESS_GID", *PROXIES, *CERTIFICATES),
)
"""Where podman, docker, containerd and skopeo find their service, storage and logins."""
KEY_RINGS = (
    *("DOCKER_CONFIG", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"),
    *("GNUPGHOME", "GPG_TTY", "PASSWORD_STORE_DIR", *PROXIES, *CERTIFICATES),
)
"""How a credential helper reaches the key ring that it asks."""
_CLOUDS = {"ecr": "AWS_", "gcr": "GOOGLE_", "gcloud": "CLOUDSDK_", "acr": "AZURE_"}
"""Helpers whose only purpose is to turn a cloud's own variables into a password: they get these."""


def child_environment(caller: Mapping[str, str], *names: str) -> dict[str, str]:
    """What of the environment `caller` a program sees: `BASIC` and `names`."""
    return _taken(caller, (*BASIC, *names))


def helper_environment(caller: Mapping[str, str], helper: str) -> dict[str, str]:
    """What the credential helper `docker-credential-<helper>` sees."""
    prefixes = tuple(prefix for name, prefix in _CLOUDS.items() if helper.startswith(name))
    clouds = [name for name in caller if prefixes and name.startswith(prefixes)]
    return _taken(caller, (*BASIC, *KEY_RINGS, *clouds))


def _taken(caller: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: caller[name] for name in names if name in caller}
