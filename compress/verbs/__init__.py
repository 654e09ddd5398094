"""Verbs that have a file of their own; `compress.cli` gathers them."""
