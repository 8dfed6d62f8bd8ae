"""Networks of torchvision: classification, segmentation and detection."""

from __future__ import annotations

from benchmarks.wild.network import Network

#: By name: the arguments and the side of the picture.
CLASSIFICATION = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 128,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
    "vit_b_32": 224,
}
SEGMENTATION = {"deeplabv3_mobilenet_v3_large": 64, "fcn_resnet50": 64, "lraspp_mobilenet_v3_large": 64}
DETECTION = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 64,
    "retinanet_resnet50_fpn": 64,
    "ssdlite320_mobilenet_v3_large": 320,
}


def _network(name: str, code: str, size: int, parameter: str = "x") -> Network:
    return Network("torchvision", name, f"import torchvision\n{code}", (f"{parameter}:1x3x{size}x{size}",))


NETWORKS = (
    *(_network(name, f"return torchvision.models.{name}()", size) for name, size in CLASSIFICATION.items()),
    *(
        _network(name, f"return torchvision.models.segmentation.{name}(weights=None, weights_backbone=None)", size)
        for name, size in SEGMENTATION.items()
    ),
    _network(
        "resnet18 as a feature pyramid",
        "from torchvision.models.detection.backbone_utils import resnet_fpn_backbone\n"
        'return resnet_fpn_backbone(backbone_name="resnet18", weights=None)',
        64,
    ),
    *(
        _network(
            name, f"return torchvision.models.detection.{name}(weights=None, weights_backbone=None)", size, "images"
        )
        for name, size in DETECTION.items()
    ),
)
