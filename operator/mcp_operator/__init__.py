"""Outrigger's operator: turns MCPServers into Deployments, Services and what belongs to them, and keeps them right."""

__version__ = "0.1.0"
