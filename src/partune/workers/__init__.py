"""Where trials run: in this process, or in worker processes on this machine and on clusters, through Dask."""
