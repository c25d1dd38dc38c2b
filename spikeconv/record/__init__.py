from spikeconv.record.recorder import Recorder, SpikeStatistics

__all__ = ["Recorder", "SpikeStatistics"]
