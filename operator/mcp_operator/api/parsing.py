"""From a manifest to an MCPServer, or to everything that is wrong with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mcp_operator.api.v1alpha1.spec import API_VERSION, KIND, MCPServer
from mcp_operator.errors import Problem, SpecError


def parse(manifest: Mapping[str, Any]) -> MCPServer:
    """The MCPServer that a manifest stands for. Raises SpecError with all problems; no value of env or headers is in
    them."""
    if manifest.get("apiVersion") != API_VERSION or manifest.get("kind") != KIND:
        raise SpecError([Problem("apiVersion", f"must be {API_VERSION} with kind {KIND}")])
    try:
        return MCPServer.model_validate({"metadata": manifest.get("metadata"), "spec": manifest.get("spec")})
    except ValidationError as error:
        problems = [Problem(".".join(str(step) for step in detail["loc"]), detail["msg"]) for detail in error.errors()]
        raise SpecError(problems) from None


def default(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """`manifest` with the defaults that the API server fills in."""
    return copy.deepcopy(dict(manifest))
