"""What a scan is: grid, volume, labels, dataset; and every format it is read from or written to."""
