#!/usr/bin/env bash
# The labels of this host for `ray start --labels`: name and memory of its first GPU, as ray_cluster.yaml gives them to
# node types. "NVIDIA A100-SXM4-80GB, 81920" becomes crysatom.dev/gpu=A100,crysatom.dev/gpu-memory=80GB.
set -euo pipefail

command -v nvidia-smi > /dev/null || { echo "crysatom.dev/gpu=none"; exit; }
nvidia-smi --id=0 --query-gpu=name,memory.total --format=csv,noheader,nounits | awk -F ', ' '{
  sub(/^NVIDIA /, "", $1); sub(/^(RTX|GeForce|Tesla) /, "", $1); sub(/[- ].*/, "", $1)
  printf "crysatom.dev/gpu=%s,crysatom.dev/gpu-memory=%.0fGB\n", $1, $2 / 1024
}'
