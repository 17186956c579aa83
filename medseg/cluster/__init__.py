"""Beyond one machine: the same work on a Slurm or a Dask cluster."""
