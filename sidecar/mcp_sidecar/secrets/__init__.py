"""Secret values: where they are read from, how sealed ones are opened, how a rotation is seen, how none leaks.

The config only describes values (`mcp_sidecar.config.values`); here they become strings, as late as possible. A value
that cannot be read or opened raises SecretError and makes its server not ready, never anonymous.
"""

from mcp_sidecar.secrets.files import Files
from mcp_sidecar.secrets.keyring import Keyring, KeySource, keygen
from mcp_sidecar.secrets.redaction import Redactor
from mcp_sidecar.secrets.resolving import SecretValue, ValueSource
from mcp_sidecar.secrets.server_secrets import Resolved, ServerSecrets
from mcp_sidecar.secrets.store import SecretStore
from mcp_sidecar.secrets.tokens import server_tokens
from mcp_sidecar.secrets.watch import DirectoryWatch, Watcher

__all__ = [
    "DirectoryWatch",
    "Files",
    "KeySource",
    "Keyring",
    "Redactor",
    "Resolved",
    "SecretStore",
    "SecretValue",
    "ServerSecrets",
    "ValueSource",
    "Watcher",
    "keygen",
    "server_tokens",
]
