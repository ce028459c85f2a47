#!/bin/bash
# Trains on the GPUs of one or more nodes, saves when SLURM wants them back, queues again and goes on.
#
#   sbatch docs/slurm.sh --data_dir images_j --sym_group Dihyderal --N 8
#   touch runs/JOB/stop && scancel JOB      # cancel for good
#
# Or classifies a survey, one part of it in each job of an array. A part that was stopped goes on when it is queued again,
# a finished one returns at once; PARTS says how many there are where not all are queued. Then the parts become one
# table, with the first line of the first alone:
#
#   sbatch --array=1-16 --gpus-per-node=0 --cpus-per-task=8 docs/slurm.sh --weights compact-f --data_dir list.csv
#   PARTS=16 sbatch --array=3,7 --gpus-per-node=0 --cpus-per-task=8 docs/slurm.sh --weights compact-f --data_dir list.csv
#   awk 'FNR > 1 || NR == 1' predictions-*-of-16.csv > predictions.csv
#
# Submit from the program's folder; it, the data and the results must be visible to all nodes. Change the four lines
# about resources to those of your cluster. Each job writes to runs/JOB alone, and keeps its number when it is requeued.
#
#SBATCH --job-name=lens
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@180

if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  exec srun python main.py --mode Predict --part "$SLURM_ARRAY_TASK_ID/${PARTS:-$SLURM_ARRAY_TASK_COUNT}" --quiet "$@"
fi

results="${RESULTS:-runs}/$SLURM_JOB_ID"
gpus="${SLURM_GPUS_ON_NODE:-4}"
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
mkdir -p "$results"

begun() { compgen -G "$results/*/*/run.json" > /dev/null; }
saved_and_stopped() { tail -q -n 1 "$results"/*/*/log_*.txt 2> /dev/null | grep -q "^stopped; go on with"; }

if begun; then
  arguments=(--resume latest)  # the only run in this job's folder, with the settings it was begun with
else
  arguments=("$@")
fi

# B:TERM@180 reaches this script alone, three minutes before the time limit; SLURM's own SIGTERM, on preemption, reaches
# the processes too. It does no harm that they hear of it twice.
trap 'kill -TERM "$job" 2> /dev/null' TERM
srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="$gpus" \
  --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$head_node:$((20000 + SLURM_JOB_ID % 20000))" \
  main.py --results_dir "$results" --quiet "${arguments[@]}" &
job=$!
wait "$job"
status=$?
while kill -0 "$job" 2> /dev/null; do  # the trap ended the first wait
  wait "$job"
  status=$?
done

if [[ $status -ne 0 && ! -e "$results/stop" ]] && saved_and_stopped; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
