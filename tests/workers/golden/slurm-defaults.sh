#!/usr/bin/env bash

#SBATCH -J dask-worker
#SBATCH -n 1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH -t 00:30:00
export PARTUNE_WORKERS_PER_JOB=1 PARTUNE_DEVICES_PER_WORKER=1
export DASK_TEMPORARY_DIRECTORY=$(mktemp -d -t partune-workers-XXXXXXXX)
exec PYTHON -m distributed.cli.dask_worker tls://ADDRESS --name dummy-name --nthreads 64 --memory-limit 0 --nanny --death-timeout 60 --preload partune.workers.process --preload-nanny partune.workers.process --no-dashboard --worker-class partune.workers.process.PagelessWorker --interface lo --protocol tls:// --tls-ca-file FOLDER/tls/certificate.pem --tls-cert FOLDER/tls/certificate.pem --tls-key FOLDER/tls/key.pem
