"""References to keys of Secrets and ConfigMaps, and the values that may come from them.

No field of the MCPServer takes a secret other than by reference; a literal `value` is for what anybody may read.
"""

from __future__ import annotations

from mcp_operator.api.v1alpha1.base import DataKey, HeaderName, ObjectName, Part, VariableName, field


class KeySelector(Part):
    """One key of a Secret or ConfigMap in the namespace of the MCPServer."""

    name: ObjectName = field(..., "Name of the object.")
    key: DataKey = field(..., "Key in its data.")


class ValueSource(Part):
    """Where a value comes from: exactly one of a key of a Secret and a key of a ConfigMap."""

    secret_key_ref: KeySelector | None = field(None, "Take the value from a key of a Secret.")
    config_map_key_ref: KeySelector | None = field(None, "Take the value from a key of a ConfigMap.")


class SecretSource(Part):
    """A secret value: a key of a Secret."""

    secret_key_ref: KeySelector = field(..., "The key of a Secret that holds it.")


class EnvVar(Part):
    """An environment variable: a name with either a value or where it comes from."""

    name: VariableName = field(..., "Name of the variable.")
    value: str | None = field(
        None, "The value itself, readable for everybody who can read the MCPServer: no secrets here.", max_length=32768
    )
    value_from: ValueSource | None = field(None, "Where the value comes from; instead of value.")


class PlainEnvVar(Part):
    """An environment variable with its value."""

    name: VariableName = field(..., "Name of the variable.")
    value: str = field(
        ..., "The value, readable for everybody who can read the MCPServer: no secrets here.", max_length=32768
    )


class ObjectRef(Part):
    """A Secret or ConfigMap in the namespace of the MCPServer."""

    name: ObjectName = field(..., "Name of the object.")


class EnvFromSource(Part):
    """Every key of a Secret or ConfigMap as an environment variable: exactly one of both."""

    prefix: str | None = field(
        None,
        "Put in front of every key to make the variable's name.",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    secret_ref: ObjectRef | None = field(None, "The Secret whose keys become variables.")
    config_map_ref: ObjectRef | None = field(None, "The ConfigMap whose keys become variables.")


class Header(Part):
    """A header that is sent with each request to the server: a name with either a value or where it comes from."""

    name: HeaderName = field(..., "Name of the header.")
    value: str | None = field(
        None,
        "The value itself, readable for everybody who can read the MCPServer: no secrets here.",
        max_length=8192,
        pattern=r"^[\t\x20-\x7e\x80-\xff]*$",
    )
    value_from: ValueSource | None = field(
        None, "Where the value comes from, instead of value. For a token the key must hold all of it: `Bearer …`."
    )
