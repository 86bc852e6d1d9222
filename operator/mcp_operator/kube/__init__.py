"""Talking to an API server: requests, watches, the Lease, Events and the rights that all of it needs."""
