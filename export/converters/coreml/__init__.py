"""Core ML's format for Apple's devices: written and read back, and not run, for nothing here can."""

from attn_export.export.converters.coreml.converter import CoreMl

CONVERTER = CoreMl()
