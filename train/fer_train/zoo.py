"""The backbones of face-expression recognition's story, each by the name that ``build_net`` takes.

The input is as small as the architecture allows on a face: 64 pixels where five halvings leave two, 224
where the first layer or the patches are made for that. What an architecture is to others stands in timm
and torchvision; ours, and what neither has, stand in ``nets`` and ``classics``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

from fer_runtimes.errors import BadInput


@dataclass(frozen=True)
class Backbone:
    """A row: its name in the field, its year, its paper (arXiv number or venue), and what builds it.

    model, size: for ``build_net``; source: the package whose code it is
    """

    name: str
    year: int
    paper: str
    model: str
    size: int
    source: str


ZOO: tuple[Backbone, ...] = (
    Backbone("AlexNet", 2012, "NeurIPS 2012", "alexnet", 224, "torchvision"),
    Backbone("ZFNet", 2013, "1311.2901", "zfnet", 224, "fer_train"),
    Backbone("VGG-16 (BatchNorm)", 2014, "1409.1556", "vgg16_bn", 64, "timm"),
    Backbone("GoogLeNet", 2014, "1409.4842", "googlenet", 64, "torchvision"),
    Backbone("Inception-v3", 2015, "1512.00567", "inception_v3", 96, "timm"),
    Backbone("ResNet-18", 2015, "1512.03385", "resnet18", 64, "timm"),
    Backbone("ResNet-50", 2015, "1512.03385", "resnet50", 64, "timm"),
    Backbone("SqueezeNet 1.1", 2016, "1602.07360", "squeezenet1_1", 64, "torchvision"),
    Backbone("ResNeXt-50 32x4d", 2016, "1611.05431", "resnext50_32x4d", 64, "timm"),
    Backbone("MobileNet V1", 2017, "1704.04861", "mobilenetv1_100", 64, "timm"),
    Backbone("SE-ResNet-50", 2017, "1709.01507", "seresnet50", 64, "timm"),
    Backbone("MobileNet V2", 2018, "1801.04381", "mobilenetv2_100", 64, "timm"),
    Backbone("EfficientNet-B0", 2019, "1905.11946", "efficientnet_b0", 64, "timm"),
    Backbone("EfficientNet-B3", 2019, "1905.11946", "efficientnet_b3", 64, "timm"),
    Backbone("ViT-S/8", 2020, "2010.11929", "vit_small_patch8_224", 64, "timm"),
    Backbone("DeiT-Ti/16 distilled", 2020, "2012.12877", "deit_tiny_distilled_patch16_224", 224, "timm"),
    Backbone("RepVGG-A0", 2021, "2101.03697", "repvgg_a0", 64, "timm"),
    Backbone("NFNet-F0", 2021, "2102.06171", "dm_nfnet_f0", 64, "timm"),
    Backbone("Swin-T", 2021, "2103.14030", "swin_tiny_patch4_window7_224", 64, "timm"),
    Backbone("CoAtNet-0", 2021, "2106.04803", "coatnet_0_224", 64, "timm"),
    *(Backbone(f"MobileOne-S{i}", 2022, "2206.04040", f"mobileone_s{i}", 64, "timm") for i in range(5)),
    *(
        Backbone(model, 2026, f"blocks of {paper}", model, 48, "fer_train")
        for model, paper in (
            ("fer_nano", "2212.01593"),
            ("fer_repvgg_n", "2101.03697"),
            ("fer_repvgg_xs", "2101.03697"),
            ("fer_repvgg_s", "2101.03697"),
            ("fer_repvgg_m", "2101.03697"),
            ("fer_small", "2212.01593"),
            ("fer_base", "2212.01593"),
            ("fer_mobileone_xs", "2206.04040"),
            ("fer_mobileone_s", "2206.04040"),
            ("fer_mobileone_m", "2206.04040"),
        )
    ),
)


def choose(patterns: tuple[str, ...] = ()) -> list[Backbone]:
    """The rows whose model or name matches any shell pattern, in the table's order; all without one.

    Raises BadInput for a pattern that nothing matches.
    """

    def fits(row: Backbone, pattern: str) -> bool:
        return fnmatch(row.model, pattern) or fnmatch(row.name.lower(), pattern.lower())

    for pattern in patterns:
        if not any(fits(row, pattern) for row in ZOO):
            raise BadInput(f"no backbone of the zoo is called {pattern!r}; it has {', '.join(r.model for r in ZOO)}")
    return [row for row in ZOO if not patterns or any(fits(row, pattern) for pattern in patterns)]
