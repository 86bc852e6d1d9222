"""Which rules belong to which model: the three tables of rules in one."""

from __future__ import annotations

from pydantic import BaseModel

from mcp_operator.api import rules_of_pods, rules_of_policies, rules_of_server
from mcp_operator.api.rule import Declared

_TABLES = (rules_of_server.RULES, rules_of_policies.RULES, rules_of_pods.RULES)


def rules_of(model: type[BaseModel]) -> tuple[Declared, ...]:
    """The rules of a model, of the MCPServer's own and of the sidecar's."""
    return tuple(rule for table in _TABLES for rule in table.get(model, ()))
