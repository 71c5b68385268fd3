"""Video for VISSL: data sources, transforms, labels of several classes, clip and video accuracy."""
