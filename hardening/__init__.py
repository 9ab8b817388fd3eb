"""The vocabulary and the pure machinery: no orchestrator, no tracker, no object store."""
