"""The API of the operator: the MCPServer's models by version, the CRD made from them, and its rules across fields."""
