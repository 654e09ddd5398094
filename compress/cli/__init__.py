"""Command line interface: one file per command, which parses arguments, calls the API and prints."""

from compress.cli.root import main

__all__ = ["main"]
