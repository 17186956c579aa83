"""From a scan to network input and back: orientation, crop, intensity, resampling, restoring, the cache."""
