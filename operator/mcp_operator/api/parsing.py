"""From a manifest to an MCPServer, or to everything that is wrong with it.

The manifest is checked as an API server checks it, by the CRD's own schema and rules, so that a file that `render`
takes is taken by a cluster too. What the sidecar finds in the config that is made of it is left to `desired`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from mcp_operator.api.crd import schema
from mcp_operator.api.defaulting import defaulted
from mcp_operator.api.v1alpha1.spec import API_VERSION, KIND, MCPServer
from mcp_operator.api.validation import check
from mcp_operator.errors import Problem, SpecError


def parse(manifest: Mapping[str, Any]) -> MCPServer:
    """The MCPServer that a manifest stands for, defaults filled in. Raises SpecError with all problems at once; no text
    that may be a secret is in them."""
    if manifest.get("apiVersion") != API_VERSION or manifest.get("kind") != KIND:
        raise SpecError([Problem("apiVersion", f"must be {API_VERSION}, and kind must be {KIND}")])
    whole = default(manifest)
    metadata, spec = whole.get("metadata"), whole.get("spec")
    problems = list(_metadata(metadata))
    if not isinstance(spec, dict):
        problems.append(Problem("spec", "is missing; it must be an object with one of stdio, http and remote"))
    else:
        tree = _schema()
        if not problems:
            rules = {"x-kubernetes-validations": tree["x-kubernetes-validations"], "type": "object"}
            problems += [Problem("metadata.name", message) for _, message in check({"metadata": metadata}, rules)]
        problems += check(spec, tree["properties"]["spec"], "spec")
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    try:
        return MCPServer.model_validate({"metadata": metadata, "spec": spec})
    except ValidationError as error:  # the models know no more than the schema made of them; if so, it is said plainly
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise SpecError([Problem(".".join(map(str, one["loc"])), one["msg"]) for one in details]) from None


def default(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `manifest` with the defaults that an API server fills in."""
    filled: dict[str, Any] = defaulted(dict(manifest), _schema())
    return filled


def _metadata(metadata: Any) -> list[Problem]:
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        return [Problem("metadata.name", "is missing; it must be a name such as my-server")]
    return []


@cache
def _schema() -> dict[str, Any]:
    return schema()
