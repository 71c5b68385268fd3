"""Video files as clips: which files, which frames of them, and their pixels."""
