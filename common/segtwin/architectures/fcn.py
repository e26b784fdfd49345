"""The FCNs: VGG-16 as a fully convolutional network, its scores alone (32s), or fused with pool4's
(16s) and pool3's (8s).

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015
(arXiv:1411.4038) and PAMI 2016 (arXiv:1605.06211). Layer for layer
`voc-fcn{32s,16s,8s,8s-atonce}/net.py` and `solver.prototxt` of shelhamer/fcn.berkeleyvision.org at
1305c7378a9f0ab44b2c936f4d60e4687e3d8743. The four differ in their heads.
"""

from __future__ import annotations

from segtwin.architectures import register
from segtwin.architectures.schema import Architecture, Draw, Layer
from segtwin.architectures.vgg16 import VGG16_WIDTHS, conv, vgg16_features

CVPR = (
    "Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015 / PAMI "
    "2016 (arXiv:1411.4038, 1605.06211)"
)
FCN_COMMIT = "shelhamer/fcn.berkeleyvision.org@1305c7378a9f0ab44b2c936f4d60e4687e3d8743"
FCN_MEAN = (104.00699, 116.66877, 122.67892)
"""Of the ILSVRC training images, B, G, R; `mean` of net.py's data layers."""
PASCAL_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def score(name: str, bottom: str, fill: float | Draw = 0.0) -> Layer:
    """A 1×1 convolution to the classes. No filler is named in net.py, so Caffe's default holds: it
    starts at zero."""
    return Layer(name, "Convolution", (bottom,), "classes", fill=fill)


def scale(name: str, bottom: str, value: float) -> Layer:
    """`L.Scale` of voc-fcn8s-atonce/net.py: every channel times its number, which starts at `value`
    and is not trained (lr_mult 0)."""
    return Layer(name, "Scale", (bottom,), bias=False, lr_mult=(0, 0), fill=value)


def upscore(name: str, bottom: str, kernel: int, stride: int) -> Layer:
    """A bilinear deconvolution that is not trained (lr_mult 0), has no bias, and is not padded."""
    return Layer(
        name,
        "Deconvolution",
        (bottom,),
        "classes",
        kernel,
        stride,
        bias=False,
        lr_mult=(0, 0),
        decay_mult=(1, 0),
        fill="bilinear",
    )


def crop(name: str, bottom: str, like: str) -> Layer:
    """`crop(bottom, like)` of caffe.coord_map: `bottom` cut to the size of `like`, at an offset
    that `geometry.crop_offsets` derives."""
    return Layer(name, "Crop", (bottom, like))


def fuse(name: str, *bottoms: str) -> Layer:
    """Eltwise SUM."""
    return Layer(name, "Eltwise", bottoms)


def fcn_features() -> tuple[Layer, ...]:
    """What the FCNs share: VGG-16 with its classifier as convolutions, "fully conv" in net.py."""
    return (
        *vgg16_features(pad=100),
        conv("fc6", "pool5", "fc6", kernel=7, pad=0, dropout=0.5),
        conv("fc7", "fc6", "fc7", kernel=1, pad=0, dropout=0.5),
    )


def fcn(name: str, heads: tuple[Layer, ...], published: str) -> Architecture:
    """One of the four: the shared features and its own heads."""
    return register(
        Architecture(
            name=name,
            layers=(*fcn_features(), *heads),
            output="score",
            num_classes=21,
            colour="BGR",
            mean=FCN_MEAN,
            citation=CVPR,
            source=f"{FCN_COMMIT} voc-{name}/net.py",
            widths=VGG16_WIDTHS,
            classes=PASCAL_CLASSES,
            published=f"{published} mean IU on PASCAL VOC 2011 seg11valid (heavy)",
        )
    )


FCN32S = fcn(
    "fcn32s",
    published="63.6",
    heads=(
        score("score_fr", "fc7"),
        upscore("upscore", "score_fr", kernel=64, stride=32),
        crop("score", "upscore", like="data"),
    ),
)
FCN16S = fcn(
    "fcn16s",
    published="65.0",
    heads=(
        score("score_fr", "fc7"),
        upscore("upscore2", "score_fr", kernel=4, stride=2),
        score("score_pool4", "pool4"),
        crop("score_pool4c", "score_pool4", like="upscore2"),
        fuse("fuse_pool4", "upscore2", "score_pool4c"),
        upscore("upscore16", "fuse_pool4", kernel=32, stride=16),
        crop("score", "upscore16", like="data"),
    ),
)
FCN8S = fcn(
    "fcn8s",
    published="65.5",
    heads=(
        score("score_fr", "fc7"),
        upscore("upscore2", "score_fr", kernel=4, stride=2),
        score("score_pool4", "pool4"),
        crop("score_pool4c", "score_pool4", like="upscore2"),
        fuse("fuse_pool4", "upscore2", "score_pool4c"),
        upscore("upscore_pool4", "fuse_pool4", kernel=4, stride=2),
        score("score_pool3", "pool3"),
        crop("score_pool3c", "score_pool3", like="upscore_pool4"),
        fuse("fuse_pool3", "upscore_pool4", "score_pool3c"),
        upscore("upscore8", "fuse_pool3", kernel=16, stride=8),
        crop("score", "upscore8", like="data"),
    ),
)
FCN8S_ATONCE = fcn(
    "fcn8s-atonce",
    published="65.4",
    heads=(
        score("score_fr", "fc7"),
        upscore("upscore2", "score_fr", kernel=4, stride=2),
        scale("scale_pool4", "pool4", 0.01),
        score("score_pool4", "scale_pool4"),
        crop("score_pool4c", "score_pool4", like="upscore2"),
        fuse("fuse_pool4", "upscore2", "score_pool4c"),
        upscore("upscore_pool4", "fuse_pool4", kernel=4, stride=2),
        scale("scale_pool3", "pool3", 0.0001),
        score("score_pool3", "scale_pool3"),
        crop("score_pool3c", "score_pool3", like="upscore_pool4"),
        fuse("fuse_pool3", "upscore_pool4", "score_pool3c"),
        upscore("upscore8", "fuse_pool3", kernel=16, stride=8),
        crop("score", "upscore8", like="data"),
    ),
)
