"""The server's side: pools, leases and transports."""
