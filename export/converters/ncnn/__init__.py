"""ncnn's format for phones and boards, written by pnnx."""

from attn_export.export.converters.ncnn.converter import Ncnn

CONVERTER = Ncnn()
