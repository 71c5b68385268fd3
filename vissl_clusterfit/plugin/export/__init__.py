"""A trained network as files that torchvision, timm, transformers or VISSL load, without this package."""
