"""This process and its machine: files, streams, threads, devices, networks. Nothing here knows of tuning."""
