"""Outrigger's operator (issue 4 builds it)."""
