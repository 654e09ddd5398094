"""Distil, prune, quantize, export and measure a trained model on the device it will run on."""

__version__ = "0.1.0"
