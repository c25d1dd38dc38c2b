from spikeconv.rotation.transform import Rotation

__all__ = ["Rotation"]
