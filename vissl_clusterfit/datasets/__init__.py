"""Data sets of others, from the files that their publishers give out to what VISSL's data sources read.

Videos: ``video_lists``. Images, the targets of transfer: a :class:`~vissl_clusterfit.datasets.recipe.Recipe` says which
archives a data set has and how many images, one module per publisher's layout reads them, ``preparation`` does what is
common to all, ``catalogue`` lists the recipes. Nothing is ever downloaded.
"""
