#!/usr/bin/env bash

#SBATCH -J dask-worker
#SBATCH -p gpu
#SBATCH -A project42
#SBATCH -n 1
#SBATCH --cpus-per-task=32
#SBATCH --mem=256G
#SBATCH -t 08:00:00
#SBATCH --gres=gpu:4
#SBATCH --requeue
export PARTUNE_WORKERS_PER_JOB=4 PARTUNE_DEVICES_PER_WORKER=1
export DASK_TEMPORARY_DIRECTORY=$(mktemp -d -t partune-workers-XXXXXXXX)
module load cuda
source .venv/bin/activate
exec PYTHON -m distributed.cli.dask_worker tls://ADDRESS --name dummy-name --nthreads 64 --memory-limit 0 --nworkers 4 --nanny --death-timeout 60 --preload partune.workers.process --preload-nanny partune.workers.process --no-dashboard --worker-class partune.workers.process.PagelessWorker --interface lo --protocol tls:// --tls-ca-file FOLDER/tls/certificate.pem --tls-cert FOLDER/tls/certificate.pem --tls-key FOLDER/tls/key.pem
