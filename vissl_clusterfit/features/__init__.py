"""From images to features: the store on disk, and the loop that fills it."""
