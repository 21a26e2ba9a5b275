"""Run trials in this process, or through Dask in worker processes on this machine or on clusters."""
