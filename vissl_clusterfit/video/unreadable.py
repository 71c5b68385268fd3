"""Why a video gives no clip, for whoever reads one; apart from the decoder, whose library only videos need."""


class UnreadableVideoError(Exception):
    """Why a video gives no clip."""


class FramesRecountedError(Exception):
    """The frames that are decoded are others than the packets promised: the times have changed, choose frames again."""
