"""Networks of transformers, each small and from a configuration of a few numbers."""

from __future__ import annotations

from benchmarks.wild.network import Network

#: A picture of three channels.
PIXELS = "pixel_values:1x3x{0}x{0}"
TOKENS = "input_ids:1x16:int64[0,99]"
_SMALL = "hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128"
_VISION = f"{_SMALL}, image_size=64, patch_size=16"
_TEXT = f"{_SMALL}, vocab_size=100, max_position_embeddings=32"

#: By the name of the model's class: its configuration's class, the configuration, and what goes in.
CLASSES = {
    "ViTModel": ("ViTConfig", _VISION, PIXELS.format(64)),
    "ViTForImageClassification": ("ViTConfig", _VISION, PIXELS.format(64)),
    "DeiTForImageClassification": ("DeiTConfig", _VISION, PIXELS.format(64)),
    "BeitForImageClassification": ("BeitConfig", _VISION, PIXELS.format(64)),
    "Data2VecVisionModel": ("Data2VecVisionConfig", _VISION, PIXELS.format(64)),
    "Dinov2Model": ("Dinov2Config", f"{_VISION}, mlp_ratio=2", PIXELS.format(64)),
    "SwinForImageClassification": (
        "SwinConfig",
        "image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4",
        PIXELS.format(64),
    ),
    "Swinv2Model": (
        "Swinv2Config",
        "image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4",
        PIXELS.format(64),
    ),
    "SegformerForSemanticSegmentation": (
        "SegformerConfig",
        "hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1], decoder_hidden_size=64",
        PIXELS.format(128),
    ),
    "MobileViTForImageClassification": (
        "MobileViTConfig",
        "image_size=64, hidden_sizes=[48, 64, 80], neck_hidden_sizes=[16, 32, 48, 64, 80, 96, 128]",
        PIXELS.format(64),
    ),
    "MobileViTV2Model": ("MobileViTV2Config", "image_size=64, width_multiplier=0.5", PIXELS.format(64)),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        "hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]",
        PIXELS.format(64),
    ),
    "ConvNextV2Model": ("ConvNextV2Config", "hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]", PIXELS.format(64)),
    "ResNetForImageClassification": (
        "ResNetConfig",
        "embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1]",
        PIXELS.format(64),
    ),
    "RegNetModel": (
        "RegNetConfig",
        "embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], groups_width=16",
        PIXELS.format(64),
    ),
    "MobileNetV1ForImageClassification": ("MobileNetV1Config", "depth_multiplier=0.25", PIXELS.format(64)),
    "MobileNetV2ForImageClassification": ("MobileNetV2Config", "depth_multiplier=0.35", PIXELS.format(64)),
    "PoolFormerForImageClassification": (
        "PoolFormerConfig",
        "hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]",
        PIXELS.format(64),
    ),
    "LevitForImageClassification": (
        "LevitConfig",
        "hidden_sizes=[64, 96, 128], num_attention_heads=[2, 3, 4], depths=[2, 2, 2], key_dim=[16, 16, 16]",
        PIXELS.format(224),
    ),
    "EfficientNetForImageClassification": (
        "EfficientNetConfig",
        "width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640, image_size=64",
        PIXELS.format(64),
    ),
    "PvtV2ForImageClassification": (
        "PvtV2Config",
        "hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 8]",
        PIXELS.format(64),
    ),
    "CvtForImageClassification": (
        "CvtConfig",
        "embed_dim=[16, 32, 64], num_heads=[1, 2, 4], depth=[1, 2, 3]",
        PIXELS.format(64),
    ),
    "FocalNetModel": ("FocalNetConfig", "image_size=64, embed_dim=24, depths=[1, 1, 1, 1]", PIXELS.format(64)),
    "CLIPVisionModel": ("CLIPVisionConfig", _VISION, PIXELS.format(64)),
    "CLIPTextModel": ("CLIPTextConfig", f"{_TEXT}, eos_token_id=99, bos_token_id=98", TOKENS),
    "SiglipVisionModel": ("SiglipVisionConfig", _VISION, PIXELS.format(64)),
    "SamVisionModel": (
        "SamVisionConfig",
        f"{_VISION}, output_channels=32, window_size=2, global_attn_indexes=[1], mlp_dim=128",
        PIXELS.format(64),
    ),
    "DPTForDepthEstimation": (
        "DPTConfig",
        f"{_VISION.replace('layers=2', 'layers=4')}, backbone_out_indices=[0, 1, 2, 3],"
        " neck_hidden_sizes=[16, 32, 48, 64], fusion_hidden_size=32",
        PIXELS.format(64),
    ),
    "YolosForObjectDetection": ("YolosConfig", f"{_SMALL}, image_size=[64, 64], patch_size=16", PIXELS.format(64)),
    "BertModel": ("BertConfig", _TEXT, TOKENS),
    "BertForSequenceClassification": ("BertConfig", _TEXT, TOKENS),
    "RobertaModel": ("RobertaConfig", _TEXT, "input_ids:1x16:int64[2,99]"),
    "DistilBertModel": (
        "DistilBertConfig",
        "dim=64, n_layers=2, n_heads=4, hidden_dim=128, vocab_size=100, max_position_embeddings=32",
        TOKENS,
    ),
    "AlbertModel": ("AlbertConfig", f"{_TEXT}, embedding_size=32", TOKENS),
    "GPT2LMHeadModel": ("GPT2Config", "n_embd=64, n_layer=2, n_head=4, vocab_size=100, n_positions=32", TOKENS),
    "DetrForObjectDetection": (
        "DetrConfig",
        "d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,"
        " encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=10, use_timm_backbone=False,"
        " use_pretrained_backbone=False, backbone=None, backbone_config=ResNetConfig(embedding_size=16,"
        " hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], out_features=['stage4'])",
        PIXELS.format(64),
    ),
}


def _code(name: str, config: str, arguments: str) -> str:
    names = f"{config}, {name}" + (", ResNetConfig" if "ResNetConfig(" in arguments else "")
    return f"from transformers import {names}\nreturn {name}({config}({arguments}))"


NETWORKS = tuple(
    Network("transformers", name, _code(name, config, arguments), (shape,))
    for name, (config, arguments, shape) in CLASSES.items()
)
