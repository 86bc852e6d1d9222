"""Config files as desktop clients and the seed document write them, for the tests of the config."""

CLAUDE_DESKTOP = """{
  "globalShortcut": "Alt+Space",
  "preferences": {"menuBarEnabled": true},
  "mcpServers": {
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/data"]
    },
    "github": {
      "command": "docker",
      "args": ["run", "-i", "--rm", "-e", "GITHUB_TOKEN", "ghcr.io/github/github-mcp-server"],
      "env": {"GITHUB_TOKEN": "ghp_x"}
    }
  }
}"""

VSCODE = """{
  // comments are allowed here
  "inputs": [{"type": "promptString", "id": "key", "description": "API key", "password": true}],
  "servers": {
    "playwright": {
      "type": "stdio",
      "command": "npx",
      "args": ["-y", "@playwright/mcp@latest"],
      "env": {"PORT": 8931, "UNSET": null, "TOKEN": "${env:TOKEN}"},
      "envFile": "${workspaceFolder}/.env",
      "cwd": "${userHome}",
      "dev": {"watch": "src/**"},
    },
    "github": {"type": "http", "url": "https://api.example.com/mcp/"},
  },
}"""

CURSOR = """{"mcpServers": {
  "remote": {"url": "https://mcp.example.com/sse", "type": "sse", "headers": {"Authorization": "Bearer ${env:TOKEN}"}},
  "off": {"command": "x", "disabled": true}
}}"""

CLINE = """{"mcpServers": {
  "github.com/acme/mcp-weather": {
    "autoApprove": ["get_forecast"], "alwaysAllow": [], "disabled": false, "timeout": 60, "type": "stdio",
    "command": "uvx", "args": ["mcp-weather"]
  },
  "web": {"type": "streamableHttp", "url": "http://localhost:3000/mcp", "alwaysAllow": ["x"], "disabledTools": ["rm"]}
}}"""

WINDSURF = (
    """{"mcpServers": {"figma": {"serverUrl": "https://figma.example/mcp", "headers": {"X-Key": "${env:KEY}"}}}}"""
)

GEMINI = """{"mcpServers": {"g": {
  "httpUrl": "https://g.example/mcp", "trust": true, "includeTools": ["a"], "description": "d"
}}, "theme": "Dark", "selectedAuthType": "x"}"""

SEED = """{
  "servers": {
    "filesystem": {
      "command": "npx", "args": ["@modelcontextprotocol/server-filesystem", "/tmp"], "env": {},
      "timeout": 20, "retry_attempts": 2, "health_check_interval": 45
    },
    "github": {"command": "npx", "args": [], "env": {"GITHUB_TOKEN": "x"}}
  },
  "global_timeout": 40, "max_concurrent_connections": 10, "health_check_enabled": true, "metrics_enabled": false
}"""
