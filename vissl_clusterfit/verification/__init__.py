"""Whether artefacts on disk are what they say, read again to the byte."""
