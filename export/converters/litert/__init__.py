"""LiteRT's format, once TensorFlow Lite's: what Android phones and microcontrollers take."""

from attn_export.export.converters.litert.converter import Litert

CONVERTER = Litert()
