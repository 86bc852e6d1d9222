"""The status of an MCPServer, for the CRD. What is true is found out elsewhere and written as plain data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_operator.api.v1alpha1.base import DataKey, Format, Items, ObjectName, Part, field

MAX_TEXT = 256
"""Characters of the server's name and version and of a protocol version: the server chooses them, so they are cut."""


class Condition(Part):
    """One thing that is true, false or unknown of the MCPServer."""

    type: str = field(
        ...,
        "What the condition is about: Ready, Available, Progressing, ServerReachable, SecretsResolved, ConfigApplied.",
        max_length=316,
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    )
    status: Literal["True", "False", "Unknown"] = field(..., "Whether it is so.")
    observed_generation: int | None = field(None, "The metadata.generation that it was found for.", ge=0)
    last_transition_time: Annotated[str, Format("date-time")] = field(..., "When status changed last.")
    reason: str = field(
        ...,
        "Why, in one word, for programs.",
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
    )
    message: str = field(..., "Why, and what to do, for people.", max_length=32768)


class ServerInfo(Part):
    """What the server says of itself."""

    name: str | None = field(None, "Its name.", max_length=MAX_TEXT)
    version: str | None = field(None, "Its version.", max_length=MAX_TEXT)
    protocol_versions: Items[Annotated[str, Field(max_length=MAX_TEXT)]] = field(
        (), "Revisions of MCP that it speaks.", max_length=32, list_type="atomic"
    )


class SecretVersion(Part):
    """Which value of a secret the pods use, without saying anything about it."""

    name: ObjectName = field(..., "Name of the Secret.")
    key: DataKey = field(..., "Key in the Secret.")
    version: str = field(
        ..., "Changes with the value; an HMAC under the session key, so that it tells nothing.", max_length=64
    )


class MCPServerStatus(Part):
    """What the operator found."""

    conditions: Items[Condition] = field(
        (),
        "What is true of the MCPServer. Ready says it in one: callers get answers.",
        max_length=32,
        list_type="map",
        keys=("type",),
    )
    observed_generation: int | None = field(None, "The metadata.generation that this status is about.", ge=0)
    url: str | None = field(None, "Where callers inside the cluster find the server.", max_length=2048)
    era: Literal["Modern", "Legacy", "Both"] | None = field(
        None, "Which MCP the server speaks: Modern from 2026-07-28 on, Legacy up to 2025-11-25."
    )
    server: ServerInfo | None = field(None, "What the server says of itself.")
    tools: int | None = field(None, "Tools that callers see.", ge=0, le=1_000_000)
    replicas: int | None = field(None, "Pods that exist.", ge=0, le=1_000_000)
    ready_replicas: int | None = field(None, "Pods that are ready.", ge=0, le=1_000_000)
    updated_replicas: int | None = field(None, "Pods of the newest template.", ge=0, le=1_000_000)
    selector: str | None = field(None, "Label selector of the pods, for the scale subresource.", max_length=1024)
    config_hash: str | None = field(None, "Hash of the sidecar's config that the pods are to run.", max_length=64)
    secrets: Items[SecretVersion] = field(
        (), "Which values of secrets are used.", max_length=512, list_type="map", keys=("name", "key")
    )
