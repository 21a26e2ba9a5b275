"""Handle this process and its machine: files, streams, threads, devices, networks. Nothing here depends on tuning."""
