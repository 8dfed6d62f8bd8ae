"""Networks of ultralytics, built from the files of numbers that the package carries."""

from __future__ import annotations

from benchmarks.wild.network import Network

SIZE = 128
YOLO = (
    "yolov3-tiny",
    "yolov5n",
    "yolov6n",
    "yolov8n",
    "yolov8n-seg",
    "yolov8n-pose",
    "yolov8n-obb",
    "yolov8n-cls",
    "yolov8n-ghost",
    "yolov9t",
    "yolov10n",
    "yolo11n",
    "yolo11n-seg",
    "yolo12n",
    "yolo26n",
)

NETWORKS = (
    *(
        Network(
            "ultralytics",
            name,
            f'from ultralytics import YOLO\nreturn YOLO("{name}.yaml").model',
            (f"x:1x3x{SIZE}x{SIZE}",),
        )
        for name in YOLO
    ),
    Network(
        "ultralytics",
        "rtdetr-resnet50",
        'from ultralytics import RTDETR\nreturn RTDETR("rtdetr-resnet50.yaml").model',
        (f"x:1x3x{SIZE}x{SIZE}",),
    ),
)
