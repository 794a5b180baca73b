"""The one pipeline: source → plan → backend → sink."""
