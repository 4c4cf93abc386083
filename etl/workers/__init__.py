"""Who does the work: this process, local processes, or a Dask cluster."""
