"""Networks of other libraries by name: built, with weights of a file or of the library, as encoders of images.

    network = load("timm:resnet18", weights="resnet18.safetensors")
    encode = network.encoder()
    features = encode(torch.stack([network.transform(image) for image in images]))

VISSL is not needed.
"""

from vissl_clusterfit.models.network import Network, load
from vissl_clusterfit.models.provenance import describe

__all__ = ["Network", "describe", "load"]
