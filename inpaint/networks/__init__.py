"""The networks of the method: VGG-19 features, Image2Feature, Feature2Image and their discriminators."""

from inpaint.networks.discriminator import PatchDiscriminator
from inpaint.networks.feature2image import Feature2Image
from inpaint.networks.image2feature import Image2Feature
from inpaint.networks.vgg import VGG19

__all__ = ["VGG19", "Feature2Image", "Image2Feature", "PatchDiscriminator"]
