#!/bin/bash
# Two machines of eight GPUs under SLURM: sbatch examples/cluster/slurm.sh
# SLURM starts one process for each GPU, and leyden reads from its variables which is which. 90 seconds before the time is up SLURM
# sends SIGUSR1: the run saves, asks to be queued again, and goes on from there when it is.
#SBATCH --job-name=gpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=SIGUSR1@90
#SBATCH --requeue
srun python examples/gpt.py --num_nodes 2 --devices 8 --strategy ddp --precision bf16-mixed
