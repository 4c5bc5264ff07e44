#!/usr/bin/env bash
# Print the labels of this host for `ray start --labels`: name and memory of its first GPU, as in the node types of
# ray_cluster.yaml. "NVIDIA A100-SXM4-80GB, 81920" becomes crysatom.dev/gpu=A100,crysatom.dev/gpu-memory=80GB.
set -euo pipefail

command -v nvidia-smi > /dev/null || { echo "crysatom.dev/gpu=none"; exit; }
nvidia-smi --id=0 --query-gpu=name,memory.total --format=csv,noheader,nounits | awk -F ', ' '{
  sub(/^NVIDIA /, "", $1); sub(/^(RTX|GeForce|Tesla) /, "", $1); sub(/[- ].*/, "", $1)
  printf "crysatom.dev/gpu=%s,crysatom.dev/gpu-memory=%.0fGB\n", $1, $2 / 1024
}'
