"""One concern a module, composed in stack.py."""
