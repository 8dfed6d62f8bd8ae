"""MNN's format for phones and boards."""

from attn_export.export.converters.mnn.converter import Mnn

CONVERTER = Mnn()
