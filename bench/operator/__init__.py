"""What the operator costs: N MCPServers applied to a real API server on the same machine."""
