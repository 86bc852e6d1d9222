"""The ConfigMap with the sidecar's config, one for each generation of pods.

Its name ends in a hash of what running pods must not see change: their part of the config, the files of tokens, and the
image, since an older sidecar refuses settings that it does not know. A tunable changes the newest ConfigMap in place;
anything else makes a new one, while old pods keep theirs and a rollback finds it again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired.config import rolling, token_files
from mcp_operator.desired.containers import CONFIG_KEY
from mcp_operator.desired.metadata import Manifest, manifest

_HASH_DIGITS = 10


def config_map_name(server: MCPServer, image: str) -> str:
    """`<name>-<10 hex digits>`; `image` is that of the pods' main container."""
    fixed = {"config": rolling(server), "image": image, "tokenFiles": token_files(server)}
    text = json.dumps(fixed, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{server.metadata.name}-{hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]}"


def config_text(config: dict[str, Any]) -> str:
    """The config as the file has it: the same text for the same config, readable for people."""
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def config_hash(text: str) -> str:
    """What the sidecar says in `/status` of the file that it runs: 16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_map(server: MCPServer, name: str, text: str) -> Manifest:
    """The ConfigMap. It holds no secret: values from Secrets are named by their files."""
    return {**manifest(server, "v1", "ConfigMap", name), "data": {CONFIG_KEY: text}}
