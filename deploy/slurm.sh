#!/usr/bin/env bash
# A Slurm job: `ray symmetric-run` starts Ray on its nodes and stops it at the end. In the checkout:
#
#   export CRYSATOM_HOME=/shared/crysatom      # on a file system shared by all nodes
#   sbatch deploy/slurm.sh python jobs/pretrain.py --use-gpu --num-workers 16 --resume
#   sbatch --nodes=4 --gpus-per-node=a6000:4 deploy/slurm.sh python jobs/pretrain.py --use-gpu --num-workers 16 --resume
#
# Two minutes before the time limit the job gets SIGTERM, writes a checkpoint, and is requeued; --resume continues it.
# On preemption this works only if Slurm has PreemptMode=REQUEUE and PreemptParameters=send_user_signal.
# Adapt the lines below, and the environment: ./.venv, or the folder in CRYSATOM_VENV.
#
#SBATCH --job-name=crysatom
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# --exclusive: `ray symmetric-run` stops all Ray processes of this user on its nodes, including those of other jobs.
set -euo pipefail

: "${CRYSATOM_HOME:?set it to a folder shared by all nodes}"
(($#)) || { echo "give a command: sbatch $0 python jobs/pretrain.py ... --resume" >&2; exit 2; }
export CRYSATOM_HOME RAY_AUTH_MODE=token RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export PATH="${CRYSATOM_VENV:-$PWD/.venv}/bin:$PATH"
[[ -s ~/.ray/auth_token ]] || ray get-auth-token --generate > /dev/null
chmod 600 ~/.ray/auth_token   # Ray makes it readable for everybody

# This script runs on the first node, which becomes the head. Its name may resolve to 127.0.1.1, so use its address:
# of the first network, or CRYSATOM_HEAD_IP.
head=${CRYSATOM_HEAD_IP:-$(hostname -I | cut -d ' ' -f 1)}
export ADDRESS="$head:$((20000 + SLURM_JOB_ID % 10000))"
DRIVER_PID=$(mktemp)
export DRIVER_PID

# shellcheck disable=SC2016 # both are expanded by the shells of the nodes
node='exec ray symmetric-run --address="$ADDRESS" --min-nodes="$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --labels="$(bash deploy/labels.sh)" \
  --temp-dir="/tmp/ray-$SLURM_JOB_ID" --disable-usage-stats -- bash -c "$DRIVER" driver "$@"'
# shellcheck disable=SC2016
export DRIVER='echo $$ > "$DRIVER_PID"; export RAY_ADDRESS="$ADDRESS"; exec "$@"'

trap 'rm -f "$DRIVER_PID"' EXIT
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c "$node" node "$@" &
step=$!

# Send SIGTERM only to the driver. Slurm would also send it to Ray's own processes, which must outlive the checkpoint.
stopped=
trap 'stopped=1; if [[ -s $DRIVER_PID ]]; then kill -TERM "$(< "$DRIVER_PID")"; else kill -TERM "$step"; fi' TERM

wait "$step" && code=0 || code=$?
while kill -0 "$step" 2> /dev/null; do wait "$step" && code=0 || code=$?; done   # a signal ends `wait`, but not the step

if [[ -n $stopped && $code -ne 0 ]]; then
  echo "stopped before its end; requeued"
  scontrol requeue "$SLURM_JOB_ID"
elif [[ ! -s $DRIVER_PID ]]; then
  echo "Ray did not start, so nothing ran" >&2   # symmetric-run exits with 0 then
  code=1
fi
exit "$code"
