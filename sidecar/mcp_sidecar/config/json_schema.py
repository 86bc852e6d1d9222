"""The JSON Schema of the config, for editors and for people who generate configs.

It describes our names and, marked deprecated, the other spellings that are accepted. Rules across fields are not in it:
`check` knows them all.
"""

from __future__ import annotations

from typing import Any

import annotated_types
from pydantic.fields import FieldInfo

from mcp_sidecar.config.document import Config
from mcp_sidecar.config.foreign import FOREIGN, RENAMED
from mcp_sidecar.config.scalars import Section, Unit
from mcp_sidecar.config.vocabulary import inner_section

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a config file."""
    document = Config.model_json_schema(by_alias=True)
    sections = {"Config": document, **document["$defs"]}
    models: dict[str, type[Section]] = {"Config": Config, **{model.__name__: model for model in _below(Config)}}
    for name, section in sections.items():
        model = models.get(name)
        if model is not None:
            _add_spellings(section, model)
    document["properties"]["readiness"] = {
        "anyOf": [document["properties"]["readiness"], {"enum": ["Startup", "Upstream"]}]
    }
    for name in ("transport", "type", "transportType"):  # clients spell it in many ways
        transport = sections["Server"]["properties"][name]
        transport.pop("type", None)
        transport["anyOf"] = [{"enum": transport.pop("enum")}, {"type": "string", "deprecated": True}]
    # Clients write null for what is not there, VS Code for a variable that is to be unset.
    server = sections["Server"]["properties"]
    server["env"]["additionalProperties"]["anyOf"].append({"type": "null"})
    for name in ("args", "env", "headers"):
        server[name]["type"] = [server[name]["type"], "null"]
    # Either name of the servers will do, so neither can be required alone.
    document.pop("required", None)
    document["anyOf"] = [{"required": [name]} for name in ("servers", "mcpServers", "mcp_servers")]
    _clean(document)
    return {"$schema": DIALECT, **document, "title": "Outrigger sidecar configuration"}


def _add_spellings(section: dict[str, Any], model: type[Section]) -> None:
    properties: dict[str, Any] = section["properties"]
    for name, info in model.model_fields.items():
        alias = info.alias or name
        properties[alias]["description"] = info.description
        _bound(properties[alias], info)
        if name != alias:
            properties[name] = {**properties[alias], "deprecated": True}
            for key in ("default", "x-default"):
                properties[name].pop(key, None)
    for other, target in RENAMED.get(model, {}).items():
        same = properties.get(target[0], {}) if len(target) == 1 and other != "enabled" else {}
        properties[other] = {**{key: same[key] for key in _SHAPE if key in same}, "deprecated": True}
        properties[other]["description"] = (
            "Same as " + ".".join(target) + ("" if other != "enabled" else ", negated") + "."
        )
    for other in FOREIGN.get(model, {}):
        properties[other] = {"description": "Accepted without effect.", "deprecated": True}


def _bound(setting: dict[str, Any], info: FieldInfo) -> None:
    """The bounds of a number that may also be written with a unit: pydantic leaves them out there."""
    if "anyOf" not in setting or not any(isinstance(entry, Unit) for entry in info.metadata):
        return
    number = setting["anyOf"][0] = dict(setting["anyOf"][0])
    for entry in info.metadata:
        if isinstance(entry, annotated_types.Ge):
            number["minimum"] = entry.ge
        elif isinstance(entry, annotated_types.Le):
            number["maximum"] = entry.le


_SHAPE = ("type", "anyOf", "enum", "items", "additionalProperties", "patternProperties", "minimum", "maximum", "$ref")


def _below(model: type[Section]) -> list[type[Section]]:
    found: list[type[Section]] = []
    for info in model.model_fields.values():
        section = inner_section(info.annotation)[0]
        if section is not None:
            found += [section, *_below(section)]
    return found


def _clean(node: Any) -> None:
    """Drop pydantic's titles, and `required` lists that other spellings would break."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for item in node.values():
            _clean(item)
    elif isinstance(node, list):
        for item in node:
            _clean(item)
