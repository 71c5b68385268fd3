"""Everything that imports VISSL or Classy Vision; the rest of the package works without them."""
