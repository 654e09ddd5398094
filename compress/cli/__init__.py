"""The command line: one file a verb, which parses, calls and prints."""

from compress.cli.root import main

__all__ = ["main"]
