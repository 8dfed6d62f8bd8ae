"""Fuse, export and prove vision mechanisms for edge devices."""

__version__ = "0.1.0"
