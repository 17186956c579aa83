"""Models, the sliding window, and a folder of scans from end to end."""
