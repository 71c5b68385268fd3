"""Parts of one's own for VISSL: known to every process with VISSL_CLUSTERFIT_IMPORT=my_parts PYTHONPATH=examples."""

import torch
from classy_vision.dataset.transforms import ClassyTransform, register_transform
from vissl.models.trunks import register_model_trunk


@register_model_trunk("patch_means")
class PatchMeans(torch.nn.Module):
    """A trunk: the means of 4 x 4 patches, then a linear layer. VISSL gives it the config's MODEL and a name."""

    def __init__(self, model_config, model_name):
        super().__init__()
        self.pool = torch.nn.AdaptiveAvgPool2d(4)
        self.linear = torch.nn.Linear(48, model_config.TRUNK.PATCH_MEANS.WIDTH)

    def forward(self, images, out_feat_keys=None):
        """Images (B, 3, H, W) to a list with one feature (B, WIDTH)."""
        return [self.linear(self.pool(images).flatten(1))]


@register_transform("Invert")
class Invert(ClassyTransform):
    """A transform: an image (3, H, W) in [0, 1] with its brightness reversed."""

    def __call__(self, image):
        """Images after ToTensor."""
        return 1 - image
